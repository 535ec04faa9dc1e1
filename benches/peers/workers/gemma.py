"""EmbeddingGemma 300M's geometry: Gemma 3 with attention to both sides, and two Dense modules behind its mean.

Peers get texts of up to 256 tokens, where every token sees every other one in layers with a window of 512, too.
"""

import math

import numpy as np

HIDDEN, HEADS, HEAD_DIM, WIDE, EPS = 768, 3, 256, 1152, 1e-6
LAYERS, WINDOW, LONGEST = 24, 512, 256
DENSE = [(768, 3072), (3072, 768)]


def config() -> dict:
    return {
        "architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "attention_bias": False,
        "head_dim": HEAD_DIM, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "layer_types": ["sliding_attention" if is_local(index) else "full_attention" for index in range(LAYERS)],
        "max_position_embeddings": 2048, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": HEAD_DIM, "rms_norm_eps": EPS,
        "rope_local_base_freq": 1e4, "rope_theta": 1e6, "sliding_window": WINDOW, "torch_dtype": "float32",
        "use_bidirectional_attention": True, "vocab_size": 262144,
    }


def is_local(index: int) -> bool:
    return (index + 1) % 6 != 0


def rotation(tokens: int, index: int) -> tuple:
    """f64 cos and sin `[tokens, HEAD_DIM / 2]` of a layer."""
    base = 1e4 if is_local(index) else 1e6
    angle = np.arange(tokens)[:, None] * base ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return np.cos(angle), np.sin(angle)


def matrices(index: int) -> list:
    """(name, outputs, inputs) of a layer's matrices."""
    attention, mlp = f"layers.{index}.self_attn", f"layers.{index}.mlp"
    return [
        (f"{attention}.q_proj", HEADS * HEAD_DIM, HIDDEN),
        (f"{attention}.k_proj", HEAD_DIM, HIDDEN),
        (f"{attention}.v_proj", HEAD_DIM, HIDDEN),
        (f"{attention}.o_proj", HIDDEN, HEADS * HEAD_DIM),
        (f"{mlp}.gate_proj", WIDE, HIDDEN),
        (f"{mlp}.up_proj", WIDE, HIDDEN),
        (f"{mlp}.down_proj", HIDDEN, WIDE),
    ]


def norms(index: int) -> dict:
    """A layer's norms by name, with their sizes."""
    layer = f"layers.{index}"
    sides = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    heads = {f"{layer}.self_attn.{name}_norm": HEAD_DIM for name in ("q", "k")}
    return heads | {f"{layer}.{side}_layernorm": HIDDEN for side in sides}


def draw(config: dict, generator) -> dict:
    """Every tensor by name. A norm multiplies by 1 + its weight."""
    tensors = {"embed_tokens.weight": generator.normal((config["vocab_size"], HIDDEN), HIDDEN**-0.5)}
    for index in range(LAYERS):
        for name, rows, columns in matrices(index):
            tensors[f"{name}.weight"] = generator.matrix(rows, columns)
        for name, size in norms(index).items():
            tensors[f"{name}.weight"] = generator.normal(size, 0.1)
    tensors["norm.weight"] = generator.normal(HIDDEN, 0.1)
    return tensors


def hidden(checkpoint, ids: np.ndarray) -> np.ndarray:
    """f64 [batch, tokens, hidden]: the states behind the last norm."""

    def tensor(name):
        return checkpoint.tensor(f"{name}.weight").astype(np.float64)

    def linear(x, name):
        return x @ tensor(name).T

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * (1 + tensor(name))

    def rotated(x, cos, sin):
        first, second = x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    batch, tokens = ids.shape
    x = checkpoint.tensor("embed_tokens.weight")[ids].astype(np.float64) * math.sqrt(HIDDEN)
    for index in range(LAYERS):
        layer, turn = f"layers.{index}", rotation(tokens, index)
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        h = norm(x, f"{layer}.input_layernorm")
        q = linear(h, f"{attention}.q_proj").reshape(batch, tokens, HEADS, HEAD_DIM).swapaxes(1, 2)
        q = rotated(norm(q, f"{attention}.q_norm"), *turn)
        k = rotated(norm(linear(h, f"{attention}.k_proj"), f"{attention}.k_norm"), *turn)[:, None]
        v = linear(h, f"{attention}.v_proj")[:, None]
        scores = np.exp(q @ k.swapaxes(2, 3) / math.sqrt(HEAD_DIM))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(batch, tokens, -1)
        x = x + norm(linear(mixed, f"{attention}.o_proj"), f"{layer}.post_attention_layernorm")
        h = norm(x, f"{layer}.pre_feedforward_layernorm")
        gate = linear(h, f"{mlp}.gate_proj")
        gate = gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2
        wide = gate * linear(h, f"{mlp}.up_proj")
        x = x + norm(linear(wide, f"{mlp}.down_proj"), f"{layer}.post_feedforward_layernorm")
    return norm(x, "norm")
