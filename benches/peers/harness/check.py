"""Whether every peer computes the whole model: its vectors against mlx-lm's in f32.

The reference is made once and kept in target/peers. A peer that left out a layer, or ran other
weights, would be far away; rounding activations to int8 costs about 1e-3 of the cosine.
"""

import json
import subprocess

from .peers import CACHE, HERE, MODEL, OURS, PYTHON
from .worker import WorkerError

SENTENCE = "The cat sat on the mat"
IDS = [[5, 71, 1013, 17, 619, 23, 290, 411], [900, 2, 333, 40, 55, 60, 7, 1001]]  # below 1024


def reference() -> dict:
    kept = CACHE / "reference.json"
    if not kept.is_file():
        made = subprocess.run(
            [PYTHON, HERE / "workers" / "reference.py", MODEL, SENTENCE, json.dumps(IDS)],
            capture_output=True, text=True, check=False,
        )
        if made.returncode != 0:
            raise WorkerError(f"reference.py failed: {made.stderr.strip()[-300:]}")
        kept.write_text(made.stdout)
    return json.loads(kept.read_text())


def cosine(worker, expected: dict) -> float:
    """The lowest cosine to the reference over the texts."""
    if worker.name in OURS:
        found, wanted = [sentence_vector(worker)], [expected["sentence"]]
    else:
        found, wanted = worker.ask({"ids": IDS})["vectors"], expected["ids"]
    return min(sum(a * b for a, b in zip(*pair)) for pair in zip(found, wanted, strict=True))


def sentence_vector(worker) -> list:
    """What `mlx-embed embed` gives, for the precision that the worker runs in."""
    program, arguments = worker.peer.command[0], worker.peer.command
    precision = arguments[arguments.index("--precision") + 1]
    finished = subprocess.run(
        [program, "embed", "--model", MODEL, "--device", "cpu", "--precision", precision, SENTENCE],
        capture_output=True, text=True, check=False,
    )
    if finished.returncode != 0:
        raise WorkerError(f"mlx-embed embed failed: {finished.stderr.strip()[-300:]}")
    answer = json.loads(finished.stdout.strip().splitlines()[0])
    return answer["embedding"]
