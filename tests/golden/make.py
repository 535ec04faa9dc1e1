"""Makes the golden checkpoints and what mlx-lm computes on them. See README.md.

make.py [CASE ...]      (re)makes these cases, or all of them and the tokenizers
make.py --check         makes everything again in a temporary folder and compares
make.py --check-torch   compares the dense cases with transformers; writes torch.json
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import importlib.metadata
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors.numpy import load_file, save_file

import checkpoint
import reference
import tokenizer
from cases import CASES, TEXTS, Case

HERE = Path(__file__).resolve().parent
PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "safetensors")


def prompted_texts(case: Case) -> list[dict]:
    """Every text without a prompt, then with each of the case's prompts."""
    names = [None, *case.prompts]
    return [
        {"text": text, "prompt_name": name, "prompt": case.prompts.get(name, "")}
        for name in names
        for text in TEXTS
    ]


def make_case(case: Case, root: Path) -> None:
    folder = root / case.name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.write(case, folder)
    model = reference.load(case, folder)
    tokens = folder if case.checkpoint else root / case.tokenizer
    texts, tensors = prompted_texts(case), {}
    for i, entry in enumerate(texts):
        entry["ids"] = tokenizer.encode(tokens, entry["prompt"] + entry["text"])
        entry["hidden"] = i in case.hidden
        states = reference.hidden_states(model, entry["ids"])
        assert np.array_equal(states[-1], reference.own_final(model, entry["ids"]))
        if entry["hidden"]:
            tensors[f"hidden.{i}"] = states
        tensors[f"embedding.{i}"] = reference.pool(case.pooling, states[-1])
    save_file(tensors, folder / "golden.safetensors")
    golden = {
        "case": case.name,
        "about": case.about,
        "command": f"python make.py {case.name}",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "reference": "mlx-lm in f32 on the CPU, each text alone",
        "dtype": case.dtype,
        "pooling": case.pooling,
        "normalize": True,
        "texts": texts,
    }
    text = json.dumps(golden, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\d,\s]+\]", lambda ids: "".join(ids[0].split()), text)  # ids on one line
    (folder / "golden.json").write_text(text + "\n", encoding="utf-8")


def make(cases: list[Case], root: Path) -> None:
    tokenizer.write(root)
    for case in cases:
        make_case(case, root)
        size = sum(f.stat().st_size for f in (root / case.name).iterdir() if not f.is_symlink())
        print(f"{case.name:42} {size / 1024:7.0f} KiB", flush=True)


def differences(committed: Path, fresh: Path) -> list[str]:
    """What differs between two folders: floats of the reference may by 2e-5, nothing else may."""
    found = []
    names = {p.relative_to(r) for r in (committed, fresh) for p in r.rglob("*") if p.is_file()}
    for name in sorted(names):
        old, new = committed / name, fresh / name
        if not (old.exists() and new.exists()):
            found.append(f"{name}: only in {committed if old.exists() else fresh}")
        elif name.name == "golden.safetensors":
            found += tensor_differences(name, load_file(old), load_file(new))
        elif name.name == "golden.json":
            a, b = (json.loads(p.read_text("utf-8")) | {"versions": None} for p in (old, new))
            found += [f"{name}: differs"] if a != b else []
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


def check() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        make(CASES, Path(temporary))
        found = []
        for name in ["tokenizer", "tokenizer-plain", *(case.name for case in CASES)]:
            found += [f"{name}/{d}" for d in differences(HERE / name, Path(temporary) / name)]
    print("\n".join(found) or f"{len(CASES)} cases are as committed")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--check-torch", action="store_true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    if options.check:
        return check()
    if options.check_torch:
        import torch_check

        return torch_check.run(HERE)
    unknown = set(options.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    make([case for case in CASES if not options.cases or case.name in options.cases], HERE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
