"""A BERT encoder: all-MiniLM-L6-v2's and bge-small-en-v1.5's geometry, which differ in layers."""

import math

import numpy as np

HIDDEN, HEADS, WIDE, EPS = 384, 12, 1536, 1e-12
DENSE = []


def config(layers: int) -> dict:
    return {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN,
        "intermediate_size": WIDE, "layer_norm_eps": EPS, "max_position_embeddings": 512,
        "num_attention_heads": HEADS, "num_hidden_layers": layers, "pad_token_id": 0,
        "position_embedding_type": "absolute", "torch_dtype": "float32", "type_vocab_size": 2,
        "vocab_size": 30522,
    }


def matrices(index: int) -> list:
    """(name, outputs, inputs) of a layer's matrices."""
    layer = f"encoder.layer.{index}"
    attention = [(f"{layer}.attention.self.{name}", HIDDEN, HIDDEN) for name in ("query", "key", "value")]
    return [
        *attention,
        (f"{layer}.attention.output.dense", HIDDEN, HIDDEN),
        (f"{layer}.intermediate.dense", WIDE, HIDDEN),
        (f"{layer}.output.dense", HIDDEN, WIDE),
    ]


def draw(config: dict, generator) -> dict:
    """Every tensor by name: norms near one, biases near nothing."""

    def norm(name):
        return {
            f"{name}.weight": generator.normal(HIDDEN, 0.1, 1.0),
            f"{name}.bias": generator.normal(HIDDEN, 0.05),
        }

    tables = {
        "word": config["vocab_size"], "position": config["max_position_embeddings"],
        "token_type": config["type_vocab_size"],
    }
    tensors = {
        f"embeddings.{name}_embeddings.weight": generator.normal((rows, HIDDEN), 0.05) for name, rows in tables.items()
    }
    tensors |= norm("embeddings.LayerNorm")
    for index in range(config["num_hidden_layers"]):
        for name, rows, columns in matrices(index):
            tensors[f"{name}.weight"] = generator.matrix(rows, columns)
            tensors[f"{name}.bias"] = generator.normal(rows, 0.02)
        for name in ("attention.output", "output"):
            tensors |= norm(f"encoder.layer.{index}.{name}.LayerNorm")
    return tensors


def qkv(checkpoint, index: int) -> tuple:
    """Weights `[3 * hidden, hidden]` and biases of queries, keys and values."""
    names = [name for name, _, _ in matrices(index)[:3]]
    return tuple(np.concatenate([checkpoint.tensor(f"{n}.{part}") for n in names]) for part in ("weight", "bias"))


def hidden(checkpoint, ids: np.ndarray) -> np.ndarray:
    """f64 [batch, tokens, hidden]: the states behind the last layer."""

    def tensor(name):
        return checkpoint.tensor(name).astype(np.float64)

    def linear(x, name):
        return x @ tensor(f"{name}.weight").T + tensor(f"{name}.bias")

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
        return scaled * tensor(f"{name}.weight") + tensor(f"{name}.bias")

    def heads(x):
        return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)

    x = tensor("embeddings.word_embeddings.weight")[ids]
    x = x + tensor("embeddings.position_embeddings.weight")[: ids.shape[1]]
    x = norm(x + tensor("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    erf = np.vectorize(math.erf)
    for index in range(checkpoint.config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        q, k, v = (heads(linear(x, f"{layer}.attention.self.{n}")) for n in ("query", "key", "value"))
        scores = np.exp(q @ k.swapaxes(2, 3) / math.sqrt(HIDDEN // HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
        mixed = linear(mixed, f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        wide = linear(x, f"{layer}.intermediate.dense")
        wide = wide * (1 + erf(wide / math.sqrt(2))) / 2
        x = norm(x + linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
