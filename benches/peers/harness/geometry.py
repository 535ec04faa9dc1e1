"""What a forward pass of the checkpoint costs, counted from its shapes."""

import json
from pathlib import Path


class Shape:
    """`batch` texts of `tokens` tokens each."""

    def __init__(self, text: str):
        batch, cross, tokens = text.partition("x")
        if not (cross and batch.isdigit() and tokens.isdigit() and int(batch) and int(tokens)):
            raise ValueError(f"{text} is no shape: write BATCHxTOKENS, such as 10x16")
        self.batch, self.tokens = int(batch), int(tokens)

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}"

    @property
    def total(self) -> int:
        return self.batch * self.tokens


class Geometry:
    """A transformer of matrices with `bits` a parameter, scales included; biases and norms, which are few, don't count."""

    GATED = ("qwen3", "gemma3_text")

    def __init__(self, folder: Path, bits: float, causal: bool):
        config = json.loads((folder / "config.json").read_text())
        self.bits, self.causal = bits, causal
        self.layers, hidden, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim", hidden // heads)
        self.attention_width = heads * head_dim
        kv_width = config.get("num_key_value_heads", heads) * head_dim
        wide = 3 if config["model_type"] in self.GATED else 2
        projections = 2 * hidden * self.attention_width + 2 * hidden * kv_width
        self.parameters = self.layers * (projections + wide * hidden * config["intermediate_size"])

    def operations(self, shape: Shape) -> float:
        """Multiplications and additions: 2 a parameter a token, and attention's two products."""
        pairs = shape.batch * shape.tokens * ((shape.tokens + 1) / 2 if self.causal else shape.tokens)
        return 2 * self.parameters * shape.total + 4 * self.layers * self.attention_width * pairs

    def weight_bytes(self) -> float:
        return self.parameters * self.bits / 8
