"""Writes the checkpoint as an ONNX model: make_onnx.py CHECKPOINT FILE ACCURACY

The graph is of the contrib operators that exporters use: MatMulNBits, GatherBlockQuantized,
GroupQueryAttention with its own rotary embedding, SkipSimplifiedLayerNormalization.
ACCURACY is MatMulNBits' accuracy_level: 4 rounds activations to int8, 1 keeps them in f32.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from onnx_graph import CONTRIB
from onnx_graph import Graph as Base
from weights import GROUP, Checkpoint

POSITIONS = 4096


class Graph(Base):
    """A Qwen3 decoder."""

    def __init__(self, checkpoint: Checkpoint, accuracy: int):
        super().__init__(checkpoint)
        self.config = checkpoint.config
        self.accuracy = accuracy

    def linear(self, x: str, name: str) -> str:
        packed, scales = self.checkpoint.packed(name), self.checkpoint.scales(name)
        rows, groups = scales.shape
        blocks = self.constant(f"{name}.blocks", packed.reshape(rows, groups, GROUP // 2))
        return self.node(
            "MatMulNBits",
            [x, blocks, self.constant(f"{name}.scales", scales.reshape(-1))],
            [f"{name}.out"],
            CONTRIB,
            K=groups * GROUP,
            N=rows,
            bits=4,
            block_size=GROUP,
            accuracy_level=self.accuracy,
        )

    def embedding(self, ids: str) -> str:
        name = "embed_tokens"
        packed, scales = self.checkpoint.packed(name), self.checkpoint.scales(name)
        rows, groups = scales.shape
        zeros = np.full(rows * groups // 2, 0x88, np.uint8)
        self.initialisers += [
            helper.make_tensor(f"{name}.{part}", TensorProto.UINT4, shape, values.tobytes(), raw=True)
            for part, shape, values in [
                ("levels", [rows, groups * GROUP], packed),
                ("zeros", [rows, groups], zeros),
            ]
        ]
        return self.node(
            "GatherBlockQuantized",
            [f"{name}.levels", ids, self.constant(f"{name}.scales", scales), f"{name}.zeros"],
            [f"{name}.out"],
            CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=GROUP,
        )

    def rms_norm(self, x: str, name: str, out: str) -> str:
        weight = self.constant(f"{name}.weight", self.checkpoint.norm(name))
        return self.node(
            "SimplifiedLayerNormalization", [x, weight], [out], axis=-1, epsilon=self.config.eps
        )

    def add_and_norm(self, x: str, residual: str, name: str) -> tuple:
        """The sum, and the sum normalised."""
        weight = self.constant(f"{name}.weight", self.checkpoint.norm(name))
        normed, total = f"{name}.out", f"{name}.sum"
        self.node(
            "SkipSimplifiedLayerNormalization",
            [x, residual, weight],
            [normed, "", "", total],
            CONTRIB,
            epsilon=self.config.eps,
        )
        return total, normed

    def heads_norm(self, x: str, name: str, count: int) -> str:
        """RMSNorm of every head of [batch, tokens, heads * head_dim]."""
        head_dim = self.config.head_dim
        x = self.reshaped(x, [0, 0, count, head_dim], f"{name}.heads")
        x = self.rms_norm(x, name, f"{name}.normed")
        return self.reshaped(x, [0, 0, count * head_dim], f"{name}.out")

    def attention(self, x: str, layer: str) -> str:
        config = self.config
        q = self.heads_norm(self.linear(x, f"{layer}.q_proj"), f"{layer}.q_norm", config.heads)
        k = self.heads_norm(self.linear(x, f"{layer}.k_proj"), f"{layer}.k_norm", config.kv_heads)
        v = self.linear(x, f"{layer}.v_proj")
        mixed = self.node(
            "GroupQueryAttention",
            [q, k, v, "", "", "last_position", "tokens", "cos", "sin"],
            [f"{layer}.mixed", f"{layer}.keys", f"{layer}.values"],
            CONTRIB,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
        )
        return self.linear(mixed, f"{layer}.o_proj")

    def vectors(self):
        config = self.config
        half = np.arange(0, config.head_dim, 2) / config.head_dim
        angle = np.arange(POSITIONS)[:, None] * config.rope_theta**-half
        self.constant("cos", np.cos(angle).astype(np.float32))
        self.constant("sin", np.sin(angle).astype(np.float32))
        total = self.embedding("ids")
        normed = self.rms_norm(total, "layers.0.input_layernorm", "layers.0.input_layernorm.out")
        for index in range(config.layers):
            layer = f"layers.{index}"
            mixed = self.attention(normed, f"{layer}.self_attn")
            total, normed = self.add_and_norm(mixed, total, f"{layer}.post_attention_layernorm")
            gate = self.linear(normed, f"{layer}.mlp.gate_proj")
            up = self.linear(normed, f"{layer}.mlp.up_proj")
            gated = self.node("Sigmoid", [gate], [f"{layer}.mlp.sigmoid"])
            gated = self.node("Mul", [gate, gated], [f"{layer}.mlp.silu"])
            product = self.node("Mul", [gated, up], [f"{layer}.mlp.product"])
            down = self.linear(product, f"{layer}.mlp.down_proj")
            after = f"layers.{index + 1}.input_layernorm" if index + 1 < config.layers else "norm"
            total, normed = self.add_and_norm(down, total, after)
        last = self.constant("last", np.array(-1, np.int64))
        self.node("Gather", [normed, last], ["vector"], axis=1)
        inputs = {
            "ids": (TensorProto.INT64, ["batch", "tokens"]),
            "last_position": (TensorProto.INT32, ["batch"]),
            "tokens": (TensorProto.INT32, []),
        }
        return self.model(inputs, "vector", ["batch", config.hidden], 21)


def main() -> None:
    folder, path, accuracy = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(Graph(Checkpoint(folder), accuracy).vectors().SerializeToString())
    partial.rename(path)


if __name__ == "__main__":
    main()
