"""Compares the vectors of mlx-embed with those that reference.py wrote.

    python compare.py DIR FILE [--precision exact|fast] [--min-cosine C] [--max-abs A]

Runs `mlx-embed embed` three times over the texts in FILE: last-token pooling as it is by default
(with <|endoftext|> behind the text), without the end token, and mean pooling. Prints the lowest
and the mean cosine and the largest difference of a component. Exits with 1 if a text's token
count differs, if a vector is not finite, or beyond the given limits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WAYS = {  # name in FILE: (options, tokens beyond the text's own)
    "end": (["--pooling", "last-token"], 1),
    "last": (["--pooling", "last-token", "--end-token", "tokenizer"], 0),
    "mean": (["--pooling", "mean"], 0),
}


def embed(options: argparse.Namespace, texts: list[str], arguments: list[str]) -> list[dict]:
    """The rows that mlx-embed writes, in the order of the texts."""
    command = [options.binary, "embed", "--quiet", "--model", options.dir, *arguments]
    command += ["--device", options.device]
    if options.precision:
        command += ["--precision", options.precision]
    if options.threads:
        command += ["--threads", str(options.threads)]
    with tempfile.TemporaryDirectory() as temporary:
        source, result = Path(temporary) / "texts.jsonl", Path(temporary) / "vectors.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        subprocess.run([*command, "--input", source, "--output", result], check=True)
        rows = [json.loads(line) for line in result.read_text("utf-8").splitlines()]
    if len(rows) != len(texts):
        sys.exit(f"{len(rows)} vectors for {len(texts)} texts")
    return sorted(rows, key=lambda row: row["index"])


def compare(wanted: list[dict], found: list[dict], way: str) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and largest difference of each text."""
    a = np.array([entry[way] for entry in wanted])
    b = np.array([row["embedding"] for row in found])
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / norms, np.abs(a - b).max(axis=1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the checkpoint")
    parser.add_argument("file", type=Path, help="what reference.py wrote for it")
    parser.add_argument("--precision", help="handed on to mlx-embed")
    parser.add_argument("--device", default="cpu", help="the same (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="the same")
    parser.add_argument("--min-cosine", type=float, default=-1, metavar="C")
    parser.add_argument("--max-abs", type=float, default=np.inf, metavar="A")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/mlx-embed",
                        help="mlx-embed (default: %(default)s)")
    parser.add_argument("--each", action="store_true", help="a line for each text too")
    options = parser.parse_args()
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not there: cargo build --release -p mlx-embed-cli")
    wanted = json.loads(options.file.read_text("utf-8"))["texts"]
    texts = [entry["text"] for entry in wanted]
    passed = True
    print(f"{'':6} {'lowest cosine':>14} {'mean cosine':>12} {'max abs':>9}")
    for way, (arguments, more) in WAYS.items():
        found = embed(options, texts, arguments)
        counts = [(len(entry["ids"]) + more, row["tokens"])
                  for entry, row in zip(wanted, found, strict=True)]
        cosines, differences = compare(wanted, found, way)
        lowest, largest = cosines.min(), differences.max()  # a NaN comes through, and fails
        passed &= bool(lowest >= options.min_cosine and largest <= options.max_abs)
        print(f"{way:6} {lowest:14.9f} {cosines.mean():12.9f} {largest:9.1e}")
        for text, (expected, tokens), cosine in zip(texts, counts, cosines, strict=True):
            if expected != tokens:
                passed = False
                print(f"  {expected} tokens expected, {tokens} found: {text[:60]!r}")
            if options.each:
                print(f"  {tokens:4} {cosine:.9f} {text[:60]!r}")
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
