"""Trains the student's tokenizer: byte-level BPE over words as the teacher sees them."""

import json
import os
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

END = "<|endoftext|>"
# Running text counts for more than dictionary style; lists of single words would only teach it rare ones.
REPEATED = {"example": 5, "word": 0, "phrase": 0, "synonyms": 0, "relation": 0, "entry": 0, "brown": 0, "mail": 0,
            "brown running": 5, "mail running": 5, "story running": 3, "jargon running": 3, "gcide running": 0}  # fmt: skip


def build(work: Path, vocabulary: int) -> None:
    path = work / "tokenizer.json"
    if path.exists():
        return
    tokenizer = Tokenizer(models.BPE())
    # The teacher reads neither case, accents nor white space, so the vocabulary need not tell them apart either.
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    words = Regex(r"\p{L}+|\p{N}{1,4}|[^\s\p{L}\p{N}]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=4,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def texts():
        for file, ending in (("texts.txt", ""), ("running.txt", " running")):
            with open(work / "corpus" / file, encoding="utf-8") as lines:
                for line in lines:
                    kind, _, text = line.rstrip("\n").partition("\t")
                    for _ in range(REPEATED.get(kind + ending, 1)):
                        yield text

    tokenizer.train_from_iterator(texts(), trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, end)]
    )
    partial = work / "tokenizer.json.partial"
    spec = json.loads(tokenizer.to_str())
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]  # the older form, an eighth smaller
    partial.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")), "utf-8")
    os.rename(partial, path)
