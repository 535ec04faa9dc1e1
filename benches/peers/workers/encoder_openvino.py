"""Writes an encoder as an OpenVINO model: encoder_openvino.py CHECKPOINT FILE.xml f32|int8

int8 keeps matrices as int8 with a scale an output; OpenVINO rounds what is multiplied with them at run time.
"""

import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import Model, Type
from openvino import opset13 as op

from encoder import EPS, HEADS, HIDDEN, Checkpoint


def constant(value, dtype=np.int64):
    return op.constant(np.array(value, dtype))


class Graph:
    """A BERT encoder, op by op, in the patterns that OpenVINO fuses."""

    def __init__(self, checkpoint: Checkpoint, kind: str):
        self.checkpoint, self.kind = checkpoint, kind

    def tensor(self, name: str):
        return op.constant(np.array(self.checkpoint.tensor(name)))

    def matrix(self, name: str):
        values = np.array(self.checkpoint.tensor(name))
        if self.kind == "f32":
            return op.constant(values)
        scales = np.abs(values).max(1, keepdims=True) / 127
        levels = op.constant(np.rint(values / scales).astype(np.int8))
        return op.multiply(op.convert(levels, Type.f32), op.constant(scales.astype(np.float32)))

    def linear(self, x, name: str):
        return op.add(op.matmul(x, self.matrix(f"{name}.weight"), False, True), self.tensor(f"{name}.bias"))

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
        for index in range(self.checkpoint.layers):
            layer = f"encoder.layer.{index}"
            x = self.norm(op.add(x, self.attention(x, layer)), f"{layer}.attention.output.LayerNorm")
            wide = op.gelu(self.linear(x, f"{layer}.intermediate.dense"), "ERF")
            x = self.norm(op.add(x, self.linear(wide, f"{layer}.output.dense")), f"{layer}.output.LayerNorm")
        return Model([op.reduce_mean(x, constant([1]), False)], [ids])


def main() -> None:
    folder, path, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    partial = path.with_name("partial-" + path.name)
    ov.save_model(Graph(Checkpoint(folder), kind).model(), partial, compress_to_fp16=False)
    partial.with_suffix(".bin").rename(path.with_suffix(".bin"))
    partial.rename(path)


if __name__ == "__main__":
    main()
