"""The checkpoint that every peer gets: weights.py CHECKPOINT NEW_CHECKPOINT makes it.

Affine 4 bit in groups of 64, read from an MLX safetensors file.

`zero_at_eight` turns a checkpoint of `tools/full_size/make_checkpoint.py` into one that every
format can hold exactly: each bias becomes -8 times its scale, so a weight is (level - 8) * scale,
which is also Q4_0 of GGUF, a u4 with zero point 8 of OpenVINO and MatMulNBits of ONNX Runtime.
Level 0 becomes 8, which centres the weights: with a mean, all vectors would point the same way and
comparing them would show nothing.
"""

import json
import mmap
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

GROUP = 64
PROJECTIONS = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
]
NORMS = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
]


class Config:
    """The numbers of config.json that a graph needs."""

    def __init__(self, folder: Path):
        values = json.loads((folder / "config.json").read_text())
        self.hidden = values["hidden_size"]
        self.layers = values["num_hidden_layers"]
        self.heads = values["num_attention_heads"]
        self.kv_heads = values["num_key_value_heads"]
        self.head_dim = values["head_dim"]
        self.intermediate = values["intermediate_size"]
        self.vocab = values["vocab_size"]
        self.eps = values["rms_norm_eps"]
        self.rope_theta = float(values["rope_theta"])


class Checkpoint:
    """Tensors of `model.safetensors`, mapped; names without `model.`."""

    def __init__(self, folder: Path):
        self.config = Config(folder)
        with open(folder / "model.safetensors", "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (size,) = struct.unpack("<Q", self._bytes[:8])
        self._entries = json.loads(self._bytes[8 : 8 + size])
        self._start = 8 + size

    def _raw(self, name: str, dtype) -> np.ndarray:
        entry = self._entries[f"model.{name}"]
        begin, end = entry["data_offsets"]
        count = (end - begin) // np.dtype(dtype).itemsize
        values = np.frombuffer(self._bytes, dtype, count, self._start + begin)
        return values.reshape(entry["shape"][0], -1)

    def _bf16(self, name: str) -> np.ndarray:
        return (self._raw(name, np.uint16).astype(np.uint32) << 16).view(np.float32)

    def packed(self, name: str) -> np.ndarray:
        """u8 [rows, columns / 2]: two levels a byte, the even column in the low half."""
        return self._raw(f"{name}.weight", np.uint8)

    def scales(self, name: str) -> np.ndarray:
        """f32 [rows, columns / 64]."""
        return self._bf16(f"{name}.scales")

    def norm(self, name: str) -> np.ndarray:
        """f32 [size]."""
        return self._bf16(f"{name}.weight").reshape(-1)

    def dense(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """f32 [rows, columns]: (level - 8) * scale."""
        packed, scales = self.packed(name)[rows], self.scales(name)[rows]
        levels = np.empty((packed.shape[0], packed.shape[1] * 2), np.float32)
        levels[:, 0::2], levels[:, 1::2] = packed & 15, packed >> 4
        return (levels - 8) * np.repeat(scales, GROUP, axis=1)


def zero_at_eight(source: Path, target: Path) -> None:
    """Copies a checkpoint, with every bias -8 times its scale (exact in bf16) and no level 0."""
    centred = np.array([(byte & 15 or 8) | (byte >> 4 or 8) << 4 for byte in range(256)], np.uint8)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    with open(partial / "model.safetensors", "r+b") as file:
        data = mmap.mmap(file.fileno(), 0)
        (size,) = struct.unpack("<Q", data[:8])
        entries = json.loads(data[8 : 8 + size])

        def tensor(name, dtype):
            begin, end = entries[name]["data_offsets"]
            count = (end - begin) // np.dtype(dtype).itemsize
            return np.frombuffer(data, dtype, count, 8 + size + begin)

        for layer in [name.removesuffix(".biases") for name in entries if name.endswith(".biases")]:
            levels = tensor(f"{layer}.weight", np.uint8)
            levels[:] = centred[levels]
            scales, biases = tensor(f"{layer}.scales", np.uint16), tensor(f"{layer}.biases", np.uint16)
            biases[:] = (scales + (3 << 7)) | 0x8000  # three up in the exponent, and the sign
        del levels, scales, biases
        data.flush()
        data.close()
    partial.rename(target)


if __name__ == "__main__":
    zero_at_eight(Path(sys.argv[1]), Path(sys.argv[2]))
