"""The small byte-level BPE tokenizer that all golden checkpoints share.

Built the way Qwen's is: NFC, Qwen's split pattern, byte-level alphabet, special tokens after the
vocabulary. `tokenizer/` appends the end token in its post-processor, as Qwen3-Embedding does;
`tokenizer-plain/` does not, as plain Qwen3, so that an embedder has to append it itself.
"""

import json
from pathlib import Path

from tokenizers import (
    Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers,
)
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
SPECIAL = [END, "<|im_start|>", "<|im_end|>"]
LEARNED = 285  # 256 bytes and 29 merges
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "the cat sat on the mat while the other cat was sleeping in the sun",
    "there is nothing better than reading in the garden in the morning",
    "an embedding is a vector that stands for the meaning of a text",
]


def build() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def appends_end_token(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        processors.TemplateProcessing(
            single=f"$A {END}",
            pair=f"$A {END} $B {END}",
            special_tokens=[(END, tokenizer.token_to_id(END))],
        ),
    ])
    return tokenizer


def write(root: Path) -> None:
    """Writes both folders under `root`."""
    plain, appending = build(), appends_end_token(build())
    for name, tokenizer in [("tokenizer-plain", plain), ("tokenizer", appending)]:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        settings = {
            "eos_token": END,
            "pad_token": END,
            "model_max_length": 512,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def encode(folder: Path, text: str) -> list[int]:
    """Token ids through transformers, with the end token appended if the tokenizer does not."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ids = tokenizer(text)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(END)
    appends = tokenizer("")["input_ids"] == [end]
    return ids if appends else ids + [end]
