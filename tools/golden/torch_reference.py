"""What transformers computes on torch, in f32 or f64 on the CPU: each text alone, unpadded.

An oracle that shares no kernel with MLX, for dense checkpoints. Needs the group `torch` of tools/pins.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

ABOUT = "transformers on torch in {} on the CPU, each text alone"
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


def load(folder: Path):
    """The checkpoint's decoder with all parameters cast to f32."""
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    return AutoModel.from_pretrained(folder, **options).eval()


def in_double(model):
    """The same in f64."""
    return model.double()


# Where a model has its embedding, its layers and the norm behind them, if there is one.
PARTS = (
    ("embed_tokens", "layers", "norm"),
    ("embeddings", "layers", "final_norm"),
    ("embeddings", "encoder.layer", None),
    ("embeddings", "layers", None),
    ("embeddings", "transformer.layer", None),
    ("encoder.embed_tokens", "encoder.block", "encoder.final_layer_norm"),
)
INNER = ("model", "bert", "roberta", "electra", "distilbert", "mpnet", "nomic_bert", "gte", "language_model")


def named(model, path: str):
    for part in path.split("."):
        model = getattr(model, part, None)
    return model


def without_heads(model):
    for name in INNER:
        inner = getattr(model, name, None)
        if isinstance(inner, torch.nn.Module):
            return without_heads(inner)
    return model


def parts(model) -> tuple:
    """The embedding, the layers, the norm behind them or None."""
    model = without_heads(model)
    for embedding, layers, norm in PARTS:
        found = [named(model, path) if path else None for path in (embedding, layers, norm)]
        if found[0] is not None and found[1] is not None and (norm is None or found[2] is not None):
            return tuple(found)
    raise ValueError(f"{type(model).__name__}: where are its embedding and layers?")


def run(model, ids: list[int], **inputs) -> tuple[np.ndarray, object]:
    """Hidden states [layers + 2, tokens, hidden], and what the call gives.

    They are the embedding (with its norm, scale, positions and token types, where it has them), then
    after each layer, then after the last norm; without such a norm the last state is there twice.
    Hooks see them pass by: transformers' own list leaves out the last layer's.
    """
    model = deepcopy(model)  # dynamic RoPE remembers the longest text it has seen
    states = []

    def keep(_module, _inputs, output):
        states.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    embedding, layers, norm = parts(model)
    for module in (embedding, *layers, *([] if norm is None else [norm])):
        module.register_forward_hook(keep)
    with torch.no_grad():
        output = model(torch.tensor([ids]), **inputs)
    if norm is None:
        states.append(states[-1])
    if len(states) != len(layers) + 2:
        raise ValueError(f"{len(states)} states of {len(layers)} layers")
    return np.stack([state.reshape(len(ids), -1).numpy() for state in states]), output


def hidden_states(model, ids: list[int]) -> np.ndarray:
    return run(model, ids)[0]
