#!/usr/bin/env python3
"""Where the time of a pass on an NVIDIA GPU goes: breakdown.py PROGRAM DIR [SHAPE..], shapes as 10x16 and 32x128.

Nsight Compute (ncu) times the kernels of a second pass one by one. That is more than they take when one starts while the
one before ends, as they do otherwise: `together` is what remains of the pass's time, measured without it, beside the
kernels' sum; where it is positive it is time without a kernel, the host's part."""

import csv
import io
import json
import re
import statistics
import subprocess
import sys

from memory import command

PRODUCTS = ("queries, keys, values", "output", "gate, up", "down")


def bench(program: str, model: str, shapes: list, before: tuple = ()) -> str:
    whole = [*before, *command(program, model), "--batch-tokens", "16384"]
    lines = "".join(json.dumps({"batch": batch, "tokens": tokens}) + "\n" for batch, tokens in shapes)
    return subprocess.run(whole, input=lines, stdout=subprocess.PIPE, text=True, check=True).stdout


def kernels(output: str) -> list:
    """Names and microseconds of the last pass."""
    rows = list(csv.reader(io.StringIO("".join(line for line in output.splitlines(True) if line.startswith('"')))))
    name, value = rows[0].index("Kernel Name"), rows[0].index("Metric Value")
    found = [(row[name], float(row[value].replace(",", "")) / 1e3) for row in rows[1:]]
    start = max(i for i, (kernel, _) in enumerate(found) if "embed_embed" in kernel)
    return found[start:]


def main() -> int:
    program, model = sys.argv[1:3]
    for shape in sys.argv[3:] or ["10x16", "32x128"]:
        batch, tokens = map(int, shape.split("x"))
        times = [json.loads(line)["ms"] for line in bench(program, model, [(batch, tokens)] * 30).splitlines()]
        whole = 1e3 * statistics.median(times[5:])
        metrics = ("ncu", "--metrics", "gpu__time_duration.sum", "--clock-control", "none", "--csv")
        sums, product = {}, 0
        for kernel, time in kernels(bench(program, model, [(batch, tokens)] * 2, metrics)):
            kind = re.sub(r"^mlx_embed_|_[0-9a-f]{16}$", "", kernel)
            if kind in ("product", "product_hopper", "dense"):
                kind = f"{PRODUCTS[product % 4]} ({kind})"
                product += 1
            count, total = sums.get(kind, (0, 0.0))
            sums[kind] = (count + 1, total + time)
        print(f"{shape}: a pass takes {whole:.0f} us, the median of 25")
        for kind, (count, total) in sorted(sums.items(), key=lambda item: -item[1][1]):
            print(f"  {kind:34} {count:4} times {total / count:8.2f} us, together {total:7.0f}")
        alone = sum(total for _, total in sums.values())
        print(f"  {'all kernels, one by one':34} {'':21} {alone:16.0f}")
        print(f"  {'together':34} {'':21} {whole - alone:16.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
