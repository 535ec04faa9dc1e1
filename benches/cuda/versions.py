#!/usr/bin/env python3
"""Times two builds of mlx-embed on an NVIDIA GPU, in alternation: versions.py BEFORE NOW DIR [SHAPE..], shapes as 10x16.

The first batches of a shape don't count: kernels are chosen in them, and after sixteen alike they are launched as one."""

import statistics
import sys

from memory import Model

SHAPES = ("1x16", "10x16", "32x128")
WARM_UP, ROUNDS = 20, 51


def main() -> int:
    before, now, folder = sys.argv[1:4]
    models = [Model(program, folder, "--batch-tokens", "16384") for program in (before, now)]
    for shape in sys.argv[4:] or SHAPES:
        batch, tokens = map(int, shape.split("x"))
        for model in models:
            for _ in range(WARM_UP):
                model.call(batch, tokens)
        times = [[], []]
        for number in range(ROUNDS):
            for which in (number % 2, 1 - number % 2):
                times[which].append(models[which].call(batch, tokens))
        old, new = map(statistics.median, times)
        print(f"{shape:>7} {old:8.3f} ms, then {new:8.3f}: {new / old:.3f} of it; slowest {max(times[0]):.2f} and "
              f"{max(times[1]):.2f}", flush=True)
    for model in models:
        model.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
