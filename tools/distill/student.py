"""The student: Qwen3's decoder without a head, pooled to one vector a text."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab_size: int = 16_384
    hidden_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 1152
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 512

    def as_dict(self) -> dict:
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


def rotate(x, cos, sin):
    """RoPE over halves, as transformers and MLX's `traditional=False` do it."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(self, x, cos, sin, bias):
        batch, length, _ = x.shape
        q, k, v = (proj(x).view(batch, length, -1, self.c.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin)
        # torch's kernel for a bias wants as many key heads as query heads
        shared = self.c.num_attention_heads // self.c.num_key_value_heads
        k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v.transpose(1, 2)))
        if bias is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).expand(-1, q.shape[1], -1, -1))
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, bias):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, bias)
        return x + self.mlp(self.post_attention_layernorm(x))


class Student(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.config = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        angles = torch.arange(c.max_position_embeddings)[:, None] * (
            c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                deep = (2 * c.num_hidden_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=deep * parameter.shape[1] ** -0.5)

    def hidden(self, ids, positions, bias=None):
        """ids, positions [B, L], bias [B, 1, L, L] (None: causal) -> [B, L, D]"""
        x = self.embed_tokens(ids)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        cos, sin = (table[positions].to(dtype)[:, None] for table in (self.cos, self.sin))
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return self.norm(x)

    def forward(self, ids, lengths):
        """ids [B, L] padded on the right, lengths [B] -> vectors of length 1, f32 [B, D]"""
        columns = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.hidden(ids, columns).float()
        return F.normalize((x * (columns < lengths[:, None])[..., None]).sum(1), dim=-1)

    def forward_packed(self, hidden, packed):
        """Texts that share rows, as `pool.Packed` lays them out -> vectors of length 1, f32 [texts, D]

        `hidden` is `self.hidden`, compiled or not.
        """
        x = hidden(packed.ids, packed.positions, packed.bias).flatten(0, 1)
        sums = torch.zeros(packed.texts, x.shape[1], device=x.device)
        return F.normalize(sums.index_add(0, packed.text, x[packed.at].float()), dim=-1)
