"""Writes an encoder as an ONNX model: encoder_onnx.py CHECKPOINT FILE f32|int8

The graph is of the fused operators that ONNX Runtime's own optimiser makes of a BERT: Attention, SkipLayerNormalization,
BiasGelu. int8 is ONNX Runtime's dynamic quantisation of it: weights once, activations at run time.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from onnxruntime.quantization import QuantType, quantize_dynamic

from encoder import EPS, HEADS, HIDDEN, Checkpoint

CONTRIB = "com.microsoft"


class Graph:
    """Collects nodes and initialisers; every method returns an output's name."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.nodes, self.initialisers = [], []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initialisers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def tensor(self, name: str) -> str:
        return self.constant(name, self.checkpoint.tensor(name))

    def node(self, kind: str, inputs: list, output: str, domain: str = "", **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **attributes))
        return output

    def product(self, x: str, name: str) -> str:
        weight = self.constant(f"{name}.transposed", self.checkpoint.tensor(f"{name}.weight").T)
        return self.node("MatMul", [x, weight], f"{name}.product")

    def add_and_norm(self, x: str, product: str, of: str, norm: str) -> str:
        """The norm of x + product + bias."""
        inputs = [product, x, self.tensor(f"{norm}.weight"), self.tensor(f"{norm}.bias"), self.tensor(f"{of}.bias")]
        return self.node("SkipLayerNormalization", inputs, f"{norm}.out", CONTRIB, epsilon=EPS)

    def embeddings(self) -> str:
        words = self.node("Gather", [self.tensor("embeddings.word_embeddings.weight"), "ids"], "words")
        one, two, zero = (self.constant(f"number.{n}", np.array([n], np.int64)) for n in (1, 2, 0))
        shape = self.node("Shape", ["ids"], "shape")
        tokens = self.node("Slice", [shape, one, two], "tokens")
        table = self.tensor("embeddings.position_embeddings.weight")
        positions = self.node("Slice", [table, zero, tokens, zero], "positions")
        row = self.constant("type", self.checkpoint.tensor("embeddings.token_type_embeddings.weight")[0])
        total = self.node("Add", [self.node("Add", [words, positions], "placed"), row], "embedded")
        norm = [self.tensor(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
        return self.node("LayerNormalization", [total, *norm], "normed", axis=-1, epsilon=EPS)

    def model(self):
        x = self.embeddings()
        for index in range(self.checkpoint.layers):
            layer = f"encoder.layer.{index}"
            weight, bias = self.checkpoint.qkv(index)
            inputs = [x, self.constant(f"{layer}.qkv", weight.T), self.constant(f"{layer}.qkv.bias", bias)]
            mixed = self.node("Attention", inputs, f"{layer}.mixed", CONTRIB, num_heads=HEADS)
            name = f"{layer}.attention.output"
            x = self.add_and_norm(x, self.product(mixed, f"{name}.dense"), f"{name}.dense", f"{name}.LayerNorm")
            name = f"{layer}.intermediate.dense"
            inputs = [self.product(x, name), self.tensor(f"{name}.bias")]
            wide = self.node("BiasGelu", inputs, f"{name}.gelu", CONTRIB)
            name = f"{layer}.output"
            x = self.add_and_norm(x, self.product(wide, f"{name}.dense"), f"{name}.dense", f"{name}.LayerNorm")
        axis = self.constant("axis", np.array([1], np.int64))
        self.node("ReduceMean", [x, axis], "vector", keepdims=0)
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
            [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", HIDDEN])],
            self.initialisers,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def main() -> None:
    folder, path, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    partial = path.with_name(path.name + ".partial")
    save(Graph(Checkpoint(folder)).model(), partial)
    if kind == "int8":
        # Shapes behind ONNX Runtime's own operators are not inferred, so their outputs' type is named.
        options = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(partial, partial, weight_type=QuantType.QInt8, extra_options=options)
    partial.rename(path)


if __name__ == "__main__":
    main()
