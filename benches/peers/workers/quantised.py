"""Writes a decoder in one of MLX's quantisations: quantised.py FOLDER KIND

KIND is a mode and its bits (affine-2 to affine-8, mxfp4-4, mxfp8-8, nvfp4-4) or a type (bf16, f16, f32). Four layers of
Qwen3-Embedding-0.6B's geometry with random weights, the same for every kind, and a vocabulary of a thousand words.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import mlx.core as mx

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE, LAYERS, VOCABULARY = 1024, 16, 8, 128, 3072, 4, 1024
GROUPS = {"affine": 64, "mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
DENSE = {"bf16": mx.bfloat16, "f16": mx.float16, "f32": mx.float32}
SEED = 20261128


def shapes():
    """(path, outputs, inputs) of every matrix."""
    yield "model.embed_tokens", VOCABULARY, HIDDEN
    for layer in (f"model.layers.{index}" for index in range(LAYERS)):
        for name, rows in [("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", KV_HEADS)]:
            yield f"{layer}.self_attn.{name}", rows * HEAD_DIM, HIDDEN
        yield f"{layer}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM
        yield f"{layer}.mlp.gate_proj", WIDE, HIDDEN
        yield f"{layer}.mlp.up_proj", WIDE, HIDDEN
        yield f"{layer}.mlp.down_proj", HIDDEN, WIDE


def tensors(kind: str, quantization: dict | None) -> dict:
    mx.random.seed(SEED)
    dtype = DENSE.get(kind, mx.bfloat16)
    found = {}
    for path, rows, columns in shapes():
        values = (mx.random.normal((rows, columns)) / math.sqrt(columns)).astype(dtype)
        if quantization is None:
            found[f"{path}.weight"] = values
            continue
        parts = zip(("weight", "scales", "biases"), mx.quantize(values, **quantization))
        found |= {f"{path}.{part}": array for part, array in parts}
    norms = ["model.norm"]
    for layer in (f"model.layers.{index}" for index in range(LAYERS)):
        norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
        found |= {f"{layer}.self_attn.{name}.weight": mx.ones(HEAD_DIM, dtype) for name in ("q_norm", "k_norm")}
    return found | {f"{norm}.weight": mx.ones(HIDDEN, dtype) for norm in norms}


def config(quantization: dict | None) -> dict:
    found = {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": WIDE, "max_position_embeddings": 32768, "model_type": "qwen3",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000, "tie_word_embeddings": True, "use_sliding_window": False,
        "vocab_size": VOCABULARY, "eos_token_id": 0,
    }
    return found | ({"quantization": quantization} if quantization else {})


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    quantization = None
    if kind not in DENSE:
        mode, bits = kind.split("-")
        quantization = {"group_size": GROUPS[mode], "bits": int(bits), "mode": mode}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(VOCABULARY)}, "unk_token": "t0"},
    }
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    mx.save_safetensors(str(partial / "model.safetensors"), tensors(kind, quantization), {"format": "mlx"})
    # Else the family's own class would build another tokenizer.
    own = {"tokenizer_class": "TokenizersBackend"}
    for name, value in {"config": config(quantization), "tokenizer": tokenizer, "tokenizer_config": own}.items():
        (partial / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    partial.rename(folder)


if __name__ == "__main__":
    main()
