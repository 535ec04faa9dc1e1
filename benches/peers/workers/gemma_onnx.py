"""EmbeddingGemma of ONNX Runtime's fused operators: SkipSimplifiedLayerNormalization, RotaryEmbedding, FastGelu.

There is one head of keys, so all heads' queries are rows of one product with it: faster here than MultiHeadAttention, which
wants as many heads of keys.
"""

import numpy as np
from onnx import TensorProto

from gemma import EPS, HEAD_DIM, HEADS, HIDDEN, LAYERS, LONGEST, is_local, rotation
from onnx_graph import CONTRIB
from onnx_graph import Graph as Base


class Graph(Base):
    def norm_weight(self, name: str) -> str:
        return self.constant(f"{name}.weight", 1 + self.checkpoint.tensor(f"{name}.weight"))

    def norm(self, x: str, name: str) -> str:
        inputs = [x, self.norm_weight(name)]
        return self.node("SimplifiedLayerNormalization", inputs, f"{name}.out", axis=-1, epsilon=EPS)

    def add_and_norm(self, x: str, residual: str, name: str) -> tuple:
        """The sum, and the sum normalised."""
        normed, total = f"{name}.out", f"{name}.sum"
        inputs = [x, residual, self.norm_weight(name)]
        self.node("SkipSimplifiedLayerNormalization", inputs, [normed, "", "", total], CONTRIB, epsilon=EPS)
        return total, normed

    def heads(self, x: str, layer: str, index: int, which: str, count: int) -> str:
        """[batch, tokens, count * HEAD_DIM], normed by head and rotated."""
        x = self.product(x, f"{layer}.{which}_proj")
        x = self.norm(self.reshaped(x, [0, 0, count, HEAD_DIM], f"{x}.heads"), f"{layer}.{which}_norm")
        x = self.reshaped(x, [0, 0, count * HEAD_DIM], f"{x}.flat")
        kind = "local" if is_local(index) else "full"
        tables = [
            self.constant(f"{kind}.{name}", values.astype(np.float32))
            for name, values in zip(("cos", "sin"), rotation(LONGEST, index))
        ]
        return self.node("RotaryEmbedding", [x, "positions", *tables], f"{x}.rotated", CONTRIB, num_heads=count)

    def attention(self, x: str, layer: str, index: int) -> str:
        q = self.heads(x, layer, index, "q", HEADS)
        k = self.heads(x, layer, index, "k", 1)
        v = self.product(x, f"{layer}.v_proj")
        q = self.reshaped(q, [0, -1, HEAD_DIM], f"{q}.rows")  # [batch, tokens * HEADS, HEAD_DIM]
        scores = self.node("FusedMatMul", [q, k], f"{layer}.scores", CONTRIB, transB=1, alpha=HEAD_DIM**-0.5)
        mixed = self.node("MatMul", [self.node("Softmax", [scores], f"{layer}.shares", axis=-1), v], f"{layer}.mixed")
        return self.product(self.reshaped(mixed, [0, -1, HEADS * HEAD_DIM], f"{mixed}.flat"), f"{layer}.o_proj")

    def positions(self) -> None:
        """[batch, tokens]: 0, 1, .. a row."""
        zero, one = (self.constant(f"number.{n}", np.array(n, np.int64)) for n in (0, 1))
        tokens = self.node("Gather", [self.node("Shape", ["ids"], "shape"), one], "tokens")
        row = self.node("Range", [zero, tokens, one], "row")
        self.node("Expand", [row, "shape"], "positions")

    def vectors(self):
        """Ids in, the mean of the tokens behind both Dense modules out."""
        self.positions()
        table = self.constant("embed_tokens", self.checkpoint.tensor("embed_tokens.weight"))
        factor = self.constant("factor", np.array(HIDDEN**0.5, np.float32))
        total = self.node("Mul", [self.node("Gather", [table, "ids"], "rows"), factor], "embedded")
        normed = self.norm(total, "layers.0.input_layernorm")
        for index in range(LAYERS):
            layer = f"layers.{index}"
            mixed = self.norm(self.attention(normed, f"{layer}.self_attn", index), f"{layer}.post_attention_layernorm")
            total, normed = self.add_and_norm(mixed, total, f"{layer}.pre_feedforward_layernorm")
            gate = self.node("FastGelu", [self.product(normed, f"{layer}.mlp.gate_proj")], f"{layer}.gelu", CONTRIB)
            wide = self.node("Mul", [gate, self.product(normed, f"{layer}.mlp.up_proj")], f"{layer}.wide")
            down = self.norm(self.product(wide, f"{layer}.mlp.down_proj"), f"{layer}.post_feedforward_layernorm")
            after = f"layers.{index + 1}.input_layernorm" if index + 1 < LAYERS else "norm"
            total, normed = self.add_and_norm(down, total, after)
        x = self.node("ReduceMean", [normed, self.constant("axis", np.array([1], np.int64))], "mean", keepdims=0)
        for name in self.checkpoint.dense():
            x = self.product(x, name.removesuffix(".weight"))
        self.node("Identity", [x], "vector")
        ids = (TensorProto.INT64, ["batch", "tokens"])
        return self.model({"ids": ids}, "vector", ["batch", HIDDEN], 18)
