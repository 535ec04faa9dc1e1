"""MLX's affine quantisation in torch: groups of 64 along a row, 4 bits, scale and bias a group."""

import torch

GROUP, BITS = 64, 4
LEVELS = 2**BITS - 1


def parameters(groups: torch.Tensor) -> tuple:
    """Scale and bias of each group, f16 as stored. groups f32 [G, 64] -> [G, 1] each

    As `mx.quantize`: the edge of larger magnitude and zero are representable exactly.
    """
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    low_is_edge = low.abs() > high.abs()
    scale = ((high - low) / LEVELS).clamp(min=1e-7)
    scale = torch.where(low_is_edge, scale, -scale)
    edge = torch.where(low_is_edge, low, high)
    steps = torch.round(edge / scale)
    scale = torch.where(steps != 0, edge / steps, scale)
    bias = torch.where(steps != 0, edge, torch.zeros_like(edge))
    return scale.half(), bias.half()


def quantise(weight: torch.Tensor) -> tuple:
    """weight f32 [rows, columns] -> numbers 0..15 [rows, columns], scales and biases f16 [rows, columns / 64]"""
    groups = weight.reshape(-1, GROUP)
    scale, bias = parameters(groups)
    numbers = ((groups - bias.float()) / scale.float()).round().clamp(0, LEVELS)
    shape = (weight.shape[0], -1)
    return numbers.to(torch.int64).reshape(shape), scale.reshape(shape), bias.reshape(shape)


def pack(numbers: torch.Tensor) -> torch.Tensor:
    """Eight numbers a u32, the first in the lowest bits. [rows, columns] -> [rows, columns / 8]"""
    per_word = 32 // BITS
    shifts = torch.arange(per_word) * BITS
    words = (numbers.reshape(numbers.shape[0], -1, per_word).cpu() << shifts).sum(-1)
    return words.to(torch.uint32)


def round_trip(groups: torch.Tensor) -> torch.Tensor:
    scale, bias = (x.float() for x in parameters(groups))
    return ((groups - bias) / scale).round().clamp(0, LEVELS) * scale + bias
