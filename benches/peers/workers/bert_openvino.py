"""A BERT, op by op, in the patterns that OpenVINO fuses."""

import numpy as np
from openvino import Model, Type
from openvino import opset13 as op

from bert import EPS, HEADS, HIDDEN
from openvino_graph import Graph as Base
from openvino_graph import constant


class Graph(Base):
    def linear(self, x, name: str):
        return op.add(self.product(x, name), self.tensor(f"{name}.bias"))

    def norm(self, x, name: str):
        scaled = op.mvn(x, constant([-1]), True, EPS, "inside_sqrt")
        return op.add(op.multiply(scaled, self.tensor(f"{name}.weight")), self.tensor(f"{name}.bias"))

    def attention(self, x, layer: str):
        swap = constant([0, 2, 1, 3])

        def heads(name):
            rows = self.linear(x, f"{layer}.attention.self.{name}")
            return op.transpose(op.reshape(rows, constant([0, 0, HEADS, HIDDEN // HEADS]), True), swap)

        mixed = op.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), causal=False)
        flat = op.reshape(op.transpose(mixed, swap), constant([0, 0, HIDDEN]), True)
        return self.linear(flat, f"{layer}.attention.output.dense")

    def model(self) -> Model:
        ids = op.parameter([-1, -1], Type.i64, name="ids")
        tokens = op.gather(op.shape_of(ids), constant(1), constant(0))
        rows = op.range(constant(0), tokens, constant(1), "i64")
        x = op.gather(self.tensor("embeddings.word_embeddings.weight"), ids, constant(0))
        x = op.add(x, op.gather(self.tensor("embeddings.position_embeddings.weight"), rows, constant(0)))
        types = np.array(self.checkpoint.tensor("embeddings.token_type_embeddings.weight")[0])
        x = self.norm(op.add(x, op.constant(types)), "embeddings.LayerNorm")
        for index in range(self.checkpoint.config["num_hidden_layers"]):
            layer = f"encoder.layer.{index}"
            x = self.norm(op.add(x, self.attention(x, layer)), f"{layer}.attention.output.LayerNorm")
            wide = op.gelu(self.linear(x, f"{layer}.intermediate.dense"), "ERF")
            x = self.norm(op.add(x, self.linear(wide, f"{layer}.output.dense")), f"{layer}.output.LayerNorm")
        return Model([op.reduce_mean(x, constant([1]), False)], [ids])
