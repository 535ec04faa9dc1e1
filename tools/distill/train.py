"""Trains the student on the teacher's vectors.

A run is a constant learning rate, then two ends that start from the same weights: `dense` lets the rate fall to zero
as it is, `4bit` does so with MLX's 4-bit rounding in the loop. So the two differ in nothing else.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

import affine
from corpus import SEED
from student import Config, Student

LENGTHS = [4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256]


@dataclass
class Settings:
    tokens: int = 65_536  # a batch's, padding included
    most_texts: int = 4096  # a batch's
    compared: int = 2048  # texts of a batch whose similarities are compared with the teacher's
    relational: float = 20.0
    rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 300


class Data:
    """Texts by length, on the device. One pass shows a text as often as its weight says."""

    def __init__(self, work: Path, device: str, settings: Settings):
        load = lambda name: np.load(work / f"vectors/{name}.npy")  # noqa: E731
        self.device, self.settings = device, settings
        self.starts = torch.from_numpy(load("starts")).to(device)
        self.ids = torch.from_numpy(load("ids")).to(device)
        self.teacher = torch.from_numpy(load("teacher")).to(device)
        self.centre = torch.from_numpy(load("centre")).to(device).long()
        lengths = self.starts[1:] - self.starts[:-1]
        seen = torch.repeat_interleave(torch.arange(len(lengths), device=device), torch.from_numpy(load("weight")).to(device).long())
        bounds = torch.tensor(LENGTHS, device=device)
        bucket = torch.searchsorted(bounds, lengths[seen])
        self.buckets = [(length, seen[bucket == i]) for i, length in enumerate(LENGTHS) if (bucket == i).any()]
        self.lengths = lengths
        self.columns = torch.arange(LENGTHS[-1], device=device)

    def size(self, length: int) -> int:
        return min(self.settings.most_texts, self.settings.tokens // length)

    def epoch(self, generator: torch.Generator) -> list:
        """All batches `(length, rows)` of one pass. In every other one, texts of neighbouring meaning share a batch:
        the teacher's own hard negatives."""
        batches = []
        for length, rows in self.buckets:
            order = torch.randperm(len(rows), generator=generator).to(self.device)
            shuffled = rows[order]
            half = len(shuffled) // 2
            key = torch.randperm(int(self.centre.max()) + 1, generator=generator).to(self.device)
            alike = shuffled[half:]
            alike = alike[key[self.centre[alike]].argsort(stable=True)]
            for part in (shuffled[:half], alike):
                size = self.size(length)
                batches += [(length, part[i : i + size]) for i in range(0, len(part), size) if len(part) - i >= min(size, 64)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def batch(self, length: int, rows: torch.Tensor) -> tuple:
        columns = self.columns[:length]
        lengths = self.lengths[rows]
        at = (self.starts[rows][:, None] + columns).clamp(max=len(self.ids) - 1)
        ids = torch.where(columns < lengths[:, None], self.ids[at].long(), 0)
        return ids, lengths, self.teacher[rows].float()


def loss_of(vectors: torch.Tensor, target: torch.Tensor, settings: Settings) -> tuple:
    cosine = (1 - (vectors * target).sum(-1)).mean()
    own, theirs = vectors[: settings.compared], target[: settings.compared]
    relational = F.mse_loss(own @ own.T, theirs @ theirs.T)
    return cosine + settings.relational * relational, cosine, relational


class Run:
    """A student in training, with everything that a later start needs to go on."""

    def __init__(self, config: Config, settings: Settings, device: str, embeddings: torch.Tensor):
        torch.manual_seed(SEED)
        self.settings, self.device = settings, device
        self.model = Student(config)
        self.model.embed_tokens.weight.data.copy_(embeddings)
        self.model.to(device)
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98), fused=device == "cuda")
        self.generator = torch.Generator().manual_seed(SEED)
        self.step, self.log, self.pending = 0, [], []

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                "generator": self.generator.get_state(), "log": self.log}  # fmt: skip

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.log, self.pending = state["step"], list(state["log"]), []

    def forward(self, ids, lengths, rounded: bool):
        enabled = self.device == "cuda"
        with torch.autocast("cuda" if enabled else "cpu", dtype=torch.bfloat16, enabled=enabled):
            if not rounded:
                return self.model(ids, lengths)
            names, weights = zip(*((n, p) for n, p in self.model.named_parameters() if p.dim() == 2))
            replaced = dict(zip(names, affine.straight_through(weights)))
            return functional_call(self.model, replaced, (ids, lengths))

    def train_step(self, data: Data, rate: float, rounded: bool) -> tuple:
        if not self.pending:
            self.pending = data.epoch(self.generator)
        length, rows = self.pending.pop()
        ids, lengths, target = data.batch(length, rows)
        loss, cosine, relational = loss_of(self.forward(ids, lengths, rounded), target, self.settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return cosine.detach(), relational.detach(), len(rows)

    def phase(self, data: Data, name: str, steps: int, ending: bool, rounded: bool, save=None) -> None:
        """`steps` steps; with `ending` the rate falls to zero, else it stays."""
        first, began, texts = self.step, time.time(), 0
        sums = torch.zeros(3, device=self.device)
        last_saved = began
        while (done := self.step - first) < steps:
            left = 1 - done / steps if ending else 1.0
            rate = self.settings.rate * left * min(1.0, (self.step + 1) / self.settings.warmup)
            cosine, relational, count = self.train_step(data, rate, rounded)
            sums += torch.stack([cosine, relational, torch.ones_like(cosine)])
            texts += count
            if self.step % 500 == 0 or self.step - first == steps:
                c, r, n = sums.tolist()
                sums.zero_()
                entry = {"phase": name, "step": self.step, "cosine": round(1 - c / n, 4), "relational": round(r / n, 6),
                         "rate": round(rate, 6), "texts": texts, "seconds": round(time.time() - began, 1)}  # fmt: skip
                if not math.isfinite(c):
                    raise SystemExit(f"the loss is not finite at step {self.step}")
                self.log.append(entry)
                print(json.dumps(entry), flush=True)
                if save and time.time() - last_saved > 120:
                    save(self)
                    last_saved = time.time()


def token_embeddings(work: Path, vocabulary: int, device: str) -> torch.Tensor:
    """Where the student's token embeddings start: the teacher's vectors of the tokens' own text, which live in the
    space that the student's output shall have. Scaled to a mean square of 1, so that the first layers don't drown them."""
    from tokenizers import Tokenizer

    from teacher import Teacher

    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    texts = [tokenizer.decode([i]).strip() or "." for i in range(vocabulary)]
    vectors = torch.from_numpy(Teacher(work, device).embed(texts)).float()
    return vectors * vectors.shape[1] ** 0.5


def write_atomically(state: dict, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)


def load(path: Path, device: str) -> dict:
    state = torch.load(path, map_location=device, weights_only=True)
    state["generator"] = state["generator"].cpu()
    return state


def train(work: Path, device: str, config: Config, settings: Settings, steps: dict, name: str) -> None:
    """Leaves WORK/runs/NAME-dense.pt and NAME-4bit.pt: config, weights and log. Goes on where it was stopped.

    `steps` says how many: `stable`, then each end that is wanted, `dense` and `4bit`.
    """
    folder = work / "runs"
    folder.mkdir(exist_ok=True)
    ends = {end: folder / f"{name}-{end}.pt" for end in steps if end != "stable"}
    if all(path.exists() for path in ends.values()):
        return
    data = Data(work, device, settings)
    run = Run(config, settings, device, token_embeddings(work, config.vocab_size, device))
    parameters = sum(p.numel() for p in run.model.parameters())
    print(json.dumps({"run": name, "parameters": parameters, "steps": steps, **config.as_dict()}), flush=True)
    resume = folder / f"{name}-stable.pt"
    if resume.exists():
        run.restore(load(resume, device))
        print(f"going on from step {run.step}", flush=True)
    save = lambda r: write_atomically(r.state(), resume)  # noqa: E731
    run.phase(data, "stable", max(0, steps["stable"] - run.step), ending=False, rounded=False, save=save)
    save(run)
    for end, path in ends.items():
        if path.exists():
            continue
        run.restore(load(resume, device))
        rounded = end == "4bit"
        run.phase(data, end, steps[end], ending=True, rounded=rounded)
        saved = {"config": config.as_dict(), "model": run.model.state_dict(), "rounded": rounded, "log": run.log}
        write_atomically(saved, path)
