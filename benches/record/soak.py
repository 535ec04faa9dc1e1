#!/usr/bin/env python3
"""Draws what `cargo bench --bench soak` wrote, memory above, latency below: soak.py soak.csv > soak.svg"""

import csv
import sys

from svg import Axis, Drawing

WIDTH, HEIGHT, LEFT, TOP = 900, 220, 70, 80
MIB = 1 << 20
PANELS = (
    ("memory, MiB", (("resident", "resident_bytes", MIB), ("MLX, in use", "mlx_active_bytes", MIB),
                     ("MLX, kept for reuse", "mlx_cached_bytes", MIB))),
    ("latency of one short text among 16 threads, ms", (("P99", "p99_ms", 1), ("P95", "p95_ms", 1), ("P50", "p50_ms", 1))),
)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], newline="") as file:
        lines = file.read().splitlines()
    about = [line[1:].strip() for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    drawing = Drawing(WIDTH, TOP + len(PANELS) * (HEIGHT + 80), "Memory and latency over many mixed requests")
    for index, line in enumerate(about):
        drawing.text(12, 22 + 18 * index, line)
    x = Axis([float(row["requests"]) for row in rows], (LEFT, WIDTH - 20))
    for index, (title, columns) in enumerate(PANELS):
        bottom = TOP + HEIGHT + index * (HEIGHT + 80)
        found = [[(float(row["requests"]), float(row[column]) / unit) for row in rows if row[column]]
                 for _, column, unit in columns]
        y = Axis([value for line in found for _, value in line], (bottom, bottom - HEIGHT))
        drawing.axes(x, y, ("requests", title))
        for number, (line, (name, *_)) in enumerate(zip(found, columns, strict=True)):
            drawing.curve([(x(at), y(value)) for at, value in line], f"l{number}")
            drawing.box(WIDTH - 460 + 150 * number, bottom - HEIGHT - 18, 14, 4, f"c{number}")
            drawing.text(WIDTH - 440 + 150 * number, bottom - HEIGHT - 12, name)
    print(drawing, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
