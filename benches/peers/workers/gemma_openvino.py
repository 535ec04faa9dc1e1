"""EmbeddingGemma, op by op.

There is one head of keys, so all heads' queries are rows of one product with it: faster here than OpenVINO's own attention
of keys that are repeated.
"""

import math

import numpy as np
from openvino import Model, Type
from openvino import opset13 as op

from gemma import EPS, HEAD_DIM, HEADS, HIDDEN, LAYERS, LONGEST, is_local, rotation
from openvino_graph import Graph as Base
from openvino_graph import constant


class Graph(Base):
    def norm(self, x, name: str):
        square = op.reduce_mean(op.power(x, constant(2, np.float32)), constant([-1]), True)
        root = op.sqrt(op.add(square, constant(EPS, np.float32)))
        normed = op.multiply(x, op.divide(constant(1, np.float32), root))
        return op.multiply(normed, op.constant(1 + self.checkpoint.tensor(f"{name}.weight")))

    def rotations(self, ids) -> dict:
        """For layers with and without a window: cos and sin, each [1, tokens, 1, HEAD_DIM]."""
        tokens = op.unsqueeze(op.gather(op.shape_of(ids), constant(1), constant(0)), constant(0))

        def rows(values):
            table = op.constant(np.tile(values, 2)[None, :, None].astype(np.float32))
            return op.slice(table, constant([0]), tokens, constant([1]), constant([1]))

        return {is_local(index): [rows(values) for values in rotation(LONGEST, index)] for index in (0, 5)}

    def rotate(self, x, cos, sin):
        first, second = op.split(x, constant(-1), 2).outputs()
        turned = op.concat([op.negative(second), first], -1)
        return op.add(op.multiply(x, cos), op.multiply(turned, sin))

    def attention(self, x, layer: str, turn: list):
        def heads(which, count):
            """Normed by head and rotated, every head a row: [batch, tokens * count, HEAD_DIM]."""
            x_heads = op.reshape(self.product(x, f"{layer}.{which}_proj"), constant([0, 0, count, HEAD_DIM]), True)
            turned = self.rotate(self.norm(x_heads, f"{layer}.{which}_norm"), *turn)
            return op.reshape(turned, constant([0, -1, HEAD_DIM]), True)

        scores = op.matmul(heads("q", HEADS), heads("k", 1), False, True)
        shares = op.softmax(op.multiply(scores, constant(HEAD_DIM**-0.5, np.float32)), -1)
        mixed = op.matmul(shares, self.product(x, f"{layer}.v_proj"), False, False)
        flat = op.reshape(mixed, constant([0, -1, HEADS * HEAD_DIM]), True)
        return self.product(flat, f"{layer}.o_proj")

    def model(self) -> Model:
        ids = op.parameter([-1, -1], Type.i64, name="ids")
        turns = self.rotations(ids)
        x = op.gather(self.tensor("embed_tokens.weight"), ids, constant(0))
        x = op.multiply(x, constant(math.sqrt(HIDDEN), np.float32))
        for index in range(LAYERS):
            layer = f"layers.{index}"
            normed = self.norm(x, f"{layer}.input_layernorm")
            mixed = self.attention(normed, f"{layer}.self_attn", turns[is_local(index)])
            x = op.add(x, self.norm(mixed, f"{layer}.post_attention_layernorm"))
            normed = self.norm(x, f"{layer}.pre_feedforward_layernorm")
            gate = op.gelu(self.product(normed, f"{layer}.mlp.gate_proj"), "TANH")
            wide = op.multiply(gate, self.product(normed, f"{layer}.mlp.up_proj"))
            down = self.product(wide, f"{layer}.mlp.down_proj")
            x = op.add(x, self.norm(down, f"{layer}.post_feedforward_layernorm"))
        x = op.reduce_mean(self.norm(x, "norm"), constant([1]), False)
        for name in self.checkpoint.dense():
            x = self.product(x, name.removesuffix(".weight"))
        return Model([x], [ids])
