"""The card's measures on a training run, in torch: quick, and before there is a checkpoint for mlx-embed."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import affine
import measures
from student import Config, Student
from teacher import Teacher


class Trained:
    def __init__(self, work: Path, run: str, device: str):
        saved = torch.load(work / f"runs/{run}.pt", map_location="cpu", weights_only=True)
        self.device = device
        self.tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        self.model = Student(Config(**saved["config"]))
        state = saved["model"]
        if saved["rounded"]:
            state = {
                name: affine.round_trip(w.view(-1, affine.GROUP)).view(w.shape) if w.dim() == 2 else w.half().float()
                for name, w in state.items()
            }
        self.model.load_state_dict(state)
        self.model.to(device).eval()
        self.tokenizer.enable_truncation(self.model.config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, texts: list) -> np.ndarray:
        ids = [e.ids for e in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.empty((len(ids), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), 256):
            rows = order[start : start + 256]
            lengths = torch.tensor([len(ids[i]) for i in rows])
            padded = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
            for row, i in enumerate(rows):
                padded[row, : len(ids[i])] = torch.tensor(ids[i])
            vectors[rows] = self.model(padded.to(self.device), lengths.to(self.device)).cpu().numpy()
        return vectors


def teacher_measures(work: Path, device: str, cache={}) -> dict:
    if "teacher" not in cache:
        cache["teacher"] = measures.measure(Teacher(work, device).embed, work)
    return cache["teacher"]


def report(work: Path, run: str, device: str) -> None:
    path = work / f"runs/{run}.json"
    if path.exists():
        return
    teacher = teacher_measures(work, device)
    found = measures.measure(Trained(work, run, device).embed, work)
    figures = {"agreement": measures.agreement(found, teacher)} | {k: v for k, v in found.items() if k != "pairs"}
    print(json.dumps({"run": run, **figures}), flush=True)
    print(json.dumps({"teacher": {k: v for k, v in teacher.items() if k != "pairs"}}), flush=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
