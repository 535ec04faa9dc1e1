"""all-MiniLM-L6-v2 in mlx-embed beside sentence-transformers: figures, vectors, layers.

    python compare.py DIR [--binary FILE] [--precision exact|fast] [--device cpu|gpu]
    python compare.py DIR --record

The first prints mlx-embed's figures beside those of reference.json and exits with 1 if one differs
by more than 0.0001. `--record` makes reference.json, with sentence-transformers on torch in f32.
README.md has the Python for each. DIR takes the downloads; what is there already is kept.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tools/distill"))

import fetch  # noqa: E402
import measures  # noqa: E402

REFERENCE = HERE / "reference.json"
DATA = "gensim/gensim/test/test_data"
CLOSE = 1.0001e-4  # cosines are rounded to four digits, and may be so to either side
VERSIONS = ("sentence-transformers", "transformers", "torch", "tokenizers")


class Reference:
    """sentence-transformers in f32 on the CPU."""

    def __init__(self, model: Path):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)  # two threads that wait for each other take longer on a busy machine
        options = {"dtype": torch.float32}
        self.model = SentenceTransformer(str(model), device="cpu", local_files_only=True,
                                         model_kwargs=options)

    def embed(self, texts: list[str]) -> np.ndarray:
        return self.model.encode(texts, batch_size=16, show_progress_bar=False)


def figures(embed, sources: Path) -> dict:
    data = sources / DATA
    found = {
        "WordSim-353": measures.similarity_of_words(embed, data / "wordsim353.tsv"),
        "SimLex-999": measures.similarity_of_words(embed, data / "simlex999.txt"),
        "Lee": measures.lee(embed, data),
    }
    return found | {f"cosine {pair}": value for pair, value in measures.seed_cases(embed).items()}


def record(sources: Path) -> int:
    model = sources / fetch.MINILM
    found = figures(Reference(model).embed, sources)
    value = {
        "command": "python tools/minilm/compare.py DIR --record",
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "figures": {name: round(figure, 6) for name, figure in found.items()},
    }
    REFERENCE.write_text(json.dumps(value, indent=2) + "\n")
    print(REFERENCE.read_text(), end="")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="DIR")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/mlx-embed")
    parser.add_argument("--precision", default="exact", choices=["exact", "fast"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    sources = fetch.minilm(options.work)
    if options.record:
        return record(sources)
    arguments = ["--precision", options.precision, "--device", options.device]
    program = measures.Program(options.binary, sources / fetch.MINILM, *arguments)
    ours = figures(program.embed, sources)
    theirs = json.loads(REFERENCE.read_text("utf-8"))["figures"]
    print("| | sentence-transformers | mlx-embed |\n| --- | ---: | ---: |")
    far = [name for name in theirs if abs(ours[name] - theirs[name]) > CLOSE]
    for name, figure in theirs.items():
        print(f"| {name} | {figure:.4f} | {ours[name]:.4f} |{' differs' if name in far else ''}")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
