"""Writes a trained student as a checkpoint directory, as MLX's own tools would."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import affine
from bpe import END
from student import Config

MODULES = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def tensors(state: dict, quantised: bool) -> dict:
    """Matrices in 4 bits and vectors in f16; without quantisation everything in f16."""
    out = {}
    for name, weight in state.items():
        name, weight = f"model.{name}", weight.detach().cpu().float()
        if weight.dim() == 1 or not quantised:
            out[name] = weight.half()
        else:
            numbers, scales, biases = affine.quantise(weight)
            path = name.removesuffix(".weight")
            out[name] = affine.pack(numbers)
            out[f"{path}.scales"], out[f"{path}.biases"] = scales, biases
    return out


def export(run: Path, tokenizer: Path, folder: Path, quantised: bool) -> None:
    saved = torch.load(run, map_location="cpu", weights_only=True)
    c = Config(**saved["config"])
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    save_file(tensors(saved["model"], quantised), folder / "model.safetensors", {"format": "mlx"})
    shutil.copy(tokenizer, folder / "tokenizer.json")
    end = next(t["id"] for t in json.loads(tokenizer.read_text("utf-8"))["added_tokens"] if t["content"] == END)
    config = {
        "architectures": ["Qwen3Model"],
        "attention_bias": False,
        "eos_token_id": end,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_position_embeddings,
        "model_type": "qwen3",
        "num_attention_heads": c.num_attention_heads,
        "num_hidden_layers": c.num_hidden_layers,
        "num_key_value_heads": c.num_key_value_heads,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": c.vocab_size,
    }
    if quantised:
        config["quantization"] = {"group_size": affine.GROUP, "bits": affine.BITS}
    write_json(folder / "config.json", config)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END,
         "model_max_length": c.max_position_embeddings, "clean_up_tokenization_spaces": False},
    )  # fmt: skip
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
         for i, (path, kind) in enumerate(MODULES)],
    )  # fmt: skip
    write_json(
        folder / "1_Pooling/config.json",
        {"word_embedding_dimension": c.hidden_size, "pooling_mode_cls_token": False,
         "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
         "pooling_mode_mean_sqrt_len_tokens": False, "pooling_mode_weightedmean_tokens": False,
         "pooling_mode_lasttoken": False, "include_prompt": True},
    )  # fmt: skip
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": c.max_position_embeddings, "do_lower_case": False})
