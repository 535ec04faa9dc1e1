#!/usr/bin/env python3
"""Whether any call on a GPU takes much longer than others: stall.py PROGRAM DIR [CALLS].

Sends CALLS (2,000) batches of other sizes each, 1 to 10 texts of 4 to 64 tokens, after a dozen, and prints the median, the
largest time and the GPU's memory before and after, and the five slowest calls. Exits with 1 where a call took more than
three times the median."""

import random
import statistics
import sys

from memory import Model, memory


def main() -> int:
    program, model = sys.argv[1:3]
    calls = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    call = Model(program, model).call
    for batch, tokens in ((1, 4), (1, 16), (1, 64), (4, 16), (10, 16), (10, 64)) * 2:
        call(batch, tokens)
    before = memory()
    choose = random.Random(0)
    sizes = [(choose.randint(1, 10), choose.randint(4, 64)) for _ in range(calls)]
    times = [call(batch, tokens) for batch, tokens in sizes]
    median = statistics.median(times)
    worst = max(times)
    over = sum(time > 3 * median for time in times)
    print(f"{calls} calls: median {median:.3f} ms, p99 {sorted(times)[int(0.99 * calls)]:.3f}, largest {worst:.3f} "
          f"({worst / median:.2f} times the median), {over} over three times; GPU memory {before} MiB, then {memory()}")
    slowest = sorted(range(calls), key=times.__getitem__)[-5:]
    print("slowest: " + ", ".join(f"call {at} ({sizes[at][0]}x{sizes[at][1]}) {times[at]:.2f} ms" for at in slowest))
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
