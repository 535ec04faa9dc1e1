"""What sentence-transformers and model2vec compute of static embeddings: static-embeddings/ has a folder a case.

static_embeddings.py          makes all cases again
static_embeddings.py --check  makes them in a temporary folder and compares

Each library writes its checkpoints itself, and computes their vectors in f32. expected.json has token ids and vectors.
Where model2vec is the reference, sentence-transformers reads the same folder, and its vectors have to be the same for
every text on which the two libraries do not disagree: those without unknown tokens that are not cut. README.md says what
to install.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from model2vec import StaticModel
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE / "static-embeddings"
TOKENIZERS = HERE / "families/tokenizers"
WIDTH = 32
CLOSE = 2e-6
PACKAGES = ("model2vec", "numpy", "safetensors", "sentence-transformers", "tokenizers", "torch")
# Nothing, blanks, what no vocabulary has, emoji beside words, more than 512 tokens, and of few tokens more characters
# than 512 would have.
TEXTS = (
    "The cat sat on the mat.", "cat", "", " \n", "\u6771\u4eac", "\U0001f42d \U0001f431", "a \u6771 cat \U0001f431 on a mat",
    "[CLS] the [SEP] [UNK] <unk> cat </s>", "the garden in the morning " * 120, "sleeping " * 900,
    "\u6771" * 600 + " the cat", " " * 3000 + "the cat sat",
)


def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZERS / name / "tokenizer.json"))


def table(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng([20261130, seed, rows]).standard_normal((rows, WIDTH)).astype(np.float32)


def static_embedding(name: str, seed: int) -> StaticEmbedding:
    read = tokenizer(name)
    return StaticEmbedding(read, embedding_weights=table(read.get_vocab_size(), seed))


def in_folder(folder: Path) -> None:
    """As version 3 of sentence-transformers saves one, whose tokenizer.json puts tokens around texts."""
    model = static_embedding("wordpiece", 1)
    inside = folder / "0_StaticEmbedding"
    inside.mkdir(parents=True)
    model.save(str(inside))
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": inside.name,
                                     "type": "sentence_transformers.models.StaticEmbedding"}])
    write(folder / "config_sentence_transformers.json", {
        "prompts": {"query": "the garden: ", "document": ""}, "default_prompt_name": None,
        "similarity_fn_name": "cosine"})


def whole(folder: Path) -> None:
    """As version 6 saves it: the tokenizer cuts texts after 16 tokens, and a Dense follows, whose bias an empty text has."""
    torch.manual_seed(1)
    dense = Dense(WIDTH, 24, bias=True, activation_function=torch.nn.Tanh())
    modules = [static_embedding("wordpiece-padded", 2), dense, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def folded(folder: Path) -> None:
    """model2vec's tensors without its config.json, which sentence-transformers reads, too."""
    of_model2vec("unigram", 3, mapped=(np.int64, np.float32), normalize=True)(folder)
    (folder / "config.json").unlink()


def of_model2vec(name: str, seed: int, mapped: tuple = (), dtype=np.float32, **fields) -> Callable[[Path], None]:
    """As model2vec saves it. `mapped` are the types of what it has beside a vocabulary's table that it made smaller."""
    def make(folder: Path) -> None:
        read = tokenizer(name)
        count = read.get_vocab_size()
        rows = 20 if mapped else count
        vectors = table(rows, seed)
        if dtype == np.int8:
            vectors = np.clip(np.rint(vectors * 40), -127, 127)
        beside = {}
        if mapped:
            rng = np.random.default_rng(seed)
            beside = {"token_mapping": rng.integers(0, rows, count).astype(mapped[0]),
                      "weights": rng.uniform(0.1, 2.0, count).astype(mapped[1])}
        config = {"model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "a/model",
                  "apply_pca": WIDTH, "sif_coefficient": 1e-4, "hidden_dim": WIDTH, "seq_length": 1000000,
                  "pooling": "mean"}
        model = StaticModel(vectors.astype(dtype), read, config=config, **beside, **fields)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
    return make


def write(file: Path, value: dict | list) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False) + "\n")


class OfSentenceTransformers:
    name = "sentence-transformers"

    def __init__(self, folder: Path):
        self.model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).float()

    def ids(self, text: str) -> list[int]:
        return self.model[0].tokenizer.encode(text, add_special_tokens=False).ids

    def vector(self, text: str) -> np.ndarray:
        return self.model.encode([text], convert_to_numpy=True)[0]


class OfModel2Vec:
    name = "model2vec"

    def __init__(self, folder: Path):
        is_half = load_file(folder / "model.safetensors")["embeddings"].dtype == np.float16
        self.model = StaticModel.from_pretrained(folder, quantize_to="float32" if is_half else None)

    def ids(self, text: str) -> list[int]:
        limit = self.model.max_length
        cut = text if limit is None else text[: limit * self.model.median_token_length]
        return self.model.tokenize([cut])[0]

    def vector(self, text: str) -> np.ndarray:
        return self.model.encode([text])[0]


CASES = {
    "st-in-a-folder": (in_folder, OfSentenceTransformers),
    "st-whole": (whole, OfSentenceTransformers),
    "st-model2vec-tensors": (folded, OfSentenceTransformers),
    "model2vec-f32": (of_model2vec("wordpiece", 4, normalize=True), OfModel2Vec),
    "model2vec-f16": (of_model2vec("unigram", 5, dtype=np.float16), OfModel2Vec),
    "model2vec-byte-fallback": (of_model2vec("gemma", 6, normalize=True, max_length=None), OfModel2Vec),
    "model2vec-int8": (of_model2vec("wordpiece", 7, dtype=np.int8), OfModel2Vec),
    "model2vec-shared-rows": (of_model2vec("wordpiece", 8, (np.int64, np.float64), normalize=True, max_length=20),
                              OfModel2Vec),
    "model2vec-shared-rows-int8": (of_model2vec("unigram", 9, (np.int32, np.float32), np.int8, normalize=True),
                                   OfModel2Vec),
}


def compare(folder: Path, reference: OfModel2Vec) -> list[int] | None:
    """Texts on which sentence-transformers disagrees; None where it can't compute the folder at all."""
    try:
        other = OfSentenceTransformers(folder)
    except RuntimeError as error:
        print(f"{folder.name}: sentence-transformers: {error}")
        return None
    disagrees = []
    for index, text in enumerate(TEXTS):
        same = other.ids(text) == reference.ids(text)
        ours, theirs = reference.vector(text), other.vector(text)
        if same and np.abs(ours - theirs).max() > CLOSE * max(1.0, np.abs(ours).max()):
            raise ValueError(f"{folder.name}: {text!r}: {np.abs(ours - theirs).max()}")
        if not same:
            disagrees.append(index)
    return disagrees


def make(root: Path) -> None:
    for name, (build, kind) in CASES.items():
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build(folder)
        reference = kind(folder)
        settings = folder / "config_sentence_transformers.json"
        prompts = json.loads(settings.read_text())["prompts"] if settings.exists() else {}
        texts = []
        for prompt_name, prompt in [(None, ""), *prompts.items()]:
            for text in TEXTS if prompt_name is None else TEXTS[:3]:
                vector = reference.vector(prompt + text)
                texts.append({"text": text, "prompt_name": prompt_name, "ids": reference.ids(prompt + text),
                              "vector": [float(x) for x in vector]})
        disagrees = compare(folder, reference) if kind is OfModel2Vec else []
        write(folder / "expected.json", {
            "about": (build.__doc__ or "As model2vec saves it.").split("\n")[0], "reference": kind.name,
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
            "sentence_transformers_disagrees": disagrees, "texts": texts})
        print(f"{name}: {len(texts)} texts, sentence-transformers disagrees on {disagrees}")


def differences(committed: Path, fresh: Path) -> list[str]:
    files = {file.relative_to(root) for root in (committed, fresh) for file in root.rglob("*") if file.is_file()}
    found = []
    for file in sorted(files):
        pair = [root / file for root in (committed, fresh)]
        if not all(each.exists() for each in pair):
            found.append(f"{file}: is in one of the two only")
        elif file.name == "expected.json":
            old, new = (json.loads(each.read_text()) for each in pair)
            for one, other in zip(old.pop("texts"), new.pop("texts"), strict=True):
                off = np.abs(np.subtract(one.pop("vector"), other.pop("vector"))).max()
                if off > CLOSE or one != other:
                    found.append(f"{file}: {one['text'][:30]!r} differs, its vector by {off}")
            if old != new:
                found.append(f"{file}: differs")
        elif pair[0].read_bytes() != pair[1].read_bytes():
            found.append(f"{file}: differs")
    return found


def main() -> int:
    torch.set_num_threads(1)  # so that sums have one order
    if sys.argv[1:] != ["--check"]:
        make(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        found = differences(ROOT, Path(temporary))
    print("\n".join(found) or f"{len(CASES)} cases are as committed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
