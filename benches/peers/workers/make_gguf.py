"""Writes the checkpoint's weights as GGUF: make_gguf.py CHECKPOINT FILE full|headless|candle

In Q4_0 a group of 64 becomes two blocks of 32 with the same scale, so the weights are equal. Q4_K
has scales of 6 bits in a block of 256, so each group's scale is off by up to 1 %.

full      Q4_0, the whole vocabulary; the output head is tied to it, as in Qwen3-Embedding's own GGUF.
headless  Q4_0, the first 1024 rows of the vocabulary, so that the head, which llama.cpp runs over every
          token also when it embeds, costs nearly nothing.
candle    Q4_K, for which candle has fast x86 kernels (it has none for Q4_0); the whole vocabulary,
          and an identity as output head: the logits of the last token are then the hidden state.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

from weights import GROUP, NORMS, PROJECTIONS, Checkpoint

Q4_0, Q4_K = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_K
HEADLESS_ROWS = 1024
BLOCK = 32


def unpacked(packed: np.ndarray) -> np.ndarray:
    """u8 [rows, columns]: the levels, 0 to 15."""
    levels = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint8)
    levels[:, 0::2], levels[:, 1::2] = packed & 15, packed >> 4
    return levels


def q4_0(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """u8 [rows, columns / 32 * 18]: a block is an f16 scale, then level i beside level i + 16."""
    rows = packed.shape[0]
    halves = unpacked(packed).reshape(rows, -1, 2, BLOCK // 2)
    blocks = halves[:, :, 0] | halves[:, :, 1] << 4
    of_block = np.repeat(scales.astype(np.float16), GROUP // BLOCK, axis=1)[:, :, None]
    return np.concatenate([of_block.view(np.uint8), blocks], axis=2).reshape(rows, -1)


def q4_k(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """u8 [rows, columns / 256 * 144]: two f16 units, eight 6-bit scales and minima, levels.

    A weight is unit * scale * level - unit_of_minima * minimum. With the second unit eight times the
    first and minima equal to the scales, that is unit * scale * (level - 8).
    """
    rows = packed.shape[0]
    of_block = np.repeat(scales, GROUP // BLOCK, axis=1).reshape(rows, -1, 8)
    unit = (of_block.max(axis=2, keepdims=True) / 63).astype(np.float16)
    six = np.clip(np.rint(of_block / unit.astype(np.float32)), 0, 63).astype(np.uint8)
    low, high = six[:, :, :4], six[:, :, 4:]
    first = low | (high >> 4) << 6
    bits = np.concatenate([first, first, (high & 15) | (high & 15) << 4], axis=2)
    pairs = unpacked(packed).reshape(rows, -1, 4, 2, BLOCK)
    levels = (pairs[:, :, :, 0] | pairs[:, :, :, 1] << 4).reshape(rows, -1, 128)
    units = np.concatenate([unit, unit * np.float16(8)], axis=2).view(np.uint8)
    return np.concatenate([units, bits, levels], axis=2).reshape(rows, -1)


def write(checkpoint: Checkpoint, path: Path, kind: str) -> None:
    config = checkpoint.config
    rows = HEADLESS_ROWS if kind == "headless" else config.vocab
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(32768)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.eps)
    writer.add_pooling_type(gguf.PoolingType.LAST)
    writer.add_uint32("general.dtype", 0)  # candle computes its rotary table in this type: f32
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{i}" for i in range(rows)])
    writer.add_token_types([gguf.TokenType.NORMAL] * rows)
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(rows - 1)

    def quantised(target: str, name: str, count=None) -> None:
        encode, dtype = (q4_k, Q4_K) if kind == "candle" else (q4_0, Q4_0)
        blocks = encode(checkpoint.packed(name)[:count], checkpoint.scales(name)[:count])
        writer.add_tensor(target, blocks, raw_dtype=dtype)

    quantised("token_embd.weight", "embed_tokens", rows)
    writer.add_tensor("output_norm.weight", checkpoint.norm("norm"))
    if kind == "candle":
        writer.add_tensor("output.weight", np.eye(config.hidden, dtype=np.float32))
    for layer in range(config.layers):
        for name, target in PROJECTIONS:
            quantised(f"blk.{layer}.{target}.weight", f"layers.{layer}.{name}")
        for name, target in NORMS:
            writer.add_tensor(f"blk.{layer}.{target}.weight", checkpoint.norm(f"layers.{layer}.{name}"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    folder, path, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    partial = path.with_name(path.name + ".partial")
    write(Checkpoint(folder), partial, kind)
    partial.rename(path)


if __name__ == "__main__":
    main()
