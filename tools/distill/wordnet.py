"""Reads WordNet 3.0's database files (the format is described in its manual page wndb)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
LEXICOGRAPHER_FILES = {
    3: "tops", 4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition",
    10: "communication", 11: "event", 12: "feeling", 13: "food", 14: "group", 15: "location", 18: "person",
    20: "plant", 21: "possession", 23: "quantity", 26: "state", 27: "substance", 28: "time",
}  # fmt: skip


@dataclass
class Synset:
    key: tuple  # (part of speech, offset)
    topic: str
    lemmas: list
    definition: str
    examples: list
    pointers: list = field(default_factory=list)  # (symbol, key)


def lemma(word: str) -> str:
    return re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ")


def split_gloss(gloss: str) -> tuple:
    """Definition, and the examples in quotes."""
    examples = [e.strip(" ;") for e in re.findall(r'"([^"]+)"', gloss)]
    definition = re.sub(r';?\s*"[^"]*"(\s*-[^;]*)?', "", gloss)
    return " ".join(definition.split()).strip(" ;"), examples


def read(folder: Path) -> dict:
    synsets = {}
    for part, letter in PARTS.items():
        for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            count = int(fields[3], 16)
            words = [lemma(w) for w in fields[4 : 4 + 2 * count : 2]]
            pointers, at = [], 5 + 2 * count
            for _ in range(int(fields[4 + 2 * count])):
                symbol, offset, pos = fields[at], fields[at + 1], fields[at + 2]
                pointers.append((symbol, ("a" if pos == "s" else pos, offset)))
                at += 4
            key = (letter, fields[0])
            topic = LEXICOGRAPHER_FILES.get(int(fields[1]), part)
            synsets[key] = Synset(key, topic, words, *split_gloss(gloss), pointers)
    return synsets


def sense_counts(folder: Path) -> dict:
    """How often each lemma was tagged in WordNet's own concordance, by (lemma, part of speech)."""
    counts: dict = {}
    parts = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        sense, _, count = line.split()
        word, rest = sense.split("%", 1)
        key = (word.replace("_", " "), parts[rest[0]])
        counts[key] = counts.get(key, 0) + int(count)
    return counts


def irregular(folder: Path, part: str) -> dict:
    """Inflected form to lemma."""
    lines = (folder / f"{part}.exc").read_text("utf-8").splitlines()
    return {a.replace("_", " "): b.replace("_", " ") for a, b in (line.split()[:2] for line in lines)}
