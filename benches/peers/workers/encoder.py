"""A BERT encoder with random weights: encoder.py write FOLDER GEOMETRY, or encoder.py vectors FOLDER IDS-AS-JSON

`write` makes a checkpoint in f32 as sentence-transformers lays one out, the same bytes every time: the geometry of
all-MiniLM-L6-v2 or bge-small-en-v1.5, mean of the tokens, normalised. Its tokenizer knows the words t0, t1, ..
and adds nothing, so that a sentence has whichever ids are wanted. `vectors` computes texts in NumPy, in f64.
"""

import json
import math
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

GEOMETRIES = {"minilm": 6, "bge-small": 12}
HIDDEN, HEADS, WIDE, VOCABULARY, POSITIONS, EPS = 384, 12, 1536, 30522, 512, 1e-12
SEED = 20261128


def matrices(index: int) -> list:
    """(name, outputs, inputs) of a layer's matrices."""
    layer = f"encoder.layer.{index}"
    attention = [(f"{layer}.attention.self.{name}", HIDDEN, HIDDEN) for name in ("query", "key", "value")]
    return [
        *attention,
        (f"{layer}.attention.output.dense", HIDDEN, HIDDEN),
        (f"{layer}.intermediate.dense", WIDE, HIDDEN),
        (f"{layer}.output.dense", HIDDEN, WIDE),
    ]


def draw(layers: int) -> dict:
    """Every tensor by name: matrices that keep the size of what they read, norms near one, biases near nothing."""
    generator = np.random.default_rng(SEED)

    def normal(shape, deviation, mean=0.0):
        return (mean + deviation * generator.standard_normal(shape)).astype(np.float32)

    def norm(name):
        return {f"{name}.weight": normal(HIDDEN, 0.1, 1.0), f"{name}.bias": normal(HIDDEN, 0.05)}

    tensors = {
        f"embeddings.{name}_embeddings.weight": normal((rows, HIDDEN), 0.05)
        for name, rows in [("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)]
    }
    tensors |= norm("embeddings.LayerNorm")
    for index in range(layers):
        for name, rows, columns in matrices(index):
            tensors[f"{name}.weight"] = normal((rows, columns), 1 / math.sqrt(columns))
            tensors[f"{name}.bias"] = normal(rows, 0.02)
        for name in ("attention.output", "output"):
            tensors |= norm(f"encoder.layer.{index}.{name}.LayerNorm")
    return tensors


def safetensors(tensors: dict) -> bytes:
    entries, end = {}, 0
    for name, values in tensors.items():
        entries[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(values.tobytes() for values in tensors.values())


def write(folder: Path, layers: int) -> None:
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN,
        "intermediate_size": WIDE, "layer_norm_eps": EPS, "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS, "num_hidden_layers": layers, "pad_token_id": 0,
        "position_embedding_type": "absolute", "torch_dtype": "float32", "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
    }
    tokenizer = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(VOCABULARY)}, "unk_token": "t0"},
    }
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "1_Pooling").mkdir(parents=True)
    files = {"config": config, "tokenizer": tokenizer, "modules": modules, "1_Pooling/config": pooling}
    for name, value in files.items():
        (partial / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    (partial / "model.safetensors").write_bytes(safetensors(draw(layers)))
    partial.rename(folder)


class Checkpoint:
    """Tensors of `model.safetensors` by name, and the number of layers."""

    def __init__(self, folder: Path):
        self.layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
        data = np.memmap(folder / "model.safetensors", np.uint8, "r")
        (size,) = struct.unpack("<Q", data[:8].tobytes())
        self._entries = json.loads(data[8 : 8 + size].tobytes())
        self._data = data[8 + size :]

    def tensor(self, name: str) -> np.ndarray:
        begin, end = self._entries[name]["data_offsets"]
        return self._data[begin:end].view(np.float32).reshape(self._entries[name]["shape"])

    def qkv(self, index: int) -> tuple:
        """Weights `[3 * hidden, hidden]` and biases of queries, keys and values."""
        names = [name for name, _, _ in matrices(index)[:3]]
        return tuple(np.concatenate([self.tensor(f"{n}.{part}") for n in names]) for part in ("weight", "bias"))


def vectors(checkpoint: Checkpoint, ids: list) -> np.ndarray:
    """[batch, hidden] of texts of one length, normalised."""

    def tensor(name):
        return checkpoint.tensor(name).astype(np.float64)

    def linear(x, name):
        return x @ tensor(f"{name}.weight").T + tensor(f"{name}.bias")

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
        return scaled * tensor(f"{name}.weight") + tensor(f"{name}.bias")

    def heads(x):
        return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)

    ids = np.array(ids)
    x = tensor("embeddings.word_embeddings.weight")[ids]
    x = x + tensor("embeddings.position_embeddings.weight")[: ids.shape[1]]
    x = norm(x + tensor("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    erf = np.vectorize(math.erf)
    for index in range(checkpoint.layers):
        layer = f"encoder.layer.{index}"
        q, k, v = (heads(linear(x, f"{layer}.attention.self.{n}")) for n in ("query", "key", "value"))
        scores = np.exp(q @ k.swapaxes(2, 3) / math.sqrt(HIDDEN // HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
        mixed = linear(mixed, f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        wide = linear(x, f"{layer}.intermediate.dense")
        wide = wide * (1 + erf(wide / math.sqrt(2))) / 2
        x = norm(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def main() -> None:
    action, folder, argument = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if action == "write":
        write(folder, GEOMETRIES[argument])
    else:
        print(json.dumps(vectors(Checkpoint(folder), json.loads(argument)).tolist()))


if __name__ == "__main__":
    main()
