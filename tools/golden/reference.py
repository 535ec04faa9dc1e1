"""What mlx-lm computes, in f32 or f64 on the CPU: each text alone, unpadded."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.models.base import create_attention_mask
from mlx_lm.utils import dequantize_model, load_model

ABOUT = "mlx-lm in {} on the CPU, each text alone"
PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "safetensors")


def load(folder: Path, **options) -> nn.Module:
    """The checkpoint in mlx-lm's own module, with all floating-point parameters cast to f32.

    `options` are those of mlx-lm's load_model.
    """
    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder, **options)
    model.set_dtype(mx.float32)
    return model


class Product(nn.Module):
    """A linear layer in f64, by numpy: MLX multiplies packed weights in f32 at most, and f64 with
    a BLAS that takes several times as long."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = np.array(linear.weight, np.float64)  # not MLX's, so not a parameter
        self.bias = np.array(linear.bias, np.float64) if "bias" in linear else 0.0

    def __call__(self, x: mx.array) -> mx.array:
        return mx.array(np.array(x) @ self.weight.T + self.bias)


def in_double(model: nn.Module) -> nn.Module:
    """The same in f64."""
    model = dequantize_model(model)
    model.set_dtype(mx.float32)  # mxfp4, mxfp8 and nvfp4 come as bf16, which numpy lacks
    linear = [(name, Product(module)) for name, module in model.model.named_modules()
              if isinstance(module, nn.Linear)]
    model.model.update_modules(tree_unflatten(linear))
    model.set_dtype(mx.float64)
    return model


def hidden_states(model: nn.Module, ids: list[int]) -> np.ndarray:
    """[layers + 2, tokens, hidden]: embedding, after each decoder layer, after the final norm.

    The loop of mlx-lm's own `__call__`, keeping what passes by; the end is held against that
    call's. The embedding is cast because MLX dequantises mxfp4, mxfp8 and nvfp4 rows to bf16;
    their values are exact in every type.
    """
    decoder = model.model
    embeddings = decoder.embed_tokens(mx.array([ids])).astype(decoder.norm.weight.dtype)
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
