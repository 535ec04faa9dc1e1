"""An ONNX graph as it grows."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"


class Graph:
    """Collects nodes and initialisers; every method returns an output's name."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.nodes, self.initialisers = [], []
        self._constants = set()

    def constant(self, name: str, value) -> str:
        """A name's second value is its first."""
        if name not in self._constants:
            self._constants.add(name)
            self.initialisers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, inputs: list, outputs, domain: str = "", **attributes) -> str:
        """The first of its outputs, which are a name or several."""
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs[0]

    def product(self, x: str, name: str) -> str:
        weight = self.constant(f"{name}.transposed", self.checkpoint.tensor(f"{name}.weight").T)
        return self.node("MatMul", [x, weight], f"{name}.product")

    def reshaped(self, x: str, shape: list, out: str) -> str:
        return self.node("Reshape", [x, self.constant(f"shape.{shape}", np.array(shape, np.int64))], out)

    def model(self, inputs: dict, output: str, shape: list, opset: int):
        """`inputs` is {name: (type, shape)}; the output is in f32."""
        graph = helper.make_graph(
            self.nodes,
            type(self).__module__,
            [helper.make_tensor_value_info(name, *described) for name, described in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.initialisers,
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
