"""What a set of vectors is worth: the measures of the model's card, for any `embed(texts) -> [texts, D]`."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
GENSIM = "sources/gensim/gensim/test/test_data"


class Program:
    """`mlx-embed embed` as a function."""

    def __init__(self, binary: Path, model: Path, *options: str):
        self.command = [binary, "embed", "--quiet", "--model", model, *options]

    def embed(self, texts: list) -> np.ndarray:
        with tempfile.TemporaryDirectory() as temporary:
            lines, vectors = Path(temporary) / "texts.jsonl", Path(temporary) / "vectors.npy"
            lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
            subprocess.run([*self.command, "--input", lines, "--output", vectors], check=True)
            return np.load(vectors)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def pearson(a, b) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a, b) -> float:
    return pearson(ranks(np.asarray(a)), ranks(np.asarray(b)))


def word_pairs(path: Path) -> list:
    """`(word, word, human score)` of WordSim-353 or SimLex-999 in gensim's files."""
    pairs = []
    for line in path.read_text("utf-8").splitlines():
        fields = re.split(r"\t", line.strip())
        if line.startswith("#") or len(fields) != 3:
            continue
        try:
            pairs.append((fields[0], fields[1], float(fields[2])))
        except ValueError:
            continue  # the head line
    return pairs


def similarity_of_words(embed, path: Path) -> float:
    pairs = word_pairs(path)
    words = sorted({w for a, b, _ in pairs for w in (a, b)})
    vector = dict(zip(words, unit(embed(words))))
    return spearman([vector[a] @ vector[b] for a, b, _ in pairs], [score for *_, score in pairs])


def lee(embed, folder: Path) -> float:
    documents = [line for line in (folder / "lee.cor").read_text("latin-1").splitlines() if line.strip()]
    human = np.loadtxt(folder / "similarities0-1.txt")
    vectors = unit(embed(documents))
    upper = np.triu_indices(len(documents), 1)
    return pearson((vectors @ vectors.T)[upper], human[upper])


def recall_at_10(embed, held: dict) -> float:
    """The share of held-out glosses that find their word among the ten nearest of 10,000 words."""
    words, queries = held["candidates"], held["queries"]
    near = unit(embed([q["gloss"] for q in queries])) @ unit(embed(words)).T
    top = np.argpartition(-near, 10, axis=1)[:, :10]
    return float(np.mean([q["word"] in {words[i] for i in row} for q, row in zip(queries, top)]))


def triplets() -> list:
    lines = (REPOSITORY / "tests/semantics/triplets.tsv").read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def seed_cases(embed) -> dict:
    def cosine(a: str, b: str) -> float:
        x, y = unit(embed([a, b]))
        return round(float(x @ y), 4)

    mat = "The cat sat on the mat"
    return {
        "cat/dog": cosine("cat", "dog"),
        "cat/car": cosine("cat", "car"),
        "king/queen": cosine("king", "queen"),
        "king/apple": cosine("king", "apple"),
        "mat/rug": cosine(mat, "A feline rested on the rug"),
        "mat/stock market": cosine(mat, "The stock market crashed today"),
    }


def measure(embed, work: Path) -> dict:
    """All figures, and under `pairs` the pairwise cosines that agreement with another model is measured on."""
    held = json.loads((work / "corpus/heldout.json").read_text("utf-8"))
    pairs = {}
    everything = []
    for kind, texts in held["agreement"].items():
        vectors = unit(embed(texts))
        everything.append(vectors)
        pairs[kind] = (vectors @ vectors.T)[np.triu_indices(len(texts), 1)]
    vectors = np.concatenate(everything)
    pairs["both"] = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    right = 0
    for anchor, near, far in triplets():
        a, n, f = unit(embed([anchor, near, far]))
        right += bool(a @ n > a @ f)
    return {
        "WordSim-353": similarity_of_words(embed, work / GENSIM / "wordsim353.tsv"),
        "SimLex-999": similarity_of_words(embed, work / GENSIM / "simlex999.txt"),
        "Lee": lee(embed, work / GENSIM),
        "recall@10": recall_at_10(embed, held),
        "triplets": right,
        "seed": seed_cases(embed),
        "pairs": pairs,
    }


def agreement(a: dict, b: dict) -> dict:
    return {kind: pearson(a["pairs"][kind], b["pairs"][kind]) for kind in a["pairs"]}
