"""Random weights that keep every layer's output near 1. A tensor depends on its name and shape."""

import zlib

import numpy as np
import torch

SEED = 20261128
EMBEDDINGS = ("embed_tokens", "word_embeddings", "tok_embeddings")
OTHER_EMBEDDINGS = ("position_embeddings", "token_type_embeddings")
CHOOSING = ("q_proj", "k_proj", "q_norm", "k_norm", "self.query", "self.key", "q_lin", "k_lin",
            "attn.q.", "attn.k.")


def draw(name: str, shape: tuple[int, ...], centred: bool = False) -> np.ndarray:
    """Queries and keys are half as large again, so that attention, and with it the mask, chooses.

    `centred` norms have weights around 0 and multiply by 1 + weight.
    """
    seed = [SEED, zlib.crc32(name.encode()), *shape]
    values = np.random.default_rng(seed).standard_normal(shape)
    if name.endswith("layer_scalar"):
        values = 0.8 + 0.1 * values
    elif len(shape) == 1 and name.endswith("weight"):
        values = (0 if centred else 1) + 0.1 * values
    elif name.endswith("bias"):
        values = 0.1 * values
    elif any(part in name for part in EMBEDDINGS):
        values = 0.5 * values
    elif "relative_attention_bias" in name:
        pass  # as scores are: distances choose, too
    elif any(part in name for part in OTHER_EMBEDDINGS):
        values = 0.3 * values
    else:
        values = values / np.sqrt(shape[-1])
    if any(part in name for part in CHOOSING):
        values = 1.5 * values
    if "Wqkv" in name:
        values[: shape[0] * 2 // 3] *= 1.5
    return values.astype(np.float32)


def fill(model: torch.nn.Module, centred: bool) -> dict[str, np.ndarray]:
    """Random values for every tensor that the model keeps, and ties as the model has them."""
    drawn, shared = {}, {}
    for name, tensor in model.state_dict().items():
        first = shared.setdefault(tensor.data_ptr(), name)
        if first == name:
            drawn[name] = draw(name, tuple(tensor.shape), centred)
    return drawn
