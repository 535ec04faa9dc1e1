"""Makes more texts from the corpus: the teacher can label anything, and variety is what the student lacks.

Every text comes from the seed and the corpus alone: spans cut from sentences, sentences with a word exchanged,
neighbouring sentences joined, lists of words, and everyday sentences from a small grammar.
"""

import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from corpus import SEED, normal

SHARDS = 64
SHARES = {"span": 0.36, "exchange": 0.22, "join": 0.12, "list": 0.10, "everyday": 0.20}
RUNNING = {"brown", "mail", "example", "gcide", "jargon", "devil", "elements", "gloss"}

TEMPLATES = [
    "The {person} {past} the {artifact}", "A {adj} {animal} {past} in the {place}", "The {animal} sat on the {artifact}",
    "I want to {verb} the {artifact}", "She {past} her {person} about the {cognition}", "The {food} tastes {adj}",
    "Where can I {verb} a {adj} {artifact}?", "How do I {verb} my {artifact}?", "We ate {food} and {food} for dinner",
    "The {group} announced a new {act} {when}", "He {past} {adv} because of the {feeling}",
    "The {adj} {person} wanted to {verb} the {food}", "My {person} likes to {verb} in the {place}",
    "They {past} the {event} {when}", "The {artifact} in the {place} is {adj}", "Is the {artifact} {adj}?",
    "Two {adj} {animal}s {past} near the {place}", "The {body} of the {animal} is {adj}", "It is {adj} {when}",
    "The price of {food} fell {when}", "The {possession} market {past} {when}", "{person} and {person} in a {place}",
    "The weather was {adj} {when}", "Please {verb} the {artifact}", "I lost my {artifact} near the {place}",
    "The {person} will {verb} the {communication} {when}", "a {adj} {artifact} made of {substance}",
    "What is the best {artifact} for a {person}?", "You should never {verb} a {animal}", "the {state} of the {group}",
    "The {plant} grows in the {place}", "There is a {animal} under the {artifact}", "Her {feeling} was {adj}",
    "How much {possession} does a {person} need?", "The {person} read a {communication} about {cognition}",
    "An old {person} slept on the {artifact}", "The {person} is {adj} and the {person} is {adj}",
]  # fmt: skip
PLACES = """house garden kitchen street city park office school shop market river forest mountain village hotel station
airport hospital church beach field room bathroom bedroom library museum restaurant factory farm harbour town bridge
theatre prison desert island valley lake sea sky playground stadium""".split()
WHEN = ["today", "yesterday", "last night", "this morning", "tomorrow", "last week", "every day", "in winter", "again",
        "on Monday", "at noon", "in the evening", "next year", "for hours", "once more", "late at night"]  # fmt: skip
EVERYDAY = {  # WordNet's topics hold rare words too; half of all picks come from these
    "animal": "cat dog bird horse cow mouse fish rabbit bear lion tiger sheep pig duck kitten puppy feline fox",
    "artifact": "mat rug car truck bicycle table chair bed sofa lamp phone computer book door window train ship knife "
    "cup coat shoe hat carpet key bag clock camera guitar ball boat plane engine screen pen toy blanket box",
    "food": "bread milk cheese apple soup rice meat coffee tea cake sugar fruit salad pasta egg butter fish chocolate",
    "person": "man woman boy girl child mother father teacher doctor king queen friend student nurse farmer soldier "
    "lawyer driver cook baby neighbour player singer police officer writer customer boss tourist",
    "verb": "buy sell see find eat drink make open close carry read write cook paint break repair clean move push pull "
    "watch use build wash bring take give hold drop keep throw choose fix reset install cancel return",
    "adj": "big small old new red blue green white black good bad happy sad hot cold cheap expensive fast slow heavy "
    "light clean dirty broken strong weak tired hungry beautiful ugly empty full loud quiet bright dark wet dry",
}


def past(verb: str, irregular: dict) -> str:
    if verb in irregular:
        return irregular[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "ed"


class Maker:
    """One shard's worth of texts."""

    def __init__(self, rng: random.Random, texts: list, documents: list, grammar: dict):
        self.rng, self.texts, self.documents, self.grammar = rng, texts, documents, grammar
        self.everyday_words = {topic: words.split() for topic, words in EVERYDAY.items()}

    def span(self) -> str:
        words = self.rng.choice(self.texts).split()
        length = min(self.rng.randint(2, 12), max(2, len(words) - 1))
        start = self.rng.randint(0, max(0, len(words) - length))
        return " ".join(words[start : start + length]).strip(" ,;:.")

    def exchange(self) -> str:
        words = self.rng.choice(self.texts).split()[:40]
        for _ in range(self.rng.randint(1, 2)):
            long = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha()]
            if long:
                words[self.rng.choice(long)] = self.common()
        return " ".join(words)

    def join(self) -> str:
        if self.rng.random() < 0.15:
            return " ".join(self.rng.choice(self.texts) for _ in range(2))
        document = self.rng.choice(self.documents)
        length = self.rng.randint(2, 8)
        start = self.rng.randint(0, max(0, len(document) - 2))
        return " ".join(document[start : start + length])[:1200]

    def list(self) -> str:
        separator = self.rng.choice([" ", " ", ", ", " and "])
        return separator.join(self.common() for _ in range(self.rng.randint(2, 4)))

    def common(self) -> str:
        """A word of the vocabulary, the frequent ones more often."""
        common = self.grammar["common"]
        return common[int(len(common) * self.rng.random() ** 1.7)]

    def everyday(self) -> str:
        text = self.rng.choice(TEMPLATES)
        while "{" in text:
            start, end = text.index("{"), text.index("}")
            text = text[:start] + self.pick(text[start + 1 : end]) + text[end + 1 :]
        return text

    def pick(self, topic: str) -> str:
        if topic == "past":
            return past(self.pick("verb"), self.grammar["past"])
        if topic == "place":
            return self.rng.choice(PLACES)
        if topic == "when":
            return self.rng.choice(WHEN)
        if topic in self.everyday_words and self.rng.random() < 0.5:
            return self.rng.choice(self.everyday_words[topic])
        words = self.grammar["words"][topic]
        return words[int(len(words) * self.rng.random() ** 1.5)]


def shard(index: int, work: Path, count: int) -> list:
    folder = work / "corpus"
    lines = (line.split("\t", 1) for line in (folder / "texts.txt").read_text("utf-8").splitlines()[index::SHARDS])
    texts = [text for kind, text in lines if kind in RUNNING and text.count(" ") >= 3]
    documents = json.loads((folder / "documents.json").read_text("utf-8"))
    grammar = json.loads((folder / "grammar.json").read_text("utf-8"))
    maker = Maker(random.Random(SEED * 1000 + index), texts, documents, grammar)
    made = []
    for kind, share in SHARES.items():
        made += [(kind, getattr(maker, kind)()) for _ in range(int(count * share / SHARDS))]
    return made


def augment(work: Path, count: int) -> list:
    """The corpus and `count` made texts, `(kind, text)`, unique; nothing that is held out."""
    with open(work / "corpus/texts.txt", encoding="utf-8") as lines:
        texts = [tuple(line.rstrip("\n").split("\t", 1)) for line in lines]
    forbidden = set(json.loads((work / "corpus/heldout.json").read_text("utf-8"))["forbidden"])
    seen = {normal(text) for _, text in texts}
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for made in pool.map(shard, range(SHARDS), repeat(work), repeat(count)):
            for kind, text in made:
                key = normal(text)
                if key and key not in seen and key not in forbidden:
                    seen.add(key)
                    texts.append((kind, text))
    return texts
