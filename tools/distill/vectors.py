"""Every training text as the student's tokens, with the teacher's vector.

WORK/vectors/ids.npy i16 flat, starts.npy i64 [N + 1], teacher.npy f16 [N, 384], weight.npy u8 [N] (how often a text
is seen in one pass), centre.npy i16 [N] (the nearest of the teacher's cluster centres), summary.json.
"""

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from augment import augment
from corpus import SEED
from teacher import Teacher

MAX_TOKENS, CENTRES = 256, 1024


def build(work: Path, made: int, device: str) -> None:
    folder = work / "vectors"
    if folder.exists():
        return
    began = time.time()
    texts = augment(work, made)
    print(f"{len(texts)} texts after {time.time() - began:.0f} s", flush=True)
    partial = work / "vectors.partial"
    partial.mkdir(exist_ok=True)
    common = set(json.loads((work / "corpus/grammar.json").read_text("utf-8"))["common"])
    weight = [4 if text in common else 2 if kind in ("word", "phrase") else 1 for kind, text in texts]
    np.save(partial / "weight.npy", np.array(weight, np.uint8))
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    parts, starts = [], [0]
    for start in range(0, len(texts), 65_536):
        for encoding in tokenizer.encode_batch_fast([text for _, text in texts[start : start + 65_536]]):
            parts.append(np.array(encoding.ids, np.int16))
            starts.append(starts[-1] + len(parts[-1]))
    np.save(partial / "ids.npy", np.concatenate(parts))
    np.save(partial / "starts.npy", np.array(starts))
    print(f"{starts[-1]} tokens after {time.time() - began:.0f} s", flush=True)
    vectors = Teacher(work, device).embed([text for _, text in texts])
    np.save(partial / "teacher.npy", vectors)
    print(f"teacher's vectors after {time.time() - began:.0f} s", flush=True)
    np.save(partial / "centre.npy", nearest_centres(vectors, device))
    kinds = Counter(kind for kind, _ in texts)
    summary = {"texts": len(texts), "tokens": starts[-1], "kinds": dict(kinds.most_common()),
               "seconds": round(time.time() - began)}  # fmt: skip
    (partial / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    os.rename(partial, folder)
    print(json.dumps(summary), flush=True)


@torch.no_grad()
def nearest_centres(vectors: np.ndarray, device: str) -> np.ndarray:
    """A few rounds of k-means on a sample, then every text's nearest centre."""
    rng = np.random.default_rng(SEED)
    sample = torch.from_numpy(vectors[rng.choice(len(vectors), min(200_000, len(vectors)), replace=False)])
    sample = sample.to(device).float()
    centres = sample[:CENTRES].clone()
    for _ in range(8):
        nearest = (sample @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        centres = torch.nn.functional.normalize(sums + 1e-6 * centres, dim=-1)
    found = []
    for start in range(0, len(vectors), 262_144):
        part = torch.from_numpy(vectors[start : start + 262_144]).to(device).float()
        found.append((part @ centres.T).argmax(1).to(torch.int16).cpu())
    return torch.cat(found).numpy()
