"""Makes texts that the corpus does not hold: the teacher can label anything.

They come from the seed and the corpus alone: sentences with a word exchanged, unlike sentences joined, lists of
words, and everyday sentences from a small grammar.
"""

import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, repeat
from pathlib import Path

from corpus import SEED, normal

SHARDS = 16
SHARES = {"exchange": 0.40, "join": 0.10, "list": 0.15, "everyday": 0.35}
RUNNING = {"example", "gcide", "gloss"}  # of texts.txt

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

    def __init__(self, rng: random.Random, texts: list, grammar: dict):
        self.rng, self.texts, self.grammar = rng, texts, grammar
        self.everyday_words = {topic: words.split() for topic, words in EVERYDAY.items()}

    def exchange(self) -> str:
        words = self.rng.choice(self.texts).split()[:40]
        for _ in range(self.rng.randint(1, 2)):
            long = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha()]
            if long:
                words[self.rng.choice(long)] = self.common()
        return " ".join(words)

    def join(self) -> str:
        return f"{self.rng.choice(self.texts)} {self.rng.choice(self.texts)}"

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
    texts = []
    for file in ("texts.txt", "running.txt"):
        with open(folder / file, encoding="utf-8") as lines:
            for line in islice(lines, index, None, SHARDS):
                kind, _, text = line.rstrip("\n").partition("\t")
                if text.count(" ") >= 3 and (file == "running.txt" or kind in RUNNING):
                    texts.append(text)
    grammar = json.loads((folder / "grammar.json").read_text("utf-8"))
    forbidden = set(json.loads((folder / "heldout.json").read_text("utf-8"))["forbidden"])
    maker = Maker(random.Random(SEED * 1000 + index), texts, grammar)
    made = (getattr(maker, kind)() for kind, share in SHARES.items() for _ in range(int(count * share / SHARDS)))
    return [text for text in made if normal(text) not in forbidden]


def augment(work: Path, count: int) -> list:
    """About `count` texts, none of which is held out."""
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [text for made in pool.map(shard, range(SHARDS), repeat(work), repeat(count)) for text in made]
