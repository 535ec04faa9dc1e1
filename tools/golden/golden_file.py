"""The form of a golden file. README.md says what is in it, and why."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

import reference

VERSION = 1
DIRECTIONS = 16
SEED = 20261125


def directions(hidden_size: int) -> np.ndarray:
    """[16, hidden] of +-1/4: rows keep a state's length on average, and that of its largest
    component exactly."""
    signs = np.random.default_rng(SEED).integers(0, 2, (DIRECTIONS, hidden_size)) * 2 - 1
    return (signs / np.sqrt(DIRECTIONS)).astype(np.float32)


class Golden:
    """Collects texts and what the reference computes on them."""

    def __init__(self, poolings: tuple[str, ...]):
        self.poolings = poolings
        self.texts: list[dict] = []
        self.tensors: dict[str, np.ndarray] = {}

    def add(self, entry: dict, states: np.ndarray, rows: list[int], sketched: bool) -> None:
        """`entry` has text, prompt_name, prompt and ids; `states` are [layers + 2, tokens, hidden].

        Whole states are kept of the tokens in `rows`, projections of all if `sketched`.
        """
        i, hidden_size = len(self.texts), states.shape[2]
        self.texts.append(entry | {"rows": rows})
        pooled = [reference.pool(pooling, states[-1]) for pooling in self.poolings]
        self.tensors[f"embedding.{i}"] = np.stack(pooled)
        if rows:
            self.tensors[f"hidden.{i}"] = np.ascontiguousarray(states[:, rows], np.float32)
        if sketched:
            self.tensors["directions"] = directions(hidden_size)
            projected = states.astype(np.float64) @ self.tensors["directions"].T.astype(np.float64)
            self.tensors[f"sketch.{i}"] = projected.astype(np.float32)
        self.states, self.hidden_size = states.shape[0], hidden_size

    def write(self, file: Path, folder: Path, source: dict, packages: tuple[str, ...]) -> None:
        """`source` says where it comes from: about, command, reference."""
        config = json.loads((folder / "config.json").read_text("utf-8"))
        facts = {"version": VERSION} | source | {
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "model": {
                "layers": self.states - 2,
                "hidden_size": self.hidden_size,
                "vocab_size": config["vocab_size"],
            },
            "weights_sha256": weights_sha256(folder),
            "poolings": list(self.poolings),
            "texts": self.texts,
        }
        text = json.dumps(facts, ensure_ascii=False)
        save_file(self.tensors, file, metadata={"golden": text})


def weights_sha256(folder: Path) -> dict[str, str]:
    """Of each weights file, by name."""
    hashes = {}
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    for file in files:
        with file.open("rb") as opened:
            hashes[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashes


def read(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """What the file says of itself, and its tensors."""
    with safe_open(file, framework="numpy") as opened:
        facts = json.loads(opened.metadata()["golden"])
        return facts, {name: opened.get_tensor(name) for name in opened.keys()}
