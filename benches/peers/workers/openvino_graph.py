"""What OpenVINO's graphs of encoders have in common."""

import numpy as np
from openvino import Type
from openvino import opset13 as op


def constant(value, dtype=np.int64):
    return op.constant(np.array(value, dtype))


class Graph:
    """`kind` is f32, or int8: matrices as int8 with a scale an output."""

    def __init__(self, checkpoint, kind: str):
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

    def product(self, x, name: str):
        return op.matmul(x, self.matrix(f"{name}.weight"), False, True)
