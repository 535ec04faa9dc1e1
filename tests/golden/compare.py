"""What differs between committed cases and fresh ones."""

from pathlib import Path

import numpy as np

import golden_file

GOLDEN = "golden.safetensors"


def differences(committed: Path, fresh: Path) -> list[str]:
    """What differs between two folders: floats of the reference may by 2e-5, nothing else may."""
    found = []
    names = {p.relative_to(r) for r in (committed, fresh) for p in r.rglob("*") if p.is_file()}
    for name in sorted(names):
        old, new = committed / name, fresh / name
        if not (old.exists() and new.exists()):
            found.append(f"{name}: only in {committed if old.exists() else fresh}")
        elif name.name == GOLDEN:
            (a, old_tensors), (b, new_tensors) = golden_file.read(old), golden_file.read(new)
            same = a | {"versions": None} == b | {"versions": None}
            found += [] if same else [f"{name}: says something else"]
            found += tensor_differences(name, old_tensors, new_tensors)
        elif old.read_bytes() != new.read_bytes():
            found.append(f"{name}: differs")
    return found


def tensor_differences(name: Path, old: dict, new: dict) -> list[str]:
    if old.keys() != new.keys():
        return [f"{name}: other tensors"]
    return [
        f"{name}: {key} is off by {np.abs(old[key] - new[key]).max():.2e}"
        for key in old
        if old[key].shape != new[key].shape
        or not np.allclose(old[key], new[key], rtol=0, atol=2e-5)
    ]
