"""Writes the checkpoint's weights as Q4_0 GGUF: make_gguf.py CHECKPOINT FILE full|headless|candle

A group of 64 becomes two Q4_0 blocks of 32 with the same scale, so the weights are equal.

full      the whole vocabulary; the output head is tied to it, as in Qwen3-Embedding's own GGUF.
headless  the first 1024 rows of the vocabulary, so that the head, which llama.cpp runs over every
          token also when it embeds, costs nearly nothing.
candle    the whole vocabulary, and an identity as output head: candle's logits of the last token
          are then the hidden state.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

from weights import GROUP, NORMS, PROJECTIONS, Checkpoint

Q4_0 = gguf.GGMLQuantizationType.Q4_0
HEADLESS_ROWS = 1024
BLOCK = 32


def q4_0(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """u8 [rows, columns / 32 * 18]: a block is an f16 scale, then level i beside level i + 16."""
    rows = packed.shape[0]
    levels = np.empty((rows, packed.shape[1] * 2), np.uint8)
    levels[:, 0::2], levels[:, 1::2] = packed & 15, packed >> 4
    halves = levels.reshape(rows, -1, 2, BLOCK // 2)
    blocks = halves[:, :, 0] | halves[:, :, 1] << 4
    of_block = np.repeat(scales.astype(np.float16), GROUP // BLOCK, axis=1)[:, :, None]
    return np.concatenate([of_block.view(np.uint8), blocks], axis=2).reshape(rows, -1)


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
        blocks = q4_0(checkpoint.packed(name)[:count], checkpoint.scales(name)[:count])
        writer.add_tensor(target, blocks, raw_dtype=Q4_0)

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
