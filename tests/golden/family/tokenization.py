"""The small tokenizers of the families, each built as its family's are, and trained on a few lines.

The byte-level one with an end token is ../tokenizer, which the other golden checkpoints share.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path

from tokenizers import (
    AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers,
)
from transformers import PreTrainedTokenizerFast

import tokenizer as qwen
from family.texts import PROSE

CORPUS = [
    "the cat sat on the mat while the other cat was sleeping in the sun",
    "there is nothing better than reading in the garden in the morning",
    "an embedding is a vector that stands for the meaning of a text",
    *(sentence.strip() for sentence in PROSE.split(".") if sentence.strip()),
]
LETTERS = [chr(c) for c in range(33, 127)]
FOLDER = "tokenizers"


def counted(words: list[str], most: int) -> list[tuple[str, int]]:
    """Parts of words of at least two letters and how often they occur, the heaviest first. The
    trainers of WordPiece and Unigram do not give the same vocabulary twice."""
    counts = Counter(word[start:end] for word in words for start in range(len(word))
                     for end in range(start + 2, len(word) + 1))
    heaviest = sorted(counts.items(), key=lambda part: (-part[1] * (len(part[0]) - 1), part[0]))
    return heaviest[:most]


def between(first: str, last: str, tokenizer: Tokenizer, separators: int = 1, types: bool = False):
    """`first $A last`, and for a pair `first $A last (last) $B last`."""
    second = ":1" if types else ""
    return processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {' '.join([last] * separators)} $B{second} {last}{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )


OF_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def wordpiece(unused: tuple = (), special: tuple = OF_BERT) -> tuple[Tokenizer, dict]:
    """BERT's: lower case, accents stripped, [CLS] and [SEP], token types of a pair."""
    words = [word for line in CORPUS for word in re.findall(r"[a-z]+", line.lower())]
    letters = [letter for letter in LETTERS if letter == letter.lower()]
    parts = [part for part, _ in counted(words, 65)]
    whole = sorted(set(parts) & set(words))
    vocabulary = [*special, *letters, *(f"##{x}" for x in letters if x.isalnum()), *whole,
                  *(f"##{part}" for part in parts), *unused]
    tokenizer = Tokenizer(models.WordPiece(
        {token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"
    ))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(special))
    if special == OF_BERT:
        tokenizer.post_processor = between("[CLS]", "[SEP]", tokenizer, types=True)
    tokenizer.decoder = decoders.WordPiece()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return tokenizer, dict(zip(names, special, strict=True)) | {
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]
    }


def mpnet() -> tuple[Tokenizer, dict]:
    """MPNet's: BERT's words with RoBERTa's special tokens, <s> A </s></s> B </s> for a pair."""
    tokenizer, _ = wordpiece(special=("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))
    tokenizer.post_processor = between("<s>", "</s>", tokenizer, separators=2)
    return tokenizer, ROBERTA | {"unk_token": "[UNK]"}


ROBERTA = dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
               unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
               model_input_names=["input_ids", "attention_mask"])


def unigram() -> tuple[Tokenizer, dict]:
    """XLM-RoBERTa's: Unigram over Metaspace; <s>, <pad>, </s>, <unk> are 0 to 3, <mask> the last."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [f"\u2581{word}" for line in CORPUS for word in line.split()]
    letters = ["\u2581", *LETTERS, "é", "東", "京"]
    pieces = counted(words, 90) + [(letter, "".join(words).count(letter) + 1) for letter in letters]
    total = sum(count for _, count in pieces)
    scored = [(piece, math.log(count / total)) for piece, count in pieces]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in special] + scored, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = between("<s>", "</s>", tokenizer, separators=2)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, ROBERTA


def t5() -> tuple[Tokenizer, dict]:
    """T5's: Unigram over words behind a space each; <pad>, </s>, <unk> are 0 to 2, an end behind each text."""
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer, _ = unigram()
    pieces = [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"] if piece[1] < 0.0]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in special] + pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.add_special_tokens([*special, "<extra_id_0>", "<extra_id_1>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, dict(eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
                           model_input_names=["input_ids", "attention_mask"])


def byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(special) + 24, special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def roberta() -> tuple[Tokenizer, dict]:
    """RoBERTa's: byte-level BPE with RobertaProcessing."""
    tokenizer = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer, ROBERTA


def modernbert() -> tuple[Tokenizer, dict]:
    """ModernBERT's: byte-level BPE, [CLS] and [SEP]."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = byte_level(special)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = between("[CLS]", "[SEP]", tokenizer)
    names = ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    return tokenizer, dict(zip(names, special, strict=True)) | {
        "model_input_names": ["input_ids", "attention_mask"]
    }


def byte_fallback(special: list[str], metaspace: bool) -> Tokenizer:
    """SentencePiece's BPE as tokenizers has it: spaces are a letter, unknown letters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("\u2581")] if metaspace else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=len(special) + 256 + 110, show_progress=False,
                                  special_tokens=special + of_bytes, initial_alphabet=LETTERS)
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Bytes are ordinary entries of the vocabulary: only what stands for no text is special.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def gemma() -> tuple[Tokenizer, dict]:
    """Gemma's: BPE with byte fallback, <bos> before and <eos> behind."""
    tokenizer = byte_fallback(["<pad>", "<eos>", "<bos>", "<unk>"], metaspace=False)
    tokenizer.post_processor = between("<bos>", "<eos>", tokenizer)
    return tokenizer, dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
                           unk_token="<unk>")


def mistral() -> tuple[Tokenizer, dict]:
    """Mistral's as e5-mistral has it: a space before the text, <s> before and </s> behind."""
    tokenizer = byte_fallback(["<unk>", "<s>", "</s>"], metaspace=True)
    tokenizer.post_processor = between("<s>", "</s>", tokenizer)
    return tokenizer, dict(pad_token="</s>", eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def with_markers(build) -> tuple[Tokenizer, dict]:
    """PyLate's markers are added tokens."""
    tokenizer, settings = build()
    tokenizer.add_tokens([AddedToken("[Q] "), AddedToken("[D] ")])
    return tokenizer, settings


def with_special_markers(build) -> tuple[Tokenizer, dict]:
    """Those of sentence-transformers 6 are special tokens, found in the text as they are."""
    tokenizer, settings = build()
    tokenizer.add_special_tokens([AddedToken(marker, normalized=False) for marker in ("[Q] ", "[D] ")])
    return tokenizer, settings


def padded() -> tuple[Tokenizer, dict]:
    """all-MiniLM-L6-v2's file wants texts cut and filled up to a length, which nobody obeys."""
    tokenizer, settings = wordpiece()
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_token="[PAD]")
    return tokenizer, settings


def yes_no() -> tuple[Tokenizer, dict]:
    """Qwen's with chat tokens, where yes and no are single tokens; nothing is appended."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(qwen.SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([*CORPUS, *["yes", "no"] * 200], trainer)
    tokenizer.add_special_tokens(qwen.SPECIAL)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False),
                          AddedToken("</think>", normalized=False)])
    return tokenizer, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left")


BUILDERS = {
    "wordpiece-markers": lambda: with_markers(wordpiece),
    "wordpiece-special-markers": lambda: with_special_markers(wordpiece),
    "modernbert-markers": lambda: with_markers(modernbert), "byte-level-yes-no": yes_no,
    "wordpiece-padded": padded,
    # ColBERT's markers are entries of BERT's vocabulary that no text has.
    "wordpiece-unused": lambda: wordpiece(("[unused0]", "[unused1]")),
} | dict(wordpiece=wordpiece, mpnet=mpnet, unigram=unigram, roberta=roberta, modernbert=modernbert, t5=t5,
                gemma=gemma, mistral=mistral)


def write(root: Path) -> None:
    for name, build in BUILDERS.items():
        tokenizer, settings = build()
        folder = root / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512} | settings
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def folder(root: Path, name: str) -> Path:
    """Where a tokenizer is; the one with an end token, and the one without, are older."""
    shared = {"byte-level-end": "tokenizer", "byte-level": "tokenizer-plain"}
    return root.parent / shared[name] if name in shared else root / FOLDER / name


class Encoder:
    """Texts and pairs to token ids, as the checkpoint's own files have them."""

    def __init__(self, folder: Path, appended: str | None = None):
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.end = [] if appended is None else [self.tokenizer.convert_tokens_to_ids(appended)]

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"] + self.end

    def bare(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Token ids and token types; in lists, since an empty second text alone counts as none."""
        encoded = self.tokenizer([first], [second], return_token_type_ids=True)
        return encoded["input_ids"][0], encoded["token_type_ids"][0]
