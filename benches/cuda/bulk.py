#!/usr/bin/env python3
"""How fast `embed` works off many texts on an NVIDIA GPU: bulk.py PROGRAM DIR [TEXTS [OPTION..]]. Needs numpy.

TEXTS (50,000) texts of 3 to 400 words, drawn from this repository's own, go from JSONL to a file of vectors. Prints the
tokens a second with the process's start and without, and what share that is of a single batch of 32x128's. Options go to
`embed`, such as --gpu=all."""

import json
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from memory import Model

ROOT = Path(__file__).resolve().parents[2]
BATCH, LENGTH, ROUNDS = 32, 128, 15


def write_texts(path: Path, texts: int) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    words = re.findall(r"[A-Za-z]{2,}", "".join(page.read_text() for page in pages))
    draw = random.Random(1)
    with open(path, "w") as file:
        for _ in range(texts):
            length = max(3, min(400, int(draw.lognormvariate(3.55, 0.8))))
            file.write(json.dumps({"text": " ".join(draw.choices(words, k=length))}) + "\n")


def tokens(path: Path) -> int:
    """Of all texts, as a result file tells them."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        start, end = json.loads(file.read(length))["tokens"]["data_offsets"]
        file.seek(8 + length + start)
        return int(np.frombuffer(file.read(end - start), np.uint32).sum())


def main() -> int:
    program, model, *more = sys.argv[1:]
    texts, options = int(more[0]) if more else 50_000, more[1:]
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "texts.jsonl", Path(folder) / "vectors.safetensors"
        embed = [program, "embed", "--quiet", "--model", model, "--device", "gpu", "--output", result,
                 "--format", "safetensors", *options]

        def seconds(texts: str) -> float:
            start = time.monotonic()
            subprocess.run([*embed, texts], check=True)
            return time.monotonic() - start

        write_texts(source, texts)
        seconds("a first text, for which kernels are compiled")
        start = min(seconds("one text") for _ in range(3))
        took = min(seconds(f"--input={source}") for _ in range(3))
        count = tokens(result)
    batch = Model(program, model)
    most = BATCH * LENGTH / statistics.median(batch.call(BATCH, LENGTH) for _ in range(ROUNDS)) * 1e3
    batch.end()
    print(f"{texts} texts of {count} tokens in {took:.2f} s, of which a process takes {start:.2f} to its first vector")
    for what, time_taken in (("all", took), ("without the start", took - start)):
        rate = count / time_taken
        print(f"{what}: {rate / 1e6:.3f} M tokens a second, {100 * rate / most:.0f} % of {BATCH}x{LENGTH}'s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
