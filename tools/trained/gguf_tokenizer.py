"""tokenizer.json and tokenizer_config.json from the vocabulary and merges inside a GGUF.

Byte-level BPE as SmolLM2 ("smollm") and Qwen2 ("qwen2") have it, and the BPE of SentencePiece as Gemma has it ("llama"),
whose merges follow from its tokens and their scores. As with the models' own files nothing is appended to a text:
mlx-embed appends the end token for last-token pooling.
"""

import json
from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import (
    AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
)

# Qwen2's own pattern, from its tokenizer.json.
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")


def field(reader: GGUFReader, name: str):
    return reader.fields[f"tokenizer.{name}"].contents()


def byte_level(reader: GGUFReader, first: pre_tokenizers.PreTokenizer, use_regex: bool) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in field(reader, "ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocabulary(reader), merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex),
    ])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def smollm(reader: GGUFReader) -> Tokenizer:
    return byte_level(reader, pre_tokenizers.Digits(individual_digits=True), use_regex=True)


def qwen2(reader: GGUFReader) -> Tokenizer:
    tokenizer = byte_level(reader, pre_tokenizers.Split(Regex(QWEN2), "isolated"), use_regex=False)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def vocabulary(reader: GGUFReader) -> dict:
    return {token: i for i, token in enumerate(field(reader, "ggml.tokens"))}


def merges_of(tokens: dict, scores: list) -> list:
    """Every way to put a token together of two others, in the order in which SentencePiece prefers the whole."""
    found = []
    for token, i in tokens.items():
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        known = [pair for pair in splits if pair[0] in tokens and pair[1] in tokens]
        known.sort(key=lambda pair: (tokens[pair[0]], tokens[pair[1]]))
        found += [(-scores[i], i, pair) for pair in known]
    return [pair for *_, pair in sorted(found, key=lambda merge: merge[:2])]


def sentencepiece(reader: GGUFReader) -> Tokenizer:
    tokens = vocabulary(reader)
    kinds = field(reader, "ggml.token_type")
    normal = {token: i for token, i in tokens.items() if kinds[i] in (TokenType.NORMAL, TokenType.USER_DEFINED)}
    unknown = field(reader, "ggml.tokens")[field(reader, "ggml.unknown_token_id")]
    merges = merges_of(normal, field(reader, "ggml.scores"))
    tokenizer = Tokenizer(models.BPE(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
    ])
    if field(reader, "ggml.add_bos_token"):
        start = field(reader, "ggml.bos_token_id")
        name = field(reader, "ggml.tokens")[start]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, start)])
    return tokenizer


KINDS = {("gpt2", "smollm"): smollm, ("gpt2", "qwen2"): qwen2, ("llama", "default"): sentencepiece}


def build(reader: GGUFReader) -> Tokenizer:
    kind = field(reader, "ggml.model"), field(reader, "ggml.pre")
    if kind not in KINDS:
        raise ValueError(f"a tokenizer of kind {kind}, where one of {list(KINDS)} is expected")
    tokenizer = KINDS[kind](reader)
    types = field(reader, "ggml.token_type")
    tokenizer.add_special_tokens([
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(field(reader, "ggml.tokens"), types, strict=True)
        if kind == TokenType.CONTROL
    ])
    return tokenizer


def write(reader: GGUFReader, folder: Path, max_tokens: int) -> None:
    tokenizer = build(reader)
    tokens = field(reader, "ggml.tokens")
    if tokenizer.get_vocab_size() != len(tokens):
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens from a vocabulary of {len(tokens)}")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, key in [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")]:
        if f"tokenizer.ggml.{key}_token_id" in reader.fields:
            settings[f"{name}_token"] = tokens[field(reader, f"ggml.{key}_token_id")]
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
