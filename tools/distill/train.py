"""Trains the student on the teacher's vectors.

A run is a constant learning rate, then two ends that start from the same weights: `dense` lets the rate fall to zero
as it is, `4bit` does so with MLX's 4-bit rounding in the loop. So the two differ in nothing else.
"""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

import affine
from batches import Batches, Pool
from corpus import SEED
from student import Config, Student


@dataclass
class Settings:
    rows: int = 384  # of 256 tokens, a batch's
    shares: dict = field(default_factory=lambda: {"running": 0.62, "lexical": 0.20, "word": 0.08, "made": 0.10})
    alike: float = 0.25  # of the texts come in runs of neighbouring meaning
    relational: float = 20.0
    rate: float = 4e-3
    weight_decay: float = 0.01
    warmup: int = 300
    compiled: bool = True


def loss_of(vectors: torch.Tensor, target: torch.Tensor, settings: Settings) -> tuple:
    cosine = (1 - (vectors * target).sum(-1)).mean()
    relational = F.mse_loss(vectors @ vectors.T, target @ target.T)
    return cosine + settings.relational * relational, cosine, relational


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz (Jordan et al. 2024), matrices of one shape together.

    Updates have the size that AdamW's have (Liu et al. 2025), so that one rate serves both.
    """

    def __init__(self, parameters: list, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes: dict = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, parameters in shapes.items():
                gradient = torch.stack([p.grad for p in parameters])
                state = self.state[parameters[0]]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                state["momentum"].lerp_(gradient, 1 - group["momentum"])
                update = orthogonal(gradient.lerp(state["momentum"], group["momentum"])) * (0.2 * max(shape) ** 0.5)
                for p, u in zip(parameters, update):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly. x [K, rows, columns]"""
    wide = x.shape[-2] <= x.shape[-1]
    y = (x if wide else x.mT).bfloat16()
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = y @ y.mT
        y = 3.4445 * y + (-4.7750 * a + 2.0315 * a @ a) @ y
    return (y if wide else y.mT).float()


class Run:
    """A student in training, with everything that a later start needs to go on."""

    def __init__(self, config: Config, settings: Settings, device: str, embeddings: torch.Tensor):
        torch.manual_seed(SEED)
        torch.set_float32_matmul_precision("high")
        self.settings, self.device = settings, device
        self.model = Student(config)
        self.model.embed_tokens.weight.data.copy_(embeddings)
        self.model.to(device)
        self.hidden = torch.compile(self.model.hidden, dynamic=False) if settings.compiled else self.model.hidden
        named = list(self.model.named_parameters())
        self.matrices = [p for _, p in named if p.dim() == 2]
        inner = [p for name, p in named if p.dim() == 2 and "embed" not in name]
        rest = [p for p in self.matrices if not any(p is q for q in inner)]
        vectors = [p for _, p in named if p.dim() == 1]
        groups = [{"params": rest, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizers = [
            torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98), fused=device == "cuda"),
            Muon(inner, settings.rate, settings.weight_decay),
        ]
        self.step, self.log = 0, []

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
                "step": self.step, "log": self.log}  # fmt: skip

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.log = state["step"], list(state["log"])

    def gradients(self, batches: Batches) -> tuple:
        packed, target = batches.next()
        cuda = self.device == "cuda"
        with torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16, enabled=cuda):
            vectors = self.model.forward_packed(self.hidden, packed)
        with torch.autocast("cuda" if cuda else "cpu", enabled=False):
            loss, cosine, relational = loss_of(vectors, target, self.settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        return cosine.detach(), relational.detach(), packed.texts

    def update(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    @torch.no_grad()
    def rounded(self, exact: list) -> None:
        """The model's matrices become what 4 bits hold of `exact`."""
        flat = torch.cat([w.reshape(-1) for w in exact]).view(-1, affine.GROUP)
        parts = affine.round_trip(flat).view(-1).split([w.numel() for w in exact])
        torch._foreach_copy_(self.matrices, [part.view(w.shape) for part, w in zip(parts, exact)])

    def phase(self, batches: Batches, name: str, steps: int, ending: bool, rounding: bool, save=None) -> None:
        """`steps` steps; with `ending` the rate falls to zero, else it stays.

        With `rounding` the model computes with 4-bit matrices, and its gradients go to the exact ones.
        """
        first, began, texts = self.step, time.time(), 0
        sums = torch.zeros(3, device=self.device)
        last_saved = began
        exact = [p.detach().clone() for p in self.matrices] if rounding else []
        while (done := self.step - first) < steps:
            left = 1 - done / steps if ending else 1.0
            rate = self.settings.rate * left * min(1.0, (self.step + 1) / self.settings.warmup)
            if rounding:
                self.rounded(exact)
            cosine, relational, count = self.gradients(batches)
            if rounding:
                with torch.no_grad():
                    torch._foreach_copy_(self.matrices, exact)
            self.update(rate)
            if rounding:
                torch._foreach_copy_(exact, [p.detach() for p in self.matrices])
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


def train(work: Path, pool: Pool, config: Config, settings: Settings, steps: dict, name: str) -> None:
    """Leaves WORK/runs/NAME-dense.pt and NAME-4bit.pt: config, weights and log. Goes on where it was stopped.

    `steps` says how many: `stable`, then each end that is wanted, `dense` and `4bit`.
    """
    folder, device = work / "runs", pool.device
    folder.mkdir(exist_ok=True)
    ends = {end: folder / f"{name}-{end}.pt" for end in steps if end != "stable"}
    run = Run(config, settings, device, token_embeddings(work, config.vocab_size, device))
    parameters = sum(p.numel() for p in run.model.parameters())
    print(json.dumps({"run": name, "parameters": parameters, "steps": steps, **config.as_dict()}), flush=True)
    resume = folder / f"{name}-stable.pt"
    load = lambda: torch.load(resume, map_location=device, weights_only=True)  # noqa: E731
    if resume.exists():
        run.restore(load())
        print(f"going on from step {run.step}", flush=True)
    batches = lambda: Batches(pool, settings.rows, settings.shares, settings.alike, SEED + run.step)  # noqa: E731
    save = lambda r: write_atomically(r.state(), resume)  # noqa: E731
    if run.step < steps["stable"]:
        run.phase(batches(), "stable", steps["stable"] - run.step, ending=False, rounding=False, save=save)
    save(run)
    for end, path in ends.items():
        if path.exists():
            continue
        run.restore(load())
        rounding = end == "4bit"
        run.phase(batches(), end, steps[end], ending=True, rounding=rounding)
        saved = {"config": config.as_dict(), "model": run.model.state_dict(), "rounded": rounding, "log": run.log}
        write_atomically(saved, path)
