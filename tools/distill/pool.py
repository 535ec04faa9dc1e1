"""The pool of training texts: ranges of one long stream of words, tokenised for the student and for the teacher.

Both tokenizers look at one word at a time, so a word's tokens are the same in any text, and a text is two numbers.
Most are cut from running text at random: the teacher can label any of them.

WORK/pool/student.npy, teacher.npy i16 flat, the tokens of the stream; student_starts.npy, teacher_starts.npy i32
[words + 1]; texts.npy i32 [texts, 2], first word and end; group.npy u8 [texts], the index into GROUPS; summary.json.
"""

import json
import os
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from augment import augment
from corpus import SEED
from teacher import FOLDER as TEACHER

MAX_TOKENS = 256  # of a text, the end token included
GROUPS = ["running", "lexical", "word", "made"]
WORDS = {"word", "phrase"}
# How much more often than once a sentence of a kind begins a text: kinds of which there is little, and which are like
# nothing else, count for more.
WEIGHTS = {"manual": 0.8, "gcide": 0.3, "scripture": 0.4, "speech": 0.7, "essay": 1.0, "country": 1.5, "brown": 3.0,
           "mail": 3.0, "story": 2.5, "novel": 1.2, "jargon": 4.0, "devil": 4.0, "acronym": 0.3, "elements": 1.0}  # fmt: skip
SENTENCES = {1: 0.34, 2: 0.22, 3: 0.15, 4: 0.10, 5: 0.07, 6: 0.05, 8: 0.04, 12: 0.03}
SHORT, PARTIAL = 0.12, 0.15  # shares of texts that are a few words, or that begin and end anywhere


class Stream:
    """Words by number, and where each line begins."""

    def __init__(self):
        self.vocabulary: defaultdict = defaultdict()
        self.vocabulary.default_factory = self.vocabulary.__len__
        self.parts, self.starts, self.size = [], [0], 0

    def add(self, lines: list) -> None:
        look_up, found = self.vocabulary.__getitem__, []
        for line in lines:
            words = line.split()
            found.extend(map(look_up, words))
            self.size += len(words)
            self.starts.append(self.size)
        self.parts.append(np.array(found, np.int32))

    def tokens(self, tokenizer: Tokenizer) -> tuple:
        """Every token of the stream, and where each word's begin."""
        encoded = tokenizer.encode_batch_fast(list(self.vocabulary), add_special_tokens=False)
        ids = [np.array(e.ids, np.int16) for e in encoded]
        lengths = np.array([len(i) for i in ids])
        first = np.concatenate([[0], np.cumsum(lengths)])
        words = np.concatenate(self.parts)
        starts = np.concatenate([[0], np.cumsum(lengths[words])])
        # Position in the stream, less where its word begins there, plus where the word begins among the unique ones
        at = np.arange(starts[-1]) + np.repeat(first[words] - starts[:-1], lengths[words])
        return np.concatenate(ids)[at], starts.astype(np.int32)


def cut(rng: np.random.Generator, count: int, lines: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`count` texts [count, 2] of running text. lines [sentences + 1]: first words; ends: where each one's document ends."""
    first = rng.choice(len(weights), count, p=weights / weights.sum())
    number = rng.choice(list(SENTENCES), count, p=list(SENTENCES.values()))
    begin, end = lines[first], lines[np.minimum(first + number, ends[first])]
    anywhere = rng.random(count)
    partial = anywhere < PARTIAL + SHORT
    begin = np.where(partial, begin + (rng.random(count) * np.minimum(end - begin, 12)).astype(np.int64), begin)
    end = np.where(partial, end - (rng.random(count) * np.minimum(end - begin - 1, 12)).astype(np.int64), end)
    short = anywhere < SHORT
    end = np.where(short, np.minimum(end, begin + rng.integers(2, 13, count)), end)
    return np.stack([begin, end], 1)


def capped(texts: np.ndarray, starts: np.ndarray, tokens: int) -> np.ndarray:
    """The texts without the words that go beyond so many tokens."""
    most = np.searchsorted(starts, starts[texts[:, 0]] + tokens, "right") - 1
    return np.stack([texts[:, 0], np.minimum(texts[:, 1], most)], 1)


def running(work: Path) -> tuple:
    """Sentences, the index of the sentence where each one's document ends, and their kinds."""
    sentences, kinds, ends, begun = [], [], [], 0
    with open(work / "corpus/running.txt", encoding="utf-8") as lines:
        for line in lines:
            kind, _, text = line.rstrip("\n").partition("\t")
            if text:
                sentences.append(text)
                kinds.append(kind)
            else:
                ends += [len(sentences)] * (len(sentences) - begun)
                begun = len(sentences)
    ends += [len(sentences)] * (len(sentences) - begun)
    return sentences, np.array(ends), kinds


def build(work: Path, cuts: int, made: int, whole: int | None) -> None:
    """`cuts` texts of running text, `made` invented ones, and `whole` (None: all) of the corpus as they are."""
    folder = work / "pool"
    if folder.exists():
        return
    began = time.time()
    partial = work / "pool.partial"
    partial.mkdir(exist_ok=True)
    stream = Stream()
    with open(work / "corpus/texts.txt", encoding="utf-8") as lines:
        kinds, texts = zip(*(line.rstrip("\n").split("\t", 1) for line in islice(lines, whole)))
    common = set(json.loads((work / "corpus/grammar.json").read_text("utf-8"))["common"])
    group = [GROUPS.index("word" if kind in WORDS else "lexical") for kind in kinds]
    repeats = [4 if text in common else 1 for text in texts]
    stream.add(texts)
    invented = augment(work, made)
    group += [GROUPS.index("made")] * len(invented)
    repeats += [1] * len(invented)
    stream.add(invented)
    print(f"{len(group)} texts as they are after {time.time() - began:.0f} s", flush=True)
    sentences, ends, kinds = running(work)
    stream.add(sentences)
    entire = np.stack([stream.starts[: len(group)], stream.starts[1 : len(group) + 1]], 1).repeat(repeats, 0)
    lines = np.array(stream.starts[len(group) :])
    rng = np.random.default_rng(SEED)
    ranges = np.concatenate([entire, cut(rng, cuts, lines, ends, np.array([WEIGHTS[k] for k in kinds]))])
    group = np.concatenate([np.array(group, np.uint8).repeat(repeats), np.zeros(cuts, np.uint8)])
    del sentences, texts, invented
    for name, file in (("student", work / "tokenizer.json"), ("teacher", work / TEACHER / "tokenizer.json")):
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokens, starts = stream.tokens(tokenizer)
        # The end token, or [CLS] and [SEP], come on top
        ranges = capped(ranges, starts, MAX_TOKENS - (1 if name == "student" else 2))
        np.save(partial / f"{name}.npy", tokens)
        np.save(partial / f"{name}_starts.npy", starts)
        kept = starts[ranges[:, 1]] > starts[ranges[:, 0]]
        ranges, group = ranges[kept], group[kept]
        print(f"{len(tokens)} tokens for the {name} after {time.time() - began:.0f} s", flush=True)
    np.save(partial / "texts.npy", ranges.astype(np.int32))
    np.save(partial / "group.npy", group)
    lengths = starts[ranges[:, 1]] - starts[ranges[:, 0]]
    summary = {"texts": len(ranges), "tokens": int(lengths.sum()), "words": stream.size,
               "groups": {name: int((group == i).sum()) for i, name in enumerate(GROUPS)},
               "seconds": round(time.time() - began)}  # fmt: skip
    (partial / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    os.rename(partial, folder)
    print(json.dumps(summary), flush=True)
