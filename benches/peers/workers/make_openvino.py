"""Writes the checkpoint as an OpenVINO model: make_openvino.py CHECKPOINT FILE.xml"""

import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import Model, Type
from openvino import opset13 as op

from weights import GROUP, Checkpoint


def constant(value, dtype=np.int64):
    return op.constant(np.array(value, dtype))


class Graph:
    """A Qwen3 decoder, op by op, in the patterns that OpenVINO fuses."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self._shared = []  # a Constant over a Tensor does not own its memory

    def _u4(self, values: np.ndarray, shape: list):
        self._shared.append(values)
        return ov.op.Constant(ov.Tensor(values, shape, Type.u4))

    def matrix(self, name: str):
        """f32 [rows, columns], kept as u4 with a zero point of 8 and one f16 scale a group."""
        packed, scales = self.checkpoint.packed(name), self.checkpoint.scales(name)
        rows, groups = scales.shape
        levels = self._u4(np.array(packed), [rows, groups, GROUP])
        zero = self._u4(np.full((rows * groups + 1) // 2, 0x88, np.uint8), [rows, groups, 1])
        centred = op.subtract(op.convert(levels, Type.f16), op.convert(zero, Type.f16))
        scaled = op.multiply(centred, op.constant(scales[:, :, None].astype(np.float16)))
        flat = op.reshape(scaled, constant([rows, groups * GROUP]), False)
        return op.convert(flat, Type.f32)

    def linear(self, x, name: str):
        return op.matmul(x, self.matrix(name), False, True)

    def rms_norm(self, x, name: str):
        square = op.reduce_mean(op.power(x, constant(2, np.float32)), constant([-1]), True)
        root = op.sqrt(op.add(square, constant(self.config.eps, np.float32)))
        normed = op.multiply(x, op.divide(constant(1, np.float32), root))
        return op.multiply(normed, op.constant(self.checkpoint.norm(name)))

    def rotary(self, ids):
        """cos and sin, each [1, 1, tokens, head_dim]."""
        half = np.arange(0, self.config.head_dim, 2) / self.config.head_dim
        frequencies = (self.config.rope_theta**-half).astype(np.float32)[None, :]
        tokens = op.gather(op.shape_of(ids), constant(1), constant(0))
        positions = op.convert(op.range(constant(0), tokens, constant(1), "i64"), Type.f32)
        column = op.unsqueeze(positions, constant([1]))
        angle = op.matmul(column, op.constant(frequencies), False, False)
        angle = op.unsqueeze(op.concat([angle, angle], -1), constant([0, 1]))
        return op.cos(angle), op.sin(angle)

    def rotate(self, x, cos, sin):
        first, second = op.split(x, constant(-1), 2).outputs()
        turned = op.concat([op.negative(second), first], -1)
        return op.add(op.multiply(x, cos), op.multiply(turned, sin))

    def attention(self, x, layer: str, cos, sin):
        config = self.config
        swap = constant([0, 2, 1, 3])

        def heads(name, count):
            return op.reshape(self.linear(x, name), constant([0, 0, count, config.head_dim]), True)

        def repeated(keys):
            times = constant([1, 1, config.heads // config.kv_heads, 1, 1])
            tiled = op.tile(op.unsqueeze(keys, constant([2])), times)
            return op.reshape(tiled, constant([0, config.heads, -1, config.head_dim]), True)

        q = self.rms_norm(heads(f"{layer}.q_proj", config.heads), f"{layer}.q_norm")
        k = self.rms_norm(heads(f"{layer}.k_proj", config.kv_heads), f"{layer}.k_norm")
        v = op.transpose(heads(f"{layer}.v_proj", config.kv_heads), swap)
        q = self.rotate(op.transpose(q, swap), cos, sin)
        k = self.rotate(op.transpose(k, swap), cos, sin)
        mixed = op.scaled_dot_product_attention(q, repeated(k), repeated(v), causal=True)
        width = config.heads * config.head_dim
        flat = op.reshape(op.transpose(mixed, swap), constant([0, 0, width]), True)
        return self.linear(flat, f"{layer}.o_proj")

    def model(self) -> Model:
        ids = op.parameter([-1, -1], Type.i64, name="ids")
        hidden = op.gather(self.matrix("embed_tokens"), ids, constant(0))
        cos, sin = self.rotary(ids)
        for index in range(self.config.layers):
            layer = f"layers.{index}"
            normed = self.rms_norm(hidden, f"{layer}.input_layernorm")
            hidden = op.add(hidden, self.attention(normed, f"{layer}.self_attn", cos, sin))
            normed = self.rms_norm(hidden, f"{layer}.post_attention_layernorm")
            gate = self.linear(normed, f"{layer}.mlp.gate_proj")
            up = self.linear(normed, f"{layer}.mlp.up_proj")
            product = op.multiply(op.swish(gate), up)
            hidden = op.add(hidden, self.linear(product, f"{layer}.mlp.down_proj"))
        last = op.gather(self.rms_norm(hidden, "norm"), constant(-1), constant(1))
        return Model([last], [ids])


def main() -> None:
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    partial = path.with_name("partial-" + path.name)
    graph = Graph(Checkpoint(folder))
    ov.save_model(graph.model(), partial, compress_to_fp16=False)
    partial.with_suffix(".bin").rename(path.with_suffix(".bin"))
    partial.rename(path)


if __name__ == "__main__":
    main()
