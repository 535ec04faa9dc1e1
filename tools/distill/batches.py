"""What one training step sees: texts of all lengths, drawn from the pool and packed into rows without padding."""

import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pool import GROUPS, MAX_TOKENS
from teacher import Teacher

CENTRES, RUN = 1024, 32


@dataclass
class Packed:
    """ids, positions [R, L]; bias [R, 1, L, L]: 0 where a token sees another, that is within its text and behind it;
    at [tokens]: the tokens' places in the flattened rows; text [tokens]: whose they are."""

    ids: torch.Tensor
    positions: torch.Tensor
    bias: torch.Tensor
    at: torch.Tensor
    text: torch.Tensor
    texts: int


def pack(lengths: np.ndarray, rows: int) -> tuple:
    """Texts in order of length, the longest first, and where in the flattened rows each begins.

    A row is filled from the long end, then topped up from the short end.
    """
    order = np.argsort(-lengths, kind="stable")
    left = lengths[order].tolist()
    places = [0] * len(left)
    long, short, row, room = 0, len(left) - 1, 0, MAX_TOKENS
    while long <= short:
        if left[long] <= room:
            i, long = long, long + 1
        elif left[short] <= room:
            i, short = short, short - 1
        else:
            row, room = row + 1, MAX_TOKENS
            if row == rows:
                break
            continue
        places[i] = (row + 1) * MAX_TOKENS - room
        room -= left[i]
    kept = np.r_[0:long, short + 1 : len(left)]
    return order[kept], np.array(places)[kept]


class Pool:
    """The texts with the teacher's vectors, on the device."""

    def __init__(self, work: Path, device: str):
        load = lambda name: np.load(work / f"pool/{name}.npy")  # noqa: E731
        self.device, began = device, time.time()
        texts, starts = load("texts"), load("teacher_starts")
        self.teacher = Teacher(work, device).embed_ranges(
            load("teacher"), *(starts[texts[:, i]].astype(np.int64) for i in range(2))
        )
        starts = load("student_starts")
        begin, end = (starts[texts[:, i]].astype(np.int64) for i in range(2))
        self.lengths = end - begin + 1
        self.group = load("group")
        self.begin = torch.from_numpy(begin).to(device)
        self.tokens = torch.from_numpy(load("student")).to(device)
        self.by_meaning = np.argsort(self.nearest_centres(), kind="stable")
        print(f"{len(texts)} texts' vectors after {time.time() - began:.0f} s", flush=True)

    @torch.no_grad()
    def nearest_centres(self) -> np.ndarray:
        """A few rounds of k-means on a sample, then every text's nearest centre."""
        chosen = torch.linspace(0, len(self.teacher) - 1, min(200_000, len(self.teacher)), device=self.device).long()
        sample = self.teacher[chosen].float()
        centres = sample[torch.randperm(len(sample), device=self.device)[:CENTRES]]
        for _ in range(8):
            nearest = (sample @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
            centres = torch.nn.functional.normalize(sums + 1e-6 * centres, dim=-1)
        parts = self.teacher.split(262_144)
        return torch.cat([(part.float() @ centres.T).argmax(1).to(torch.int16).cpu() for part in parts]).numpy()


class Batches:
    """Draws batches in a thread of its own. Some texts come in runs of neighbouring meaning: hard negatives."""

    def __init__(self, pool: Pool, rows: int, shares: dict, alike: float, seed: int):
        self.pool, self.rows, self.alike = pool, rows, alike
        self.rng = np.random.default_rng(seed)
        members = {name: np.flatnonzero(pool.group == i) for i, name in enumerate(GROUPS)}
        self.groups = {name: index for name, index in members.items() if len(index)}
        mean = sum(shares[name] * pool.lengths[index].mean() for name, index in self.groups.items())
        mean = (1 - alike) * mean + alike * pool.lengths.mean()
        texts = rows * MAX_TOKENS * 1.02 / mean  # a little more than fit, so that rows are full
        self.counts = {name: int(texts * (1 - alike) * shares[name]) for name in self.groups}
        self.runs = int(texts * alike / RUN)
        self.ready: queue.Queue = queue.Queue(16)
        threading.Thread(target=self.fill, daemon=True).start()

    def fill(self) -> None:
        while True:
            self.ready.put(self.draw())

    def draw(self) -> tuple:
        rng, pool = self.rng, self.pool
        parts = [index[rng.integers(0, len(index), self.counts[name])] for name, index in self.groups.items()]
        begins = rng.integers(0, len(pool.by_meaning) - RUN, self.runs)
        parts.append(pool.by_meaning[(begins[:, None] + np.arange(RUN)).ravel()])
        texts = np.concatenate(parts)
        kept, places = pack(pool.lengths[texts], self.rows)
        texts = texts[kept]
        found = [torch.from_numpy(x) for x in (texts, places, pool.lengths[texts])]
        if pool.device == "cuda":
            found = [x.pin_memory() for x in found]
        return found

    def next(self) -> tuple:
        """The packed texts and the teacher's vectors of them."""
        pool, device = self.pool, self.pool.device
        texts, places, lengths = self.ready.get()
        total = int(lengths.sum())
        texts, places, lengths = (x.to(device, non_blocking=True) for x in (texts, places, lengths))
        text = torch.repeat_interleave(torch.arange(len(texts), device=device), lengths, output_size=total)
        inside = torch.arange(total, device=device) - (lengths.cumsum(0) - lengths)[text]
        at = places[text] + inside
        ids = pool.tokens[(pool.begin[texts][text] + inside).clamp(max=len(pool.tokens) - 1)].long()
        ids = torch.where(inside == lengths[text] - 1, 0, ids)  # the end token's number is 0
        flat = torch.zeros(3, self.rows * MAX_TOKENS, dtype=torch.int64, device=device)
        flat[2] = -1
        flat[:, at] = torch.stack([ids, inside, text])
        ids, positions, owner = flat.view(3, self.rows, MAX_TOKENS)
        seen = (owner[:, :, None] == owner[:, None, :]).tril_()
        bias = torch.zeros(seen.shape, dtype=torch.bfloat16, device=device).masked_fill_(~seen, float("-inf"))
        packed = Packed(ids, positions, bias[:, None], at, text, len(texts))
        return packed, pool.teacher[texts].float()
