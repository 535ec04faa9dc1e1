#!/usr/bin/env python3
"""The numbers of `Sigmoid` in mlx-embed/src/kernels/emit.rs: GELU's function of x as a half and x * P(x^2) / Q(x^2), both
polynomials of degree 5, which is off by as little as can be up to a limit. Needs NumPy.

Lawson's iteration: least squares again and again, with more weight where the last result was off most. For each limit the
result is tried in f32. Of those that are a half at the limit, the one with the smallest error is printed."""

import math

import numpy as np

DEGREE = 5
FUNCTIONS = {
    "ERF": (lambda x: math.erf(x / math.sqrt(2)) / 2, 5.64),
    "TANH": (lambda x: math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) / 2, 5.22),
}


def fit(function, limit: float) -> tuple:
    x = (1 - np.cos(np.linspace(0, math.pi, 3001)[1:])) / 2 * limit
    y, powers = np.array([function(v) for v in x]), np.arange(DEGREE + 1)
    square = ((x / limit) ** 2)[:, None] ** powers
    weight, below, best = np.ones_like(x), np.ones_like(x), (math.inf, None, None)
    for _ in range(400):
        columns = np.concatenate([x[:, None] * square, -y[:, None] * square[:, 1:]], axis=1)
        by = np.sqrt(weight) / below
        found = np.linalg.lstsq(columns * by[:, None], y * by, rcond=None)[0]
        p, q = found[: DEGREE + 1], np.concatenate([[1], found[DEGREE + 1 :]])
        below = square @ q
        off = np.abs(x * (square @ p) / below - y)
        if off.max() < best[0]:
            best = off.max(), p / limit ** (2 * powers), q / limit ** (2 * powers)
        weight = weight * (off / off.max() + 1e-3)
        weight /= weight.sum()
    return best


def in_f32(p, q, limit: float, x):
    near = np.clip(x, -np.float32(limit), np.float32(limit))
    square = near * near

    def horner(numbers):
        value = np.full_like(square, numbers[-1])
        for number in numbers[-2::-1]:
            value = (value.astype(np.float64) * square + np.float32(number)).astype(np.float32)
        return value

    return near * horner(p.astype(np.float32)) / horner(q.astype(np.float32))


def main() -> None:
    x = np.linspace(-12, 12, 200001).astype(np.float32)
    for name, (function, middle) in FUNCTIONS.items():
        exact, best = np.array([function(float(v)) for v in x]), None
        for limit in np.arange(middle - 0.05, middle + 0.051, 0.01).round(2):
            off, p, q = fit(function, limit)
            got = in_f32(p, q, limit, x)
            worst = np.abs(got - exact).max()
            if got[-1] == 0.5 and (best is None or worst < best[0]):
                best = worst, off, limit, p, q
        worst, off, limit, p, q = best
        print(f"{name}: limit {limit}, off by {off:.1e}, in f32 by {worst:.1e}")
        for polynomial in (p, q):
            print("   ", [np.format_float_scientific(np.float32(v), unique=True) for v in polynomial[::-1]])


if __name__ == "__main__":
    main()
