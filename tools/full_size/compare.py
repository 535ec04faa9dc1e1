"""Compares mlx-embed with mlx-lm in f32 on a checkpoint of full size.

    target/golden/bin/python tools/full_size/compare.py DIR

DIR as make_checkpoint.py writes it (or any Qwen3 or Qwen2 checkpoint with last-token pooling).
The Python is that of tests/golden/README.md. mlx-lm takes about 0.3 s a token on a CPU. Exits
with 1 if any text's token count differs, its cosine is below 0.99999 or a component is off by
more than 1e-4.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path += [str(ROOT / "tests/golden"), str(ROOT / "tools/golden")]

import reference  # noqa: E402
import tokenizer  # noqa: E402

MIN_COSINE = 0.99999
MAX_ABS = 1e-4


def mlx_lm_vectors(folder: Path, texts: list[str]) -> list[tuple[int, np.ndarray]]:
    """(tokens, unit vector) of each text, alone and in f32."""
    model, found = reference.load(folder), []
    for i, text in enumerate(texts):
        ids = tokenizer.encode(folder, text)
        print(f"mlx-lm: text {i + 1} of {len(texts)}, {len(ids)} tokens", file=sys.stderr)
        final = reference.hidden_states(model, ids)[-1]
        found.append((len(ids), reference.pool("last-token", final)))
    return found


def mlx_embed_vectors(binary: Path, folder: Path, texts: list[str]) -> list:
    """The same from `mlx-embed embed`, all texts in one call."""
    with tempfile.TemporaryDirectory() as temporary:
        source, result = Path(temporary) / "texts.txt", Path(temporary) / "vectors.jsonl"
        source.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        command = [binary, "embed", "--model", folder, "--input", source, "--output", result]
        subprocess.run(command, check=True)
        rows = [json.loads(line) for line in result.read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: row["index"])
    return [(row["tokens"], np.array(row["embedding"])) for row in rows]


def compare(texts: list[str], expected: list, found: list) -> bool:
    """Prints a line a text; whether all of them are within the limits."""
    print(f"{'tokens':>6} {'cosine':>11} {'max abs':>9}  text")
    passed = len(found) == len(expected)
    for text, (tokens, wanted), (tokens_found, vector) in zip(
        texts, expected, found, strict=False
    ):
        if tokens != tokens_found or wanted.shape != vector.shape:
            print(f"mlx-lm: {tokens} tokens, {wanted.shape}; "
                  f"mlx-embed: {tokens_found} tokens, {vector.shape}  {text}")
            passed = False
            continue
        wanted = wanted.astype(np.float64)
        cosine = wanted @ vector / (np.linalg.norm(wanted) * np.linalg.norm(vector))
        max_abs = np.abs(wanted - vector).max()
        passed = passed and bool(cosine >= MIN_COSINE and max_abs <= MAX_ABS)  # a NaN fails
        print(f"{tokens:6} {cosine:11.8f} {max_abs:9.1e}  {text[:60]}")
    print("passed" if passed else f"FAILED (wanted cosine >= {MIN_COSINE}, max abs <= {MAX_ABS})")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the checkpoint")
    parser.add_argument("--sentences", type=Path, default=HERE / "sentences.txt",
                        help="one text a line (default: %(default)s)")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/mlx-embed",
                        help="mlx-embed (default: %(default)s)")
    options = parser.parse_args()
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not there: cargo build --release -p mlx-embed-cli")
    texts = options.sentences.read_text("utf-8").splitlines()
    found = mlx_embed_vectors(options.binary, options.dir, texts)
    expected = mlx_lm_vectors(options.dir, texts)
    return 0 if compare(texts, expected, found) else 1


if __name__ == "__main__":
    sys.exit(main())
