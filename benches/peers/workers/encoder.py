"""An encoder with random weights: encoder.py write FOLDER GEOMETRY, or encoder.py vectors FOLDER IDS-AS-JSON

`write` makes a checkpoint in f32 as sentence-transformers lays one out, the same bytes every time: mean of the tokens,
normalised. Its tokenizer knows the words t0, t1, .. and adds nothing, so that a sentence has whichever ids are wanted.
`vectors` computes texts in NumPy, in f64: {"mean": [..], "first": [..]}, the second from the first token's state alone.

A family is a module here: its `config`, its tensors (`draw`), the sizes of the Dense modules behind pooling, and `hidden`,
the states of texts.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

import bert
import gemma

FAMILIES = {"bert": bert, "gemma3_text": gemma}
GEOMETRIES = {
    "minilm": lambda: bert.config(layers=6),
    "bge-small": lambda: bert.config(layers=12),
    "embeddinggemma": gemma.config,
}
SEED = 20261128


class Generator:
    """Draws tensors in f32, the same ones every time."""

    def __init__(self):
        self._generator = np.random.default_rng(SEED)

    def normal(self, shape, deviation: float, mean: float = 0.0) -> np.ndarray:
        return (mean + deviation * self._generator.standard_normal(shape)).astype(np.float32)

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        """A matrix that keeps the size of what it is multiplied with."""
        return self.normal((rows, columns), columns**-0.5)


def write_safetensors(path: Path, tensors: dict) -> None:
    entries, end = {}, 0
    for name, values in tensors.items():
        entries[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for values in tensors.values():
            values.tofile(file)


def write(folder: Path, config: dict) -> None:
    family, hidden, generator = FAMILIES[config["model_type"]], config["hidden_size"], Generator()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    files = {
        "config": config,
        "tokenizer": {
            "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(config["vocab_size"])}, "unk_token": "t0"},
        },
        # Else the family's own class would build another.
        "tokenizer_config": {"tokenizer_class": "TokenizersBackend"},
        "1_Pooling/config": {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
    }
    weights = {"": family.draw(config, generator)}
    for number, (inputs, outputs) in enumerate(family.DENSE, 2):
        path = f"{number}_Dense"
        modules.append((path, "Dense"))
        files[f"{path}/config"] = {
            "in_features": inputs, "out_features": outputs, "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        weights[path] = {"linear.weight": generator.matrix(outputs, inputs)}
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    files["modules"] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    for name, value in files.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    for path, tensors in weights.items():
        write_safetensors(partial / path / "model.safetensors", tensors)
    partial.rename(folder)


class Checkpoint:
    """A checkpoint in f32: `config`, and tensors by name; those of a Dense module are `2_Dense.linear.weight`, .."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text())
        self.family = FAMILIES[self.config["model_type"]]
        self._tensors = {}
        for path in sorted(folder.glob("**/model.safetensors")):
            prefix = "" if path.parent == folder else f"{path.parent.name}."
            data = np.memmap(path, np.uint8, "r")
            (size,) = struct.unpack("<Q", data[:8].tobytes())
            for name, entry in json.loads(data[8 : 8 + size].tobytes()).items():
                if entry.get("dtype") == "F32":  # not the file's own notes, or positions
                    begin, end = (8 + size + offset for offset in entry["data_offsets"])
                    self._tensors[prefix + name] = data[begin:end].view(np.float32).reshape(entry["shape"])

    def tensor(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def dense(self) -> list:
        """Names of the matrices behind pooling."""
        return [f"{number}_Dense.linear.weight" for number in range(2, 2 + len(self.family.DENSE))]


def vectors(checkpoint: Checkpoint, ids: list) -> dict:
    """[batch, width] of texts of one length, normalised, by what was pooled."""
    hidden = checkpoint.family.hidden(checkpoint, np.array(ids))
    found = {}
    for name, pooled in [("mean", hidden.mean(1)), ("first", hidden[:, 0])]:
        for dense in checkpoint.dense():
            pooled = pooled @ checkpoint.tensor(dense).T.astype(np.float64)
        found[name] = (pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)).tolist()
    return found


def main() -> None:
    action, folder, argument = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if action == "write":
        write(folder, GEOMETRIES[argument]())
    else:
        print(json.dumps(vectors(Checkpoint(folder), json.loads(argument))))


if __name__ == "__main__":
    main()
