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


class Encoder:
    """A BERT: biases and norms, which are few, don't count."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        self.layers, self.hidden = config["num_hidden_layers"], config["hidden_size"]
        self.parameters = self.layers * self.hidden * (4 * self.hidden + 2 * config["intermediate_size"])

    def operations(self, shape: Shape) -> float:
        """Multiplications and additions: 2 a parameter a token, and attention's two products."""
        pairs = shape.batch * shape.tokens**2
        return 2 * self.parameters * shape.total + 4 * self.layers * self.hidden * pairs

    def weight_bytes(self) -> float:
        """f32"""
        return self.parameters * 4


class Geometry:
    """A Qwen3 decoder of 4 bits."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        self.layers, hidden = config["num_hidden_layers"], config["hidden_size"]
        self.attention_width = config["num_attention_heads"] * config["head_dim"]
        kv_width = config["num_key_value_heads"] * config["head_dim"]
        projections = 2 * hidden * self.attention_width + 2 * hidden * kv_width
        self.parameters = self.layers * (projections + 3 * hidden * config["intermediate_size"])

    def operations(self, shape: Shape) -> float:
        """Multiplications and additions: 2 a parameter a token, and causal attention's two products."""
        pairs = shape.batch * shape.tokens * (shape.tokens + 1) / 2
        return 2 * self.parameters * shape.total + 4 * self.layers * self.attention_width * pairs

    def weight_bytes(self) -> float:
        """4 bits a parameter, and a 16-bit scale and bias a group of 64."""
        return self.parameters * (4 + 32 / 64) / 8
