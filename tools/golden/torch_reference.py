"""What transformers computes on torch, in f32 or f64 on the CPU: each text alone, unpadded.

An oracle that shares no kernel with MLX, for dense checkpoints. Needs requirements-torch.txt.
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


def hidden_states(model, ids: list[int]) -> np.ndarray:
    """[layers + 2, tokens, hidden]: embedding, after each decoder layer, after the final norm.

    Hooks see them pass by: transformers' own list of hidden states leaves out the last layer's.
    """
    model = deepcopy(model)  # dynamic RoPE remembers the longest text it has seen
    states = []

    def keep(_module, _inputs, output):
        states.append((output[0] if isinstance(output, tuple) else output).detach())

    for module in (model.embed_tokens, *model.layers, model.norm):
        module.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    return np.stack([state.reshape(len(ids), -1).numpy() for state in states])
