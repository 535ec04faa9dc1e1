"""tokenizer.json and tokenizer_config.json from the vocabulary and merges inside a GGUF.

Only what SmolLM2 needs: byte-level BPE ("gpt2"), whose pre-tokenizer ("smollm") puts every digit
by itself and then splits with GPT-2's pattern. As with SmolLM2's own files nothing is appended
to a text: mlx-embed appends <|endoftext|> for last-token pooling.
"""

import json
from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors


def field(reader: GGUFReader, name: str):
    return reader.fields[f"tokenizer.{name}"].contents()


def build(reader: GGUFReader) -> Tokenizer:
    kind = field(reader, "ggml.model"), field(reader, "ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"a tokenizer of kind {kind}, where ('gpt2', 'smollm') is expected")
    tokens = field(reader, "ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "ggml.token_type")
    tokenizer.add_special_tokens([
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind == TokenType.CONTROL
    ])
    return tokenizer


def write(reader: GGUFReader, folder: Path) -> None:
    tokenizer = build(reader)
    tokens = field(reader, "ggml.tokens")
    if tokenizer.get_vocab_size() != len(tokens):
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens from a vocabulary of {len(tokens)}")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "bos_token": tokens[field(reader, "ggml.bos_token_id")],
        "chat_template": field(reader, "chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[field(reader, "ggml.eos_token_id")],
        "model_max_length": reader.fields["llama.context_length"].contents(),
        "pad_token": tokens[field(reader, "ggml.padding_token_id")],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[field(reader, "ggml.unknown_token_id")],
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
