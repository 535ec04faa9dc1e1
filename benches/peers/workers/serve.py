"""What a worker speaks: one JSON object a line, requests on standard input, answers on standard output.

First the worker says `{"ready": {...versions and settings...}}`. Then `{"batch": 1, "tokens": 8}` is
answered with `{"batch": 1, "tokens": 8, "ms": 24.9}`: random token ids on the host to one normalised
vector a text on the host. With `"ids": [[..], ..]` the answer carries `"vectors"` too.
"""

import json
import os
import sys
import time

import numpy as np


def reserve_stdout():
    """The answers' stream; whatever a library prints goes to standard error instead."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def normalise(vectors: np.ndarray) -> np.ndarray:
    """f32 [batch, hidden], each row of length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def serve(answers, embed, vocab: int, hidden: int, facts: dict) -> None:
    """Answers until standard input ends. `embed` takes i64 [batch, tokens] and gives [batch, hidden]."""
    print(json.dumps({"ready": facts}), file=answers)
    generator = np.random.default_rng(0)
    for line in sys.stdin:
        request = json.loads(line)
        given = request.get("ids")
        if given:
            ids = np.array(given, np.int64)
        else:
            ids = generator.integers(0, vocab, (request["batch"], request["tokens"]), np.int64)
        begin = time.perf_counter()
        vectors = normalise(embed(ids))
        ms = (time.perf_counter() - begin) * 1e3
        if vectors.shape != (len(ids), hidden) or not np.isfinite(vectors).all():
            raise SystemExit(f"vectors of shape {vectors.shape} are not what was asked for")
        answer = {"batch": ids.shape[0], "tokens": ids.shape[1], "ms": ms}
        if given:
            answer["vectors"] = vectors.tolist()
        print(json.dumps(answer), file=answers)
