"""What mlx-lm computes, in f32 on the CPU: each text alone, unpadded."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_attention_mask
from mlx_lm.utils import load_model

from cases import Case
from checkpoint import model_classes


def load(case: Case, folder: Path) -> nn.Module:
    """The checkpoint in mlx-lm's own module, with all floating-point parameters cast to f32."""
    model, _ = load_model(
        folder,
        model_config=case.reference_config,
        get_model_classes=lambda config: model_classes(case),
    )
    model.set_dtype(mx.float32)
    return model


def hidden_states(model: nn.Module, ids: list[int]) -> np.ndarray:
    """[layers + 2, tokens, hidden]: embedding, after each decoder layer, after the final norm.

    The loop of mlx-lm's own `__call__`, keeping what passes by. The embedding is cast because
    MLX dequantises mxfp4, mxfp8 and nvfp4 rows to bf16; their values are exact in either type.
    """
    decoder = model.model
    state = decoder.embed_tokens(mx.array([ids])).astype(mx.float32)
    mask = create_attention_mask(state, None)
    states = [state]
    for layer in decoder.layers:
        state = layer(state, mask, None)
        states.append(state)
    states.append(decoder.norm(state))
    return np.array(mx.concatenate(states, axis=0))


def own_final(model: nn.Module, ids: list[int]) -> np.ndarray:
    """The final hidden states from mlx-lm's own call, in f32: what the loop has to end in."""
    embeddings = model.model.embed_tokens(mx.array([ids])).astype(mx.float32)
    own = model.model(mx.array([ids]), input_embeddings=embeddings)
    return np.array(own[0])


def pool(pooling: str, final: np.ndarray) -> np.ndarray:
    """[tokens, hidden] to a unit vector [hidden], in f64."""
    final = final.astype(np.float64)
    vector = {"last": lambda: final[-1], "cls": lambda: final[0], "mean": lambda: final.mean(0)}
    vector = vector[pooling]()
    return (vector / max(np.linalg.norm(vector), 1e-12)).astype(np.float32)
