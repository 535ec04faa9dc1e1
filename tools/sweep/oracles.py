"""What the references make of a checkpoint: vectors of texts, or the reason why there are none."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import logging
import sys
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/golden"))

import reference  # noqa: E402

mx.set_default_device(mx.cpu)
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")


class Refused(Exception):
    """A reference doesn't load this, or not all of it."""


def unit(vector: np.ndarray) -> np.ndarray:
    vector = vector.astype(np.float64)
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise Refused("no finite vector")
    return vector / length


def token_ids(tokenizer: Path, model: Path, texts: list[str]) -> list[list[int]]:
    """Cut at the model's own limit, as sentence-transformers cuts them."""
    limit = json.loads((model / "config.json").read_text()).get("max_position_embeddings")
    options = {"truncation": True, "max_length": limit} if isinstance(limit, int) and limit > 1 else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
    return [tokenizer(text, **options)["input_ids"] for text in texts]


def load_whole(folder: Path):
    model, info = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    wrong = {key: info[key] for key in ("missing_keys", "mismatched_keys", "error_msgs") if info.get(key)}
    if wrong:
        raise Refused(f"loads in part: {wrong}")
    return model.eval()


def mean_by_transformers(folder: Path, ids: list[list[int]]) -> list[np.ndarray]:
    """Of families of which transformers reads all that config.json says."""
    model = load_whole(folder)
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([text])).last_hidden_state for text in ids]
    return [unit(state[0].numpy().mean(0)) for state in states]


def by_transformers(folder: Path, ids: list[list[int]], attention: str) -> list[np.ndarray]:
    model, vectors = load_whole(folder), []
    for text in ids:
        options = {}
        if attention == "bidirectional":
            options["attention_mask"] = torch.zeros(1, 1, len(text), len(text))
        with torch.no_grad():
            states = model(torch.tensor([text]), use_cache=False, **options).last_hidden_state
        vectors.append(unit(states[0, -1].numpy()))
        # Dynamic RoPE remembers the longest text that it has seen.
        if "dynamic" in str(model.config.rope_parameters):
            model = load_whole(folder)
    return vectors


def by_sentence_transformers(folder: Path, texts: list[str]) -> list[np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    vectors = model.encode(texts, batch_size=1, normalize_embeddings=True, show_progress_bar=False)
    return [unit(vector) for vector in vectors]


def by_mlx_lm(folder: Path, ids: list[list[int]], pooling: str) -> list[np.ndarray]:
    model = reference.load(folder)
    return [unit(reference.pool(pooling, reference.hidden_states(model, text)[-1])) for text in ids]


def attempt(oracle, *arguments):
    """Vectors, or the first line of the reason."""
    try:
        return oracle(*arguments)
    except Exception as error:  # a reference may fail in any way
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]
