"""Compares mlx-lm with transformers on torch, an oracle without MLX's kernels.

Dense cases are loaded by transformers itself; quantised ones as a dequantised copy, which checks
MLX's quantised matmul and gather. Needs the group `torch` of tools/pins. Writes
torch.json: for each case the largest difference of any component of the final hidden states, over
all texts, and the texts beyond 1e-4.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from mlx_lm.utils import dequantize_model, save_config, save_model

import checkpoint
import golden_file
import reference
import torch_reference
from cases import CASES, Case

LIMIT = 1e-4


def load_transformers(case: Case, folder: Path):
    with tempfile.TemporaryDirectory() as temporary:
        if case.quantization:
            save_model(temporary, dequantize_model(checkpoint.load(case, folder)))
            save_config(case.config(), Path(temporary) / "config.json")
            folder = temporary
        return torch_reference.load(folder)


def compare(case: Case, folder: Path) -> dict:
    ours, theirs = checkpoint.load(case, folder), load_transformers(case, folder)
    texts = golden_file.read(folder / "golden.safetensors")[0]["texts"]
    gaps = [
        float(np.abs(reference.hidden_states(ours, text["ids"])[-1]
                     - torch_reference.hidden_states(theirs, text["ids"])[-1]).max())
        for text in texts
    ]
    result = {"max_abs": float(f"{max(gaps):.2e}")}
    if result["max_abs"] > LIMIT:
        result["note"] = case.about
        beyond = {i: float(f"{gap:.2e}") for i, gap in enumerate(gaps) if gap > LIMIT}
        result["texts_beyond"] = beyond
    return result


def run(root: Path) -> int:
    cases = {case.name: compare(case, root / case.name) for case in CASES
             if case.torch or case.quantization}
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    report = {"command": "python make.py --check-torch", "versions": versions, "cases": cases}
    (root / "torch.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for name, result in cases.items():
        beyond = f"  texts beyond {LIMIT}: {result['texts_beyond']}" if "note" in result else ""
        print(f"{name:36} {result['max_abs']:.1e}{beyond}")
    return 0
