"""What the files beside a checkpoint's tokenizer and model do to its texts, by sentence-transformers and transformers.

Each case is a golden checkpoint with files changed; the references load it, and side_files.json gets the token ids of
some texts, and vectors where pooling is what the case is about, or scores of pairs. side_files.py --check makes them again and compares.
README.md says what to install.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import base64
import json
import shutil
import struct
import sys
import tempfile
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer

HERE = Path(__file__).resolve().parent
FILE = HERE / "side_files.json"
END = "<|endoftext|>"
LONG = "the cat sat on the mat while the other cat was sleeping in the sun"
TEXTS = ("The cat", "", "an <|im_end|> inside <|im_start|>", "<Instruct> find <query>the cat<passage> ", LONG)
INSTRUCTION = "Instruct: find the cat\nQuery:"
CONFIG, BERT, POOLING = "tokenizer_config.json", "sentence_bert_config.json", "1_Pooling/config.json"
SETTINGS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    base: str = "st-mean"
    edits: dict = field(default_factory=dict)  # file -> fields to set; null removes one
    files: dict = field(default_factory=dict)  # file -> its text or JSON, or an object with its base64
    texts: tuple = TEXTS
    prompts: tuple = ("",)
    vectors: bool = False
    folder: str = ""  # of the model's own files
    pairs: tuple = ()  # of a reranker, in place of the common ones


def added(content: str, **flags) -> dict:
    plain = dict(lstrip=False, rstrip=False, single_word=False, normalized=False, special=False)
    return {"content": content} | plain | flags


def config(name: str, about: str, texts: tuple = TEXTS, base: str = "st-mean", **fields) -> Case:
    """A case of fields in tokenizer_config.json."""
    return Case(name, about, base=base, edits={CONFIG: fields}, texts=texts)


def decoder(name: str, about: str, *tokens: dict, texts: tuple = TEXTS, first: int = 288, **fields) -> Case:
    """A case of tokens in added_tokens_decoder."""
    listed = {str(first + i): token for i, token in enumerate(tokens)}
    return config(name, about, texts, added_tokens_decoder=listed, **fields)


SPECIAL = [added(token, special=True) for token in (END, "<|im_start|>", "<|im_end|>")]
TOKENS = [
    Case("as-it-is", "nothing changed", prompts=("", INSTRUCTION)),
    decoder("added-token", "a token that tokenizer.json lacks", added("<Instruct>")),
    decoder("added-token-of-two-files", "one that it has, and one that it lacks", SPECIAL[2], added("<query>"), first=287),
    decoder("added-token-strips", "spaces beside a token are part of it", added("<Instruct>", rstrip=True),
            added("<query>", lstrip=True)),
    decoder("added-token-single-word", "only where it stands alone", added("cat", single_word=True), first=269,
            texts=("the cat", "cats", "(cat)", "concat cat")),
    decoder("added-token-normalized", "looked for after NFC", added("cafe\u0301", normalized=True), added("d\u00e9j\u00e0"),
            texts=("caf\u00e9 d\u00e9ja\u0300 vu", "cafe\u0301 d\u00e9j\u00e0 vu")),
    decoder("known-token-with-other-flags", "the files' flags go over tokenizer.json's",
            added("<|im_end|>", special=True, lstrip=True, rstrip=True), first=287),
    config("qwen2-class", "Qwen2Tokenizer gives its special tokens flags of its own", tokenizer_class="Qwen2Tokenizer",
           eos_token="<|im_end|>",
           added_tokens_decoder={str(285 + i): token for i, token in enumerate(
               [*SPECIAL[:2], added("<|im_end|>", special=True, lstrip=True), added("<Instruct>")])}),
    config("qwen2-class-without-tokens", "Qwen2Tokenizer's own tokens are there already", tokenizer_class="Qwen2Tokenizer",
           eos_token=None, pad_token=None),
    config("llama-class-of-bytes", "LlamaTokenizer is not taken for a byte-level vocabulary",
           tokenizer_class="LlamaTokenizerFast", texts=("<s> a </s> <unk>",)),
    config("additional-special-tokens", "a list of texts", additional_special_tokens=["<query>", "<passage>"]),
    config("extra-special-tokens", "the list's name in transformers 5, with objects",
           extra_special_tokens=["<query>", {"__type": "AddedToken"} | added("<passage>", rstrip=True)]),
    config("both-lists-of-special-tokens", "the new name counts", extra_special_tokens=["<query>"],
           additional_special_tokens=["<passage>"]),
    config("empty-list-beside-the-old-one", "an empty new list does not count", extra_special_tokens=[],
           additional_special_tokens=["<passage>"]),
    config("named-special-tokens", "special tokens by name", extra_special_tokens={"query_token": "<query>"}),
    config("token-of-the-models-own", "a field that names a token", query_token="<query>"),
    config("tokens-get-ids-in-order", "the common names have an order", mask_token="<query>", sep_token="<passage>",
           bos_token="<Instruct>"),
    config("word-as-special-token", "a word of the vocabulary becomes a token that is looked for", pad_token="in",
           texts=("inside in begin", "IN")),
    config("split-special-tokens", "special tokens in texts are plain text", split_special_tokens=True),
    decoder("split-only-special-tokens", "others stay whole", added("<Instruct>"), added("<query>", special=True),
            split_special_tokens=True),
    Case("added-tokens-json", "the file of older versions", files={"added_tokens.json": {"<query>": 289, "<Instruct>": 288}}),
    Case("special-tokens-map", "its tokens, and flags by object", files={"special_tokens_map.json": {
        "sep_token": {"content": "<query>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False},
        "additional_special_tokens": ["<passage>"]}}),
    Case("both-older-files", "tokens of one are special by the other",
         files={"added_tokens.json": {"<query>": 288, "<Instruct>": 289},
                "special_tokens_map.json": {"additional_special_tokens": ["<query>"]}},
         edits={CONFIG: {"split_special_tokens": True}}),
    Case("lists-of-special-tokens-in-two-files", "new names are joined", edits={CONFIG: {
        "extra_special_tokens": ["<passage>"]}}, files={"special_tokens_map.json": {"extra_special_tokens": ["<query>"]}}),
    Case("old-list-of-special-tokens-after-another", "the old name counts where there is no other", edits={CONFIG: {
        "additional_special_tokens": []}}, files={"special_tokens_map.json": {"additional_special_tokens": ["<query>"]}}),
    Case("special-tokens-of-added-tokens-json", "by name",
         files={"added_tokens.json": {"<query>": 288, "<Instruct>": 289}, "special_tokens_map.json": {"sep_token": "<query>"}},
         edits={CONFIG: {"split_special_tokens": True}}),
    Case("older-files-do-not-count", "added_tokens_decoder says all that there is",
         edits={CONFIG: {"added_tokens_decoder": {"288": added("<Instruct>")}}},
         files={"added_tokens.json": {"<query>": 289}, "special_tokens_map.json": {"sep_token": "<passage>"}}),
    Case("no-tokenizer-config", "the file may be missing", files={CONFIG: None}),
    Case("python-json", "numbers that only Python's JSON has", files={CONFIG: '{"model_max_length": Infinity, "eos_token": '
         f'"{END}", "score": NaN, "tokenizer_class": "PreTrainedTokenizerFast", "query_token": "<query>"}}'}),
]

SPACES = ("the cat", "the cat ", "  the   cat\n", "   ", "", "the\tcat </s> sat")
WORDS = ("The CAT", "a caf\u00e9, a na\u00efve cat", "a\u6771cat", "the\u0000cat")


def of_bert(name: str, about: str, normalizer: dict, base: str = "families/bert-f32", **fields) -> Case:
    """A case of a class that makes its normaliser by tokenizer_config.json; `normalizer` is tokenizer.json's."""
    plain = dict(type="BertNormalizer", clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    return Case(name, about, base=base, texts=WORDS, edits={
        CONFIG: {"tokenizer_class": "BertTokenizer"} | fields, "tokenizer.json": {"normalizer": plain | normalizer}})


def of_xlm_roberta(name: str, about: str, **fields) -> Case:
    """A case of a class that makes words of what lies between spaces."""
    return Case(name, about, base="families/xlm-roberta-f32", texts=SPACES,
                edits={CONFIG: {"tokenizer_class": "XLMRobertaTokenizer"} | fields})


CASED = {"lowercase": False}
OWN_PARTS = [
    of_bert("bert-class-lower-case-by-default", "BertTokenizer puts texts into lower case whatever tokenizer.json says", CASED),
    of_bert("bert-class-lower-case", "the same where the file says so", CASED, do_lower_case=True),
    of_bert("bert-class-cased", "and the other way round", {}, do_lower_case=False),
    of_bert("bert-class-cased-in-both", "both files agree", CASED, do_lower_case=False),
    of_bert("bert-class-accents", "accents stay", {}, strip_accents=False),
    of_bert("bert-class-accents-by-default", "accents go with the capitals", {"strip_accents": False}),
    of_bert("bert-class-chinese", "no spaces around Chinese characters", {}, tokenize_chinese_chars=False),
    of_bert("bert-class-chinese-by-default", "spaces around them", {"handle_chinese_chars": False}),
    of_bert("bert-class-cleans", "always", {"clean_text": False}),
    of_bert("bert-fast-class", "the class's older name", CASED, tokenizer_class="BertTokenizerFast"),
    of_bert("bert-model-without-class", "the model's kind has the class", CASED, tokenizer_class=None),
    of_bert("bert-model-of-another-class", "tokenizer.json alone", CASED, tokenizer_class="PreTrainedTokenizerFast",
            do_lower_case=True),
    Case("bert-class-cased-in-arguments", "sentence-transformers' arguments go over it", base="families/bert-f32", texts=WORDS,
         edits={CONFIG: {"tokenizer_class": "BertTokenizer"}},
         files={BERT: {"tokenizer_args": {"do_lower_case": False}}}),
    of_bert("distilbert-class", "as BertTokenizer", CASED, "families/distilbert-f32", tokenizer_class="DistilBertTokenizer"),
    of_bert("mpnet-class", "likewise", CASED, "families/mpnet-f32", tokenizer_class="MPNetTokenizer"),
    of_bert("modernbert-takes-no-class", "tokenizer.json alone", CASED, "families/modernbert-f32"),
    Case("roberta-class-without-space", "RobertaTokenizer puts no space before a text whatever tokenizer.json says",
         base="families/roberta-dense-tanh-bf16", texts=WORDS, edits={CONFIG: {"tokenizer_class": "RobertaTokenizer"},
         "tokenizer.json": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}}}),
    Case("roberta-class-with-space", "where the file says so", base="families/roberta-dense-tanh-bf16", texts=WORDS,
         edits={CONFIG: {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}}),
    Case("camembert-class", "its own tokens besides, and <mask> takes the space before it", base="families/camembert-bf16",
         texts=(*SPACES, "the <mask> cat", "<s>NOTUSED the"), edits={CONFIG: {"tokenizer_class": "CamembertTokenizer", "mask_token": None}}),
    Case("camembert-class-of-the-model", "no class is named", base="families/camembert-bf16", texts=SPACES,
         edits={CONFIG: {"tokenizer_class": None}}),
    Case("camembert-class-other-unknown", "the unknown token has the place that the vocabulary gives it",
         base="families/camembert-bf16", texts=("the \u6771 cat",), edits={CONFIG: {
             "tokenizer_class": "CamembertTokenizer", "unk_token": "<pad>"}}),
    of_xlm_roberta("xlm-roberta-class", "XLMRobertaTokenizer makes no tokens of spaces at the ends, whatever tokenizer.json says"),
    of_xlm_roberta("xlm-roberta-model-without-class", "the model's kind has the class", tokenizer_class=None),
    of_xlm_roberta("xlm-roberta-class-without-space", "no space before words", add_prefix_space=False),
    of_xlm_roberta("xlm-roberta-model-of-another-class", "tokenizer.json alone", tokenizer_class="PreTrainedTokenizerFast"),
]


def of_class(name: str, about: str, base: str, tokenizer: dict = {}, texts: tuple = WORDS, model: dict = {}, **fields) -> Case:
    """A case of a class that builds a tokenizer of its own around the vocabulary; `tokenizer` is what else tokenizer.json
    says, `model` what config.json does."""
    edits = {CONFIG: fields, "tokenizer.json": tokenizer, "config.json": model}
    return Case(name, about, base=f"families/{base}", texts=texts, edits={name: edit for name, edit in edits.items() if edit})


def template(first: str, last: str) -> dict:
    """A post-processor that puts two tokens around texts, and is not what any class builds."""
    pieces = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": last, "type_id": 0}}]
    tokens = {token: {"id": token, "ids": [id], "tokens": [token]} for id, token in ((3, first), (1, last))}
    return {"type": "TemplateProcessing", "single": pieces, "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": tokens}


WHOLE = {"type": "Whitespace"}
UPPER = {"type": "Replace", "pattern": {"String": "cat"}, "content": "CAT"}
MARKED = ("a [MASK] b[SEP]", "a <mask> b</s>", "<MASK> [UNK] <unk> <bos>", "the  cat sat <|endoftext|>")
LONG_WORDS = ("thethethethethethe cat", "the" * 40)
ELSE = ("BertTokenizer", "bert-f32"), ("DistilBertTokenizer", "distilbert-f32"), ("MPNetTokenizer", "mpnet-f32")
LLAMA = {"model_type": "llama", "architectures": ["LlamaModel"], "sliding_window": None}
BUILT = [
    *(of_class(f"{name}-pre-tokenizer", "BERT's own", base, {"pre_tokenizer": WHOLE}, tokenizer_class=name)
      for name, base in ELSE),
    *(of_class(f"{name}-normalizer", "BERT's own", base, {"normalizer": None}, tokenizer_class=name) for name, base in ELSE),
    *(of_class(f"{name}-post-processor", "the class's tokens around a text", base, {"post_processor": template("[UNK]", "a")},
               tokenizer_class=name) for name, base in ELSE),
    *(of_class(f"{name}-long-words", "up to 100 characters", base, {"model.max_input_chars_per_word": 5}, LONG_WORDS,
               tokenizer_class=name) for name, base in ELSE),
    *(of_class(f"{name}-tokens", "its own, where tokenizer.json lists none", base, {"added_tokens": []}, MARKED,
               tokenizer_class=name, **dict.fromkeys(("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")))
      for name, base in ELSE),
    of_class("bert-class-other-ends", "the tokens that the file names", "bert-f32", tokenizer_class="BertTokenizer",
             cls_token="[MASK]", sep_token="[PAD]"),
    of_class("bert-class-ends-by-default", "the tokens that the class names", "bert-f32", tokenizer_class="BertTokenizer",
             cls_token=None, sep_token=None),
    of_class("bert-class-lists-its-tokens", "tokenizer.json's own are plain text then", "bert-f32", {}, MARKED,
             tokenizer_class="BertTokenizer", added_tokens_decoder={
                 str(i): added(token, special=True) for i, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))},
             mask_token="[UNK]"),
    of_class("electra-class", "another name of BertTokenizer", "bert-f32", {"normalizer": None}, tokenizer_class="ElectraTokenizer"),
    Case("bert-class-ends-in-arguments", "nothing goes over what the class puts around texts", base="families/bert-f32",
         texts=WORDS, edits={CONFIG: {"tokenizer_class": "BertTokenizer"}},
         files={BERT: {"tokenizer_args": {"add_bos_token": True, "bos_token": "[MASK]"}}}),
    of_class("roberta-class-normalizer", "none", "roberta-dense-tanh-bf16", {"normalizer": {"type": "Lowercase"}},
             tokenizer_class="RobertaTokenizer"),
    of_class("roberta-class-pre-tokenizer", "bytes", "roberta-dense-tanh-bf16", {"pre_tokenizer": {"type": "Sequence",
             "pretokenizers": [WHOLE, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}]}},
             tokenizer_class="RobertaTokenizer"),
    of_class("roberta-class-post-processor", "the class's tokens around a text", "roberta-dense-tanh-bf16",
             {"post_processor": template("<mask>", "a")}, tokenizer_class="RobertaTokenizer"),
    of_class("roberta-class-model", "pairs of bytes, and nothing else", "roberta-dense-tanh-bf16",
             {"model.ignore_merges": True, "model.unk_token": "<unk>"}, tokenizer_class="RobertaTokenizer"),
    of_class("bart-class", "another name of RobertaTokenizer", "roberta-dense-tanh-bf16", {"normalizer": {"type": "Lowercase"}},
             tokenizer_class="BartTokenizerFast"),
    of_class("gpt2-class", "bytes, and what tokenizer.json puts around them", "roberta-dense-tanh-bf16",
             {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": WHOLE}, tokenizer_class="GPT2Tokenizer"),
    of_class("xlm-roberta-class-normalizer", "a table of characters or none", "xlm-roberta-f32", {"normalizer": UPPER}, SPACES,
             tokenizer_class="XLMRobertaTokenizer"),
    of_class("xlm-roberta-class-widths", "letters of another width stay", "xlm-roberta-f32", {}, ("\uff34he \u2167 cat",),
             tokenizer_class="XLMRobertaTokenizer"),
    of_class("xlm-roberta-class-pre-tokenizer", "words", "xlm-roberta-f32", {"pre_tokenizer": WHOLE}, SPACES,
             tokenizer_class="XLMRobertaTokenizer"),
    of_class("xlm-roberta-class-post-processor", "the class's tokens around a text", "xlm-roberta-f32",
             {"post_processor": template("<mask>", "<pad>")}, SPACES, tokenizer_class="XLMRobertaTokenizer"),
    of_class("xlm-roberta-class-unknown", "the fourth of the vocabulary", "xlm-roberta-f32", {"model.unk_id": 1},
             ("the \u6771 cat",), tokenizer_class="XLMRobertaTokenizer"),
    of_class("t5-class", "words behind a space each, an end, and what stands for gaps", "t5-f32",
             {"normalizer": UPPER, "pre_tokenizer": WHOLE, "post_processor": None}, (*SPACES, "a <extra_id_1> b <extra_id_2>"),
             tokenizer_class="T5Tokenizer", add_prefix_space=False),
    of_class("t5-class-unknown", "the third of the vocabulary", "t5-f32", {"model.unk_id": 1}, ("the \u6771 cat",),
             tokenizer_class="T5TokenizerFast"),
    of_class("t5-model-without-class", "the model's kind has the class", "t5-f32", {"pre_tokenizer": WHOLE}, SPACES,
             tokenizer_class=None),
    of_class("gemma-class", "spaces, and no others", "embedding-gemma-f32", {"normalizer": UPPER, "pre_tokenizer": WHOLE}, SPACES,
             tokenizer_class="GemmaTokenizer"),
    of_class("gemma-class-tokens", "a mask that tokenizer.json lacks", "embedding-gemma-f32", {}, MARKED,
             tokenizer_class="GemmaTokenizer"),
    of_class("gemma-class-tokens-in-order", "its mask has an id before those of a list", "embedding-gemma-f32", {},
             ("a <mask> b", "the cat <query>"), tokenizer_class="GemmaTokenizer", extra_special_tokens=["cat", "<query>"]),
    of_class("gemma-class-model", "unknown characters are bytes", "embedding-gemma-f32", {"model.byte_fallback": False,
             "model.fuse_unk": False}, ("the \u6771\u6771 cat",), tokenizer_class="GemmaTokenizer"),
    of_class("gemma-model-without-class", "the model's kind has the class", "embedding-gemma-f32", {"normalizer": UPPER}, SPACES,
             tokenizer_class=None),
    of_class("llama-class", "a space before texts", "mistral-no-window", {"normalizer": UPPER, "pre_tokenizer": WHOLE}, SPACES,
             LLAMA, tokenizer_class="LlamaTokenizer"),
    of_class("llama-class-legacy", "and behind each special token", "mistral-no-window", {}, SPACES, LLAMA,
             tokenizer_class="LlamaTokenizer", legacy=True),
    of_class("llama-class-without-space", "no space", "mistral-no-window", {}, SPACES, LLAMA, tokenizer_class="LlamaTokenizer",
             add_prefix_space=False),
    of_class("llama-model-without-class", "tokenizer.json alone", "mistral-no-window", {}, SPACES, LLAMA, tokenizer_class=None),
    of_class("mistral-takes-no-class", "tokenizer.json alone", "mistral-no-window", {}, SPACES, tokenizer_class="LlamaTokenizer",
             add_prefix_space=False),
    of_class("qwen2-class-normalizer", "NFC", "qwen2-is-causal-false-mean", {"normalizer": None},
             ("cafe\u0301 d\u00e9j\u00e0",), tokenizer_class="Qwen2Tokenizer"),
    of_class("qwen2-class-pre-tokenizer", "the class's words", "qwen2-is-causal-false-mean", {"pre_tokenizer": {
             "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}}, SPACES,
             tokenizer_class="Qwen2Tokenizer"),
    of_class("qwen2-class-with-space", "where the file says so", "qwen2-is-causal-false-mean", {}, SPACES,
             tokenizer_class="Qwen2Tokenizer", add_prefix_space=True),
    of_class("qwen2-model-takes-no-class", "its own, whatever is named", "qwen2-is-causal-false-mean", {"normalizer": UPPER}, SPACES,
             tokenizer_class="PreTrainedTokenizerFast"),
    of_class("qwen2-model-with-code", "what is named stands in for it", "qwen2-is-causal-false-mean", {"normalizer": UPPER}, SPACES,
             tokenizer_class="PreTrainedTokenizerFast", auto_map={"AutoTokenizer": ["a.A", "a.B"]}),
    Case("gte-with-code", "as arctic-embed-m-v2.0: code that is that of gte, and fields of its own config", base="families/gte-bf16",
         texts=WORDS, edits={"config.json": {"auto_map": {"AutoConfig": "configuration_hf_alibaba_nlp_gte.GteConfig",
         "AutoModel": "modeling_hf_alibaba_nlp_gte.GteModel"}, "architectures": ["GteModel"], "rope_parameters": None,
         "rope_theta": 5000.0, "rope_scaling": None, "pack_qkv": True, "position_embedding_type": "rope",
         "logn_attention_clip1": False, "unpad_inputs": True}}),
    of_class("class-of-nobody", "tokenizer.json alone", "bert-f32", {"normalizer": None}, tokenizer_class="OurTokenizer"),
    of_class("class-in-config", "where tokenizer_config.json names none", "bert-f32", {"normalizer": None},
             model={"tokenizer_class": "MPNetTokenizer"}, tokenizer_class=None),
]

ENDS = [
    config("ends-in-tokenizer-config", "with a tokenizer.json these two say nothing", bos_token="<|im_start|>",
           add_bos_token=True, add_eos_token=False),
    Case("ends-in-arguments", "as arguments they do", edits={CONFIG: {"bos_token": "<|im_start|>"}, "tokenizer.json":
         {"post_processor": None}}, files={BERT: {"tokenizer_args": {"add_bos_token": True, "add_eos_token": True}}}),
    Case("one-end-in-arguments", "the other one is off then",
         files={BERT: {"processor_kwargs": {"add_bos_token": True, "bos_token": "<|im_start|>"}}}),
    Case("end-without-token", "no bos_token, nothing to add", files={BERT: {"processor_kwargs": {"add_bos_token": True}}}),
]



def vocabulary(tokenizer: str) -> dict:
    """The files that repositories had before tokenizer.json, of one of the small tokenizers."""
    model = json.loads((HERE / tokenizer / "tokenizer.json").read_text())["model"]
    ids = model["vocab"]
    if "merges" not in model:
        return {"vocab.txt": "".join(f"{word}\n" for word in sorted(ids, key=ids.get))}
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"vocab.json": json.dumps(ids), "merges.txt": "\n".join(["#version: 0.2", *pairs, ""])}


def without_tokenizer_json(name: str, about: str, base: str, tokenizer: str, texts: tuple = WORDS, files: dict | None = None,
                           **fields) -> Case:
    return Case(name, about, base=base, edits={CONFIG: fields} if fields else {}, texts=texts,
                files={"tokenizer.json": None} | vocabulary(tokenizer) | (files or {}))


def message(*fields: tuple) -> bytes:
    """A protobuf message of fields below 16: whole numbers, floats, texts and messages."""
    def varint(number: int) -> bytes:
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    def written(number: int, value) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        if isinstance(value, float):
            return varint(number << 3 | 5) + struct.pack("<f", value)
        value = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(value)) + value

    return b"".join(written(number, value) for number, value in fields)


def table(letter: str, replacement: str) -> bytes:
    """A table of characters that puts something in the place of one letter: a double array with a root, the letter and its leaf."""
    index = [0] * 256
    index[0], index[1 ^ ord(letter)], index[1 ^ ord(letter) ^ 128] = 1 << 10, ord(letter) | 1 << 8 | 128 << 10, 1 << 31
    return struct.pack("<I256I", 1024, *index) + replacement.encode() + b"\0"


NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def sentencepiece(tokenizer: str, name: str, first: dict, further: dict | None = None, characters: bytes = b"") -> dict:
    """A SentencePiece model with the words of one of the small tokenizers behind its first tokens, and what stands for it in a
    JSON file."""
    vocab = json.loads((HERE / OLD / tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    words = {piece: NORMAL for piece, _ in vocab if not piece.startswith("<")}
    scores = dict(vocab)
    pieces = [(1, message((1, piece), (2, float(scores.get(piece, 0.0))), (3, kind)))
              for piece, kind in (first | words | (further or {})).items()]
    normalizer = message((1, "identity"), (2, characters))
    return {name: {"base64": base64.b64encode(message(*pieces, (2, message((3, 1))), (3, normalizer))).decode()}}


OLD = "families/tokenizers"
OF_XLM_ROBERTA = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
OF_T5 = {"<pad>": CONTROL, "</s>": CONTROL, "<unk>": UNKNOWN}


def of_pieces(name: str, about: str, base: str, file: str, texts: tuple, first: dict, further: dict | None = None,
              characters: bytes = b"", tokenizer: str = "unigram", alone: bool = False, **fields) -> Case:
    """A case of a SentencePiece model in the place of tokenizer.json."""
    return Case(name, about, base=f"families/{base}", texts=texts, edits={} if alone else {CONFIG: fields}, files={
        "tokenizer.json": None} | ({CONFIG: None} if alone else {}) | sentencepiece(tokenizer, file, first, further, characters))


GAPS = ("the <extra_id_0> sat <extra_id_1></s>", "<pad>the  cat<extra_id_99>")
PIECES = "sentencepiece.bpe.model"
SPECIALS = ("a [MASK] b[SEP]", "<s> a</s> <mask>", "the  cat sat <|endoftext|>", *WORDS)
VOCABULARIES = [
    without_tokenizer_json("vocab-txt", "BERT's words, one a line", "families/bert-f32", f"{OLD}/wordpiece", SPECIALS,
                           tokenizer_class="BertTokenizer"),
    without_tokenizer_json("vocab-txt-cased", "and the settings of the class", "families/bert-f32", f"{OLD}/wordpiece",
                           tokenizer_class="BertTokenizer", do_lower_case=False),
    without_tokenizer_json("vocab-txt-with-spaces", "spaces behind a word are no part of it", "families/bert-f32",
                           f"{OLD}/wordpiece", tokenizer_class="BertTokenizer", files={"vocab.txt": vocabulary(
                               f"{OLD}/wordpiece")["vocab.txt"].replace("\nthe\n", "\nthe \n").replace("\na\n", "\na\u00a0\n")}),
    without_tokenizer_json("vocab-txt-alone", "by the model's kind", "families/bert-f32", f"{OLD}/wordpiece",
                           files={CONFIG: None}),
    without_tokenizer_json("vocab-txt-of-distilbert", "likewise", "families/distilbert-f32", f"{OLD}/wordpiece", SPECIALS,
                           tokenizer_class="DistilBertTokenizer"),
    without_tokenizer_json("vocab-txt-of-mpnet", "likewise", "families/mpnet-f32", f"{OLD}/mpnet", SPECIALS,
                           tokenizer_class="MPNetTokenizer"),
    without_tokenizer_json("vocab-and-merges", "RoBERTa's pairs of bytes", "families/roberta-dense-tanh-bf16",
                           f"{OLD}/roberta", SPECIALS, tokenizer_class="RobertaTokenizer"),
    without_tokenizer_json("vocab-and-merges-with-space", "and the settings of the class",
                           "families/roberta-dense-tanh-bf16", f"{OLD}/roberta", tokenizer_class="RobertaTokenizer",
                           add_prefix_space=True),
    without_tokenizer_json("vocab-and-merges-of-qwen2", "with tokens that are listed beside", "st-mean", "tokenizer", TEXTS,
                           tokenizer_class="Qwen2Tokenizer", added_tokens_decoder={
                               str(285 + i): token for i, token in enumerate([*SPECIAL, added("<Instruct>")])}),
    without_tokenizer_json("ends-without-tokenizer-json", "then the settings say what stands at the ends", "st-mean",
                           "tokenizer", TEXTS, tokenizer_class="Qwen2Tokenizer", add_eos_token=True,
                           added_tokens_decoder={str(285 + i): token for i, token in enumerate(SPECIAL)}),
    without_tokenizer_json("no-ends-without-tokenizer-json", "none, if they say so", "st-mean", "tokenizer", TEXTS,
                           tokenizer_class="Qwen2Tokenizer", add_bos_token=False,
                           added_tokens_decoder={str(285 + i): token for i, token in enumerate(SPECIAL)}),
    of_pieces("pieces-of-xlm-roberta", "SentencePiece's tokens behind the class's own", "xlm-roberta-f32", PIECES, SPECIALS,
              OF_XLM_ROBERTA, tokenizer_class="XLMRobertaTokenizer"),
    of_pieces("pieces-alone", "by the model's kind", "xlm-roberta-f32", PIECES, SPECIALS, OF_XLM_ROBERTA, alone=True),
    of_pieces("pieces-with-characters", "and the normaliser's table", "xlm-roberta-f32", PIECES, WORDS, OF_XLM_ROBERTA,
              characters=table("c", "th"), tokenizer_class="XLMRobertaTokenizer"),
    of_pieces("pieces-of-users", "that stand in a text before others", "xlm-roberta-f32", PIECES,
              ("a cat|sat", "the |cat", "cat| <c>", *SPECIALS), OF_XLM_ROBERTA, {"cat|": USER_DEFINED, "<c>": CONTROL},
              tokenizer_class="XLMRobertaTokenizer"),
    of_pieces("pieces-by-other-names", "the files name other special tokens", "xlm-roberta-f32", PIECES,
              ("<b> a</s>", *SPECIALS), OF_XLM_ROBERTA, tokenizer_class="XLMRobertaTokenizer", bos_token="<b>",
              cls_token="<b>"),
    of_pieces("pieces-of-camembert", "where its first token is unused", "camembert-bf16", PIECES, SPECIALS, OF_XLM_ROBERTA,
              tokenizer_class="CamembertTokenizer"),
    of_pieces("pieces-of-t5", "with tokens for gaps behind them", "t5-f32", "spiece.model", SPECIALS, OF_T5,
              tokenizer="t5", tokenizer_class="T5Tokenizer"),
    of_pieces("pieces-of-t5-with-few-gaps", "as many as the files say", "t5-f32", "spiece.model", GAPS + SPECIALS, OF_T5,
              tokenizer="t5", tokenizer_class="T5Tokenizer", extra_ids=2),
]

LIMITS = [
    config("model-max-length", "a limit of the tokenizer's", model_max_length=8),
    config("model-max-length-is-none", "1e30 is no limit", model_max_length=10**30),
    config("model-max-length-beyond-positions", "the model's positions are less", model_max_length=4096),
    config("truncation-side-left", "the beginning goes", truncation_side="left", model_max_length=8),
    Case("truncation-side-in-tokenizer-json", "the side that tokenizer.json has been trained with", edits={
        CONFIG: {"model_max_length": 8}, "tokenizer.json": {"truncation": {
            "direction": "Left", "max_length": 100, "strategy": "LongestFirst", "stride": 0}}}),
    Case("truncation-side-over-tokenizer-json", "tokenizer_config.json goes over it", edits={
        CONFIG: {"model_max_length": 8, "truncation_side": "right"}, "tokenizer.json": {"truncation": {
            "direction": "Left", "max_length": 100, "strategy": "LongestFirst", "stride": 0}}}),
    Case("max-seq-length", "a limit of sentence-transformers'", files={BERT: {"max_seq_length": 6, "do_lower_case": False}}),
    Case("max-seq-length-below-model-max-length", "it goes over the tokenizer's", files={BERT: {"max_seq_length": 6}},
         edits={CONFIG: {"model_max_length": 8}}),
    Case("max-seq-length-above-model-max-length", "also where it is more", files={BERT: {"max_seq_length": 12}},
         edits={CONFIG: {"model_max_length": 8}}),
    Case("max-seq-length-is-null", "no limit there", files={BERT: {"max_seq_length": None}},
         edits={CONFIG: {"model_max_length": 8}}),
    Case("limit-of-old-arguments", "an argument of the tokenizer goes over both",
         files={BERT: {"max_seq_length": 10, "tokenizer_args": {"model_max_length": 5}}},
         edits={CONFIG: {"model_max_length": 8}}),
    Case("limit-of-new-arguments", "the same by its new name",
         files={BERT: {"max_seq_length": 5, "processor_kwargs": {"model_max_length": 10}}}),
    Case("limit-of-calls", "an argument of each call", files={BERT: {"max_seq_length": 10, "processing_kwargs":
         {"text": {"max_length": 7}}}}),
    Case("limit-of-calls-of-any-kind", "that goes over one of calls with text", files={BERT: {"processing_kwargs":
         {"text": {"max_length": 7}, "common": {"max_length": 9}}}}),
    Case("arguments-without-effect", "on text", files={BERT: {"max_seq_length": 9, "model_args": {"torch_dtype": "float32"},
         "tokenizer_args": {"padding_side": "left", "truncation_side": "left"}, "config_args": {"rms_norm_eps": 1e-6}}}),
    Case("model-without-a-pooler", "it makes what nobody asks for", base="families/bert-f32", files={BERT: {
        "max_seq_length": 9, "model_args": {"add_pooling_layer": False}}}),
    Case("older-name-of-the-file", "one of a model's kind", files={"sentence_roberta_config.json": {"max_seq_length": 6}}),
    Case("empty-file-before-it", "an empty one does not count", files={BERT: {},
         "sentence_roberta_config.json": {"max_seq_length": 6}}),
    Case("as-version-6-writes-it", "everything that it writes", files={BERT: {
        "transformer_task": "feature-extraction", "modality_config": {"text": {
            "method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings", "max_seq_length": 9}}),
]

CASE_TEXTS = ("The CAT \u00c9T\u00c9 \u0130stanbul", "<|IM_END|> <|im_end|> <QUERY> <query>")
LOWER = [
    Case("lower-case", "a step before the others", files={BERT: {"do_lower_case": True}}, texts=CASE_TEXTS),
    Case("lower-case-without-normalizer", "the only one", files={BERT: {"do_lower_case": True}}, texts=CASE_TEXTS,
         edits={"tokenizer.json": {"normalizer": None}}),
    Case("lower-case-before-several", "a step before them", files={BERT: {"do_lower_case": True}}, texts=CASE_TEXTS,
         edits={"tokenizer.json": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}}}),
    Case("lower-case-already", "it stays where it is", files={BERT: {"do_lower_case": True}}, texts=CASE_TEXTS,
         edits={"tokenizer.json": {"normalizer": {"type": "Sequence", "normalizers": [
             {"type": "Replace", "pattern": {"String": "CAT"}, "content": "DOG"}, {"type": "Lowercase"}]}}}),
    Case("lower-case-and-added-tokens", "those that are normalised are lowered too", texts=CASE_TEXTS,
         files={BERT: {"do_lower_case": True}},
         edits={CONFIG: {"added_tokens_decoder": {"288": added("<QUERY>", normalized=True), "289": added("CAT")}}}),
]

VECTOR_TEXTS = ("The cat", "", "a", LONG)


def of_model(name: str, about: str, base: str, **fields) -> Case:
    """A case of config.json; null takes a key away."""
    return Case(name, about, base=f"families/{base}", edits={"config.json": fields}, texts=VECTOR_TEXTS[::3], vectors=True)


OF_DECODERS = ("rms_norm_eps", "rope_theta", "max_position_embeddings")
MODELS = [
    of_model("modernbert-window-of-none", "a token sees itself alone", "modernbert-f32", sliding_window=0),
    of_model("modernbert-window-on-each-side", "it goes over local_attention", "modernbert-f32", sliding_window=3),
    of_model("modernbert-no-local-attention", "a token sees itself alone", "modernbert-f32", local_attention=0),
    of_model("modernbert-odd-local-attention", "half of it, and no more, on each side", "modernbert-f32", local_attention=3),
    of_model("modernbert-linear", "older files stretch layers of both kinds", "modernbert-f32",
             rope_scaling={"rope_type": "linear", "factor": 3.0}),
    of_model("modernbert-dynamic", "as it is for texts that the model has positions for", "modernbert-f32",
             rope_scaling={"rope_type": "dynamic", "factor": 3.0}),
    of_model("modernbert-yarn-and-llama3", "each kind of layers in its own way", "modernbert-f32", rope_parameters={
        "full_attention": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 16}}),
    of_model("modernbert-type-in-rope-parameters", "the older name of rope_type counts there", "modernbert-f32",
             rope_parameters={"full_attention": {"type": "linear", "factor": 2.0}, "sliding_attention": {"rope_theta": 55.0}}),
    of_model("gemma3-bases-beside-rope-parameters", "they count where these name none", "gemma3-causal-defaults", rope_theta=2000.0,
             rope_local_base_freq=50.0, rope_parameters={kind: {"rope_type": "default"} for kind in ("full_attention", "sliding_attention")}),
    of_model("gemma3-base-in-rope-scaling", "it goes over rope_theta, and not for layers that slide", "gemma3-causal-defaults",
             rope_theta=2000.0, rope_scaling={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}),
    *(of_model(f"{base}-is-causal-false", "the window is for each side, not for both", base, is_causal=False,
               use_bidirectional_attention=None, sliding_window=5) for base in ("embedding-gemma-f32", "gemma3-causal-layer-types")),
    of_model("embedding-gemma-bidirectional-and-not-causal", "one token more than half of it on each side", "embedding-gemma-f32",
             is_causal=False, sliding_window=5),
    *(of_model(f"{base}-by-default", "sizes that the files need not have", base, **dict.fromkeys(missing)) for base, missing in {
        "bert-f32": ("type_vocab_size", "layer_norm_eps", "hidden_act"),
        "modernbert-f32": ("max_position_embeddings", "norm_eps", "local_attention", "hidden_activation"),
        "nomic-bert-bf16": ("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act"),
        "eurobert": ("rms_norm_eps", "max_position_embeddings", "hidden_act"),
        "mistral-sliding-window": (*OF_DECODERS, "sliding_window"),
        "qwen2-is-causal-false-mean": ("rms_norm_eps", "max_position_embeddings"),
        "qwen3-sliding-window-layer-types": OF_DECODERS,
        "llama-is-causal-false": OF_DECODERS,
        "ministral3-causal-window-f32": ("rms_norm_eps",),
        "gemma3-causal-defaults": ("rms_norm_eps",),
    }.items()),
    *(of_model(f"bert-{name}", "another name of an activation", "bert-f32", hidden_act=name)
      for name in ("gelu_python", "gelu_accurate", "gelu_python_tanh", "swish")),
    *(of_model(f"bert-{name}", "an activation that few models have", "bert-f32", hidden_act=name)
      for name in ("quick_gelu", "gelu_10", "mish", "tanh", "sigmoid", "linear", "relu6", "relu2", "leaky_relu", "hardswish",
                   "laplace")),
    of_model("modernbert-mish", "gated by it", "modernbert-f32", hidden_activation="mish"),
    *(Case(f"dense-{name.lower()}", "a module's activation", base="families/modules-dense-tanh-residual", texts=VECTOR_TEXTS[::3],
           vectors=True, edits={"2_Dense/config.json": {"activation_function": f"torch.nn.modules.activation.{name}"}})
      for name in ("LeakyReLU", "ReLU6", "Hardswish", "Mish")),
    of_model("gemma-gelu-accurate", "another name of its activation", "gemma3-causal-defaults", hidden_activation="gelu_accurate"),
]

PROMPTS = ("", "find ", INSTRUCTION + " ", "the cat<|im_end|>")


def pooling(name: str, about: str, settings: dict, base: str = "st-mean", prompts: tuple = PROMPTS, **edits) -> Case:
    settings = {"word_embedding_dimension": 32} | settings
    return Case(name, about, base=base, files={POOLING: settings}, edits=edits, texts=VECTOR_TEXTS, prompts=prompts,
                vectors=True)


WITHOUT = {"include_prompt": False}
POOLINGS = [
    pooling("pooling-without-mode", "is the mean", {}, prompts=("",)),
    pooling("pooling-with-all-modes-off", "is the mean", {"pooling_mode_cls_token": False}, prompts=("",)),
    pooling("pooling-mode-in-a-list", "of one", {"pooling_mode": ["cls"]}, prompts=("",)),
    pooling("pooling-mode-over-switches", "the name counts", {"pooling_mode": "lasttoken", "pooling_mode_cls_token": True},
            prompts=("",)),
    pooling("mean-with-prompt", "the prompt is in the mean", {"pooling_mode": "mean"}),
    pooling("mean-without-prompt", "the prompt is not in the mean", WITHOUT | {"pooling_mode": "mean"}),
    pooling("cls-without-prompt", "the first token is the first behind the prompt", WITHOUT | {"pooling_mode": "cls"}),
    pooling("last-token-without-prompt", "nothing changes", WITHOUT | {"pooling_mode": "lasttoken"}),
    pooling("mean-without-prompt-cut", "a prompt that takes all of the limit leaves nothing", WITHOUT,
            **{CONFIG: {"model_max_length": 9}}),
    pooling("mean-without-prompt-cut-left", "what is left out is counted from the front all the same", WITHOUT,
            **{CONFIG: {"model_max_length": 30, "truncation_side": "left"}}),
    pooling("mean-without-prompt-whose-end-is-not-special", "the tokenizer's end token counts as the prompt's, as no name "
            "of a special token has it", WITHOUT, **{CONFIG: {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}}),
    pooling("prompt-by-null", "as Python takes it, null is false", {"include_prompt": None}, prompts=PROMPTS[:3]),
    Case("first-numbers", "of a unit vector, and not scaled anew", files={SETTINGS: {"truncate_dim": 12}},
         texts=VECTOR_TEXTS, vectors=True),
    Case("first-numbers-of-fewer", "nothing to cut", files={SETTINGS: {"truncate_dim": 400}}, texts=VECTOR_TEXTS[:2],
         vectors=True),
    pooling("mean-without-prompt-no-end-token", "without an end token", WITHOUT, prompts=PROMPTS[1:],
            **{"tokenizer.json": {"post_processor": None}}),
]


def modules(*listed: tuple[str, str]) -> dict:
    """modules.json: classes and folders."""
    return {"modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (kind, path) in enumerate(listed)]}


IN_FOLDERS = [
    Case("model-in-a-folder", "as version 0 wrote it, with prompts of today beside", base="families/bert-f32", files=modules(
        ("models.Transformer", "0_Transformer"), ("models.Pooling", "1_Pooling")) | {
            BERT: {"max_seq_length": 9}, SETTINGS: {"prompts": {"query": "find "}, "default_prompt_name": "query"}},
         texts=VECTOR_TEXTS, vectors=True, prompts=("find ",), folder="0_Transformer"),
    Case("vocab-txt-in-a-folder", "whatever the folder's name, and with the vocabulary alone", base="families/bert-f32",
         files=modules(("models.Transformer", "./bert/"), ("models.Pooling", "1_Pooling")) | {"tokenizer.json": None} |
         vocabulary(f"{OLD}/wordpiece"), edits={CONFIG: {"tokenizer_class": "BertTokenizer"}}, texts=VECTOR_TEXTS,
         vectors=True, folder="bert"),
]
CASES = [*TOKENS, *OWN_PARTS, *BUILT, *ENDS, *VOCABULARIES, *LIMITS, *LOWER, *MODELS, *POOLINGS, *IN_FOLDERS]


def of_pairs(name: str, about: str, base: str = "reranker-bert-identity", names: list | None = None, **fields) -> Case:
    """A reranker's case of a tokenizer's class; `names` is what model_input_names says."""
    return Case(name, about, base=f"families/{base}", edits={CONFIG: {"model_input_names": names} | fields})


PAIRS = (("cat", "roses"), ("The cat", LONG), ("the sun", ""), ("", "in the garden"))
TYPES = ["input_ids", "token_type_ids", "attention_mask"]
RERANKERS = [
    of_pairs("pairs-without-types", "a class of version 5 gives none", tokenizer_class="TokenizersBackend"),
    of_pairs("pairs-with-types", "unless the file says so", names=TYPES, tokenizer_class="TokenizersBackend"),
    of_pairs("pairs-with-types-of-any-class", "nor any other", names=TYPES, tokenizer_class="PreTrainedTokenizerFast"),
    of_pairs("pairs-without-types-of-any-class", "nor any other", names=TYPES[::2], tokenizer_class="PreTrainedTokenizerFast"),
    of_pairs("bert-class-pairs", "its class gives types", tokenizer_class="BertTokenizer"),
    of_pairs("bert-model-without-class-pairs", "so does the class of the model's kind", tokenizer_class=None),
    of_pairs("bert-class-pairs-without-types", "but for what the file says", names=TYPES[::2], tokenizer_class="BertTokenizer"),
    of_pairs("distilbert-class-pairs", "this one gives none", tokenizer_class="DistilBertTokenizer"),
    of_pairs("xlm-roberta-class-pairs", "two tokens between the texts", "reranker-xlm-roberta",
             tokenizer_class="XLMRobertaTokenizer"),
    of_pairs("mpnet-class-pairs", "likewise", "reranker-mpnet", tokenizer_class="MPNetTokenizer"),
    Case("vocab-txt-pairs", "without a tokenizer.json", base="families/reranker-bert-identity",
         files={"tokenizer.json": None} | vocabulary(f"{OLD}/wordpiece"), edits={CONFIG: {"tokenizer_class": "BertTokenizer"}}),
    Case("modernbert-quick-gelu-pairs", "the activation of its head", base="families/reranker-modernbert-cls",
         edits={"config.json": {"classifier_activation": "quick_gelu"}}),
    Case("pairs-in-a-folder", "a reranker's own files in a folder", base="families/reranker-bert-identity",
         files=modules(("base.modules.transformer.Transformer", "model")) | {
             SETTINGS: {"model_type": "CrossEncoder"},
             BERT: {"transformer_task": "sequence-classification", "module_output_name": "scores", "modality_config": {
                 "text": {"method": "forward", "method_output_name": "logits"}}}}, folder="model"),
]


def of_role(role: str) -> str:
    return f'messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first'


# As zerank has it, as mxbai-rerank-v2 does, and with an instruction of its own.
TWO_TURNS = ("<|im_start|>system\n{{ " + of_role("query") + " }}<|im_end|>\n<|im_start|>user\n{{ " + of_role("document")
             + " }}<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
PLAIN_WORDS = ("{%- set query = " + of_role("query") + " -%}\n{%- set document = " + of_role("document") + " -%}\n"
               "<|im_start|>user\nquery: {{ query }} \ndocument: {{ document }}\nthe cat is in the sun\nrelevance: ")
INSTRUCTED = ("Instruct: {{ " + of_role("system") + ' | default("find the cat") }}\nQuery: {{ ' + of_role("query")
              + " }} {{ " + of_role("document") + " }}")


def asked(name: str, about: str, template: str, base: str = "families/reranker-qwen3-tied", false: int | None = None,
          generates: bool | None = None, settings: dict | None = None, **fields) -> Case:
    """A decoder's case of a chat template, and of the tokens whose logits count."""
    transformer = {"transformer_task": "text-generation", "module_output_name": "causal_logits", "modality_config": {
        "text": {"method": "forward", "method_output_name": "logits"},
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"}}}
    if generates is not None:
        transformer |= {"processing_kwargs": {"chat_template": {"add_generation_prompt": generates}}}
    files = {"chat_template.jinja": template, BERT: transformer, SETTINGS: {"model_type": "CrossEncoder"} | (settings or {}),
             "1_LogitScore/config.json": {"true_token_id": 65, "false_token_id": false}}
    return Case(name, about, base=base, files=files | modules(
        ("base.modules.transformer.Transformer", ""), ("cross_encoder.modules.logit_score.LogitScore", "1_LogitScore")), **fields)


CUT = {CONFIG: {"model_max_length": 40}}
RERANKERS += [
    asked("asked-in-two-turns", "with the beginning of an answer", TWO_TURNS, generates=True),
    asked("asked-without-an-answer", "the condition does not hold", TWO_TURNS, generates=False),
    asked("asked-in-plain-words", "words behind the document are tokenised with it", PLAIN_WORDS, false=66),
    asked("asked-of-a-qwen2", "another family", PLAIN_WORDS, base="qwen2-f32", false=66),
    asked("asked-of-a-llama", "and another", TWO_TURNS, base="llama-f32", false=66, generates=True),
    asked("asked-with-an-instruction", "its own", INSTRUCTED, false=66),
    asked("asked-with-a-prompt", "the files' prompt in its place", INSTRUCTED, false=66,
          settings={"prompts": {"cat": "find it"}, "default_prompt_name": "cat"}),
    asked("asked-and-cut", "what stands at the end stays", TWO_TURNS, generates=True, edits=CUT, pairs=(
        ("in the garden", "the cat is in the garden"), ("the cat", LONG), ("the sun", LONG + " " + LONG))),
    asked("asked-in-plain-words-and-cut", "likewise", PLAIN_WORDS, false=66, edits={CONFIG: {"model_max_length": 80}}, pairs=(
        ("the cat", LONG + " " + LONG), ("the sun", LONG + " " + LONG + " " + LONG))),
]


def write(case: Case, folder: Path) -> None:
    shutil.copytree(HERE / case.base, folder, ignore=shutil.ignore_patterns("golden.*"))
    for name, content in case.files.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(contents(content))
    for name, fields in case.edits.items():
        changed = json.loads((folder / name).read_text())
        for key, value in fields.items():
            *parents, last = key.split(".")
            reduce(dict.__getitem__, parents, changed)[last] = value
        (folder / name).write_text(json.dumps({
            key: value for key, value in changed.items() if value is not None or name == "tokenizer.json"}))
    if case.folder:
        move(folder, folder / case.folder)


def contents(content: str | dict) -> bytes:
    if isinstance(content, dict) and list(content) == ["base64"]:
        return base64.b64decode(content["base64"])
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def move(folder: Path, to: Path) -> None:
    """Puts the model's own files where version 0 of sentence-transformers had them, and beside them what it had there."""
    to.mkdir()
    for file in [file for file in folder.iterdir() if file.is_file() and file.name not in ("modules.json", SETTINGS)]:
        file.rename(to / file.name)
    (folder / "config.json").write_text(json.dumps({"__version__": "0.3.0"}))


def run(case: Case) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / case.name
        write(case, folder)
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        results = []
        for prompt in case.prompts:
            for text in case.texts:
                # Not all of them have a token to pad with.
                alone = {"text": {"padding": False}}
                features = model[0].preprocess([text], prompt=prompt or None, processing_kwargs=alone)
                ids = [int(id) for id in features["input_ids"][0]]
                result = {"text": text, "prompt": prompt, "ids": ids}
                if case.vectors and ids:
                    vector = model.encode([text], prompt=prompt or None, convert_to_numpy=True)[0]
                    result["embedding"] = [float(f"{x:.7g}") for x in vector]
                results.append(result)
    return {"name": case.name, "about": case.about, "base": case.base, "edits": case.edits, "files": case.files,
            **({"folder": case.folder} if case.folder else {}), "texts": results}


def score(case: Case) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / case.name
        write(case, folder)
        model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        scored = [(pair, float(model.predict([pair])[0])) for pair in case.pairs or PAIRS]
    pairs = [{"query": query, "document": document, "score": float(f"{score:.7g}")}
             for (query, document), score in scored]
    return {"name": case.name, "about": case.about, "base": case.base, "edits": case.edits, "files": case.files,
            **({"folder": case.folder} if case.folder else {}), "pairs": pairs}


def is_same(old: dict, new: dict) -> bool:
    numbers = ("embedding", "score")
    strip = lambda case: case | {key: [each | dict.fromkeys(numbers) for each in case.get(key, [])] for key in ("texts", "pairs")}
    close = all(np.allclose(a.get(name, 0), b.get(name, 0), rtol=0, atol=1e-5) for key in ("texts", "pairs")
                for a, b in zip(old.get(key, []), new.get(key, [])) for name in numbers)
    return strip(old) == strip(new) and close


def main() -> int:
    torch.set_num_threads(1)
    made = {"command": "python tests/golden/side_files.py",
            "versions": {package.__name__: package.__version__
                         for package in (sentence_transformers, transformers, tokenizers, torch)},
            "cases": [*map(run, CASES), *map(score, RERANKERS)]}
    if sys.argv[1:] == ["--check"]:
        old = json.loads(FILE.read_text())
        off = [new["name"] for new, old in zip(made["cases"], old["cases"]) if not is_same(old, new)]
        off += ["the list of cases"] if len(made["cases"]) != len(old["cases"]) else []
        print("\n".join(f"{name} differs" for name in off) or f"{len(old['cases'])} cases are as committed")
        return 1 if off else 0
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made["cases"])
    head = json.dumps({key: made[key] for key in ("command", "versions")})
    FILE.write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
