"""Writes what mlx-lm computes in f32 on texts.py, each text alone, to a JSON file.

    python reference.py DIR FILE

For each text its token ids and three unit vectors: `end`, the hidden state of the <|endoftext|>
that mlx-embed appends for last-token pooling, `last`, that of the text's own last token, and
`mean` of the text's own tokens. Scales and biases are cast to f32 too, as everywhere here.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

from texts import TEXTS

END = "<|endoftext|>"
PACKAGES = ("mlx", "mlx-lm", "tokenizers", "numpy")


def unit(vector: np.ndarray) -> list[float]:
    """Normalised in f64; nine digits hold every f32."""
    vector = vector / max(np.linalg.norm(vector), 1e-12)
    return [float(f"{value:.9g}") for value in vector]


def entry(model, tokenizer: Tokenizer, text: str) -> dict:
    ids = tokenizer.encode(text).ids
    # Causal: the end token behind a text changes nothing before it.
    final = model.model(mx.array([[*ids, tokenizer.token_to_id(END)]]))[0]
    if final.dtype != mx.float32:
        raise TypeError(f"hidden states in {final.dtype}")
    final = np.array(final).astype(np.float64)
    return {"text": text, "ids": ids, "end": unit(final[-1]), "last": unit(final[-2]),
            "mean": unit(final[:-1].mean(0))}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the checkpoint")
    parser.add_argument("file", type=Path, help="the file to write")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    model, _ = load_model(options.dir)
    model.set_dtype(mx.float32)
    tokenizer = Tokenizer.from_file(str(options.dir / "tokenizer.json"))
    entries = []
    for i, text in enumerate(TEXTS):
        entries.append(entry(model, tokenizer, text))
        print(f"mlx-lm: text {i + 1} of {len(TEXTS)}, {len(entries[-1]['ids'])} tokens",
              file=sys.stderr)
    reference = {
        "about": "mlx-lm in f32 on the CPU, each text alone",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "end_token": END,
        "texts": entries,
    }
    options.file.write_text(json.dumps(reference, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
