"""What mlx-lm computes, in f32 on the CPU: each text alone, unpadded."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_attention_mask
from mlx_lm.utils import load_model

ABOUT = "mlx-lm in f32 on the CPU, each text alone"
PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "safetensors")


def load(folder: Path, **options) -> nn.Module:
    """The checkpoint in mlx-lm's own module, with all floating-point parameters cast to f32.

    `options` are those of mlx-lm's load_model.
    """
    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder, **options)
    model.set_dtype(mx.float32)
    return model


def hidden_states(model: nn.Module, ids: list[int]) -> np.ndarray:
    """[layers + 2, tokens, hidden]: embedding, after each decoder layer, after the final norm.

    The loop of mlx-lm's own `__call__`, keeping what passes by; the end is held against that
    call's. The embedding is cast because MLX dequantises mxfp4, mxfp8 and nvfp4 rows to bf16;
    their values are exact in either type.
    """
    decoder = model.model
    embeddings = decoder.embed_tokens(mx.array([ids])).astype(mx.float32)
    state = embeddings
    mask = create_attention_mask(state, None)
    states = [state]
    for layer in decoder.layers:
        state = layer(state, mask, None)
        states.append(state)
    states.append(decoder.norm(state))
    own = decoder(mx.array([ids]), input_embeddings=embeddings)
    if not np.array_equal(np.array(own), np.array(states[-1])):
        raise ValueError("mlx-lm's own call computes something else than its layers in a loop")
    return np.array(mx.concatenate(states, axis=0))


def pool(pooling: str, final: np.ndarray) -> np.ndarray:
    """[tokens, hidden] to a unit vector [hidden], in f64."""
    final = final.astype(np.float64)
    ways = {"last-token": lambda: final[-1], "cls": lambda: final[0], "mean": lambda: final.mean(0)}
    vector = ways[pooling]()
    return (vector / max(np.linalg.norm(vector), 1e-12)).astype(np.float32)
