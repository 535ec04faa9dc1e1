"""A BERT of the fused operators that ONNX Runtime's own optimiser makes of one: Attention, SkipLayerNormalization,
BiasGelu."""

import numpy as np
from onnx import TensorProto

from bert import EPS, HEADS, HIDDEN, qkv
from onnx_graph import CONTRIB
from onnx_graph import Graph as Base

ROWS = (TensorProto.INT64, ["batch", "tokens"])


class Graph(Base):
    def tensor(self, name: str) -> str:
        return self.constant(name, self.checkpoint.tensor(name))

    def add_and_norm(self, x: str, product: str, of: str, norm: str) -> str:
        """The norm of x + product + bias."""
        inputs = [product, x, self.tensor(f"{norm}.weight"), self.tensor(f"{norm}.bias"), self.tensor(f"{of}.bias")]
        return self.node("SkipLayerNormalization", inputs, f"{norm}.out", CONTRIB, epsilon=EPS)

    def embeddings(self, ids: str) -> str:
        words = self.node("Gather", [self.tensor("embeddings.word_embeddings.weight"), ids], "words")
        one, two, zero = (self.constant(f"number.{n}", np.array([n], np.int64)) for n in (1, 2, 0))
        shape = self.node("Shape", [ids], "shape")
        tokens = self.node("Slice", [shape, one, two], "tokens")
        table = self.tensor("embeddings.position_embeddings.weight")
        positions = self.node("Slice", [table, zero, tokens, zero], "positions")
        row = self.constant("type", self.checkpoint.tensor("embeddings.token_type_embeddings.weight")[0])
        total = self.node("Add", [self.node("Add", [words, positions], "placed"), row], "embedded")
        norm = [self.tensor(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
        return self.node("LayerNormalization", [total, *norm], "normed", axis=-1, epsilon=EPS)

    def layers(self, x: str, mask: list) -> str:
        """`mask` names what says which tokens are real, or nothing."""
        for index in range(self.checkpoint.config["num_hidden_layers"]):
            layer = f"encoder.layer.{index}"
            weight, bias = qkv(self.checkpoint, index)
            inputs = [x, self.constant(f"{layer}.qkv", weight.T), self.constant(f"{layer}.qkv.bias", bias), *mask]
            mixed = self.node("Attention", inputs, f"{layer}.mixed", CONTRIB, num_heads=HEADS)
            name = f"{layer}.attention.output"
            x = self.add_and_norm(x, self.product(mixed, f"{name}.dense"), f"{name}.dense", f"{name}.LayerNorm")
            name = f"{layer}.intermediate.dense"
            inputs = [self.product(x, name), self.tensor(f"{name}.bias")]
            wide = self.node("BiasGelu", inputs, f"{name}.gelu", CONTRIB)
            name = f"{layer}.output"
            x = self.add_and_norm(x, self.product(wide, f"{name}.dense"), f"{name}.dense", f"{name}.LayerNorm")
        return x

    def vectors(self):
        """Ids in, the mean of the tokens out."""
        axis = self.constant("axis", np.array([1], np.int64))
        self.node("ReduceMean", [self.layers(self.embeddings("ids"), []), axis], "vector", keepdims=0)
        return self.model({"ids": ROWS}, "vector", ["batch", HIDDEN], 18)

    def states(self):
        """As exporters name inputs and output: ids and a mask in, every token's state out."""
        mask = self.node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
        states = self.layers(self.embeddings("input_ids"), [mask])
        self.node("Identity", [states], "last_hidden_state")
        inputs = {"input_ids": ROWS, "attention_mask": ROWS}
        return self.model(inputs, "last_hidden_state", ["batch", "tokens", HIDDEN], 18)
