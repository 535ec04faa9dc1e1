#!/usr/bin/env python3
"""Makes a page of what `cargo bench --bench layers` wrote: layers.py layers.csv [KERNELS] > layers.html

KERNELS are those of the first line unless named. Shown are each operation below the roofs, the share of a pass that each
takes, and whole passes by their length. Python's standard library."""

import csv
import sys
from html import escape

from svg import Axis, Drawing, short

WIDTH = 860
KINDS = [f"c{number}" for number in range(8)]
ROOFS = ("f32", "half", "int16", "int8")


class Line:
    """An operation of one shape; times in microseconds, of one call."""

    def __init__(self, row: dict):
        self.shape, self.name, self.calls = row["shape"], row["operation"], int(row["calls"])
        self.texts, self.tokens = map(int, self.shape.split("x"))
        self.time = float(row["host_us"]) + float(row["device_us"])
        self.gflop, self.mb = float(row["gflop"]), float(row["mb"])
        self.rate = self.gflop * 1e6 / float(row["device_us"]) if float(row["device_us"]) else 0.0
        self.bandwidth = float(row["gb_per_s"])
        self.peaks = {roof: float(row[f"{roof}_gflops"]) for roof in ROOFS if row[f"{roof}_gflops"]}
        self.share = float(row["least_us"]) / float(row["device_us"]) if row["least_us"] and self.rate else None

    @property
    def whole(self) -> bool:
        return self.name in ("layer", "model")


def roofline(lines: list, kinds: dict) -> Drawing:
    lines = [line for line in lines if line.gflop and line.mb and not line.whole]
    peaks = {roof: max(line.peaks.get(roof, 0.0) for line in lines) for roof in ROOFS}
    peaks, bandwidth = {roof: peak for roof, peak in peaks.items() if peak}, max(line.bandwidth for line in lines)
    drawing = Drawing(WIDTH, 500, "Roofline")
    x = Axis([line.gflop * 1e3 / line.mb for line in lines], (70, WIDTH - 110), logarithmic=True)
    y = Axis([line.rate for line in lines] + list(peaks.values()), (430, 40), logarithmic=True)
    drawing.axes(x, y, ("operations per byte", f"GFLOP/s; the slope is memory, {short(bandwidth)} GB/s"))
    label = 0.0
    for roof, peak in sorted(peaks.items(), key=lambda item: -item[1]):
        drawing.line(x(peak / bandwidth), y(peak), x(x.high), y(peak), "roof")
        # Roofs may lie close together, their names must not.
        label = max(y(peak) + 4, label + 15)
        drawing.text(x(x.high) + 8, label, f"{roof} {short(peak)}")
    start, end = max(x.low, y.low / bandwidth), min(max(peaks.values()) / bandwidth, x.high)
    drawing.line(x(start), y(start * bandwidth), x(end), y(end * bandwidth), "roof")
    for line in lines:
        share = "" if line.share is None else f", {line.share:.0%} of its roof"
        drawing.dot(x(line.gflop * 1e3 / line.mb), y(line.rate), kinds[line.name],
                    f"{line.name}, {line.shape}: {short(line.rate)} GFLOP/s{share}")
    return drawing


def shares(lines: list, kinds: dict) -> Drawing:
    shapes = list(dict.fromkeys(line.shape for line in lines))
    drawing, scale = Drawing(WIDTH, 34 * len(shapes), "Time by operation"), (WIDTH - 220) / 100
    for index, shape in enumerate(shapes):
        own = [line for line in lines if line.shape == shape and not line.whole]
        total, left = sum(line.time * line.calls for line in own), 90.0
        drawing.text(82, 34 * index + 17, shape, "end")
        for line in own:
            share = line.time * line.calls / total * 100
            title = f"{line.name}: {short(line.time * line.calls / 1e3)} ms, {share:.1f} %"
            drawing.box(left, 34 * index, share * scale, 24, kinds[line.name], title)
            left += share * scale
        drawing.text(left + 8, 34 * index + 17, f"{short(total / 1e3)} ms")
    return drawing


def latency(lines: list) -> Drawing:
    passes = [line for line in lines if line.name == "model"]
    drawing = Drawing(WIDTH, 420, "Latency by length")
    x = Axis([line.texts * line.tokens for line in passes], (80, WIDTH - 120), logarithmic=True)
    y = Axis([line.time / 1e3 for line in passes], (350, 40), logarithmic=True)
    drawing.axes(x, y, ("tokens in the pass", "ms"))
    single = sorted((line for line in passes if line.texts == 1), key=lambda line: line.tokens)
    drawing.curve([(x(line.tokens), y(line.time / 1e3)) for line in single], "l0")
    for line in passes:
        at, text = (x(line.texts * line.tokens), y(line.time / 1e3)), f"{line.shape}: {short(line.time / 1e3)} ms"
        drawing.dot(*at, "c0" if line.texts == 1 else "c1", text)
        if line.texts == 1:
            drawing.text(at[0] + 8, at[1] + 16, text)
        else:
            drawing.text(at[0] - 8, at[1] - 8, text, "end")
    return drawing


def table(lines: list) -> str:
    rows = "".join(
        f"<tr><td>{line.shape}<td>{escape(line.name)}<td>{line.calls}<td>{short(line.time)}<td>{short(line.rate)}"
        f"<td>{'' if line.share is None else f'{line.share:.0%}'}</tr>\n" for line in lines)
    return ("<table><tr><th>shape<th>operation<th>calls<th>µs a call<th>GFLOP/s<th>of the roof</tr>\n"
            f"{rows}</table>")


def page(lines: list, about: list) -> str:
    names = list(dict.fromkeys(line.name for line in lines if not line.whole))
    kinds = {name: KINDS[index % len(KINDS)] for index, name in enumerate(names)}
    legend = " ".join(f'<svg viewBox="0 0 10 10" width="10"><rect class="{kinds[name]}" width="10" height="10"/></svg> '
                      f"{escape(name)}" for name in names)
    about = "".join(f"<p>{escape(line)}</p>\n" for line in about)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Where the time of a pass goes</title>\n'
        "<style>body { font: 15px system-ui, sans-serif; max-width: 900px; margin: auto; color-scheme: light dark }\n"
        "td + td + td, th + th + th { text-align: right } td, th { padding: 2px 10px; text-align: left }</style>\n"
        f"<h1>Where the time of a pass goes</h1>\n{about}<p>{legend}</p>\n"
        f"<h2>Roofline</h2>\n{roofline(lines, kinds)}<h2>Time by operation</h2>\n{shares(lines, kinds)}"
        f"<h2>Latency by length</h2>\n{latency(lines)}<h2>All numbers</h2>\n{table(lines)}\n</html>\n")


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], newline="") as file:
        text = file.read().splitlines()
    rows = list(csv.DictReader(line for line in text if not line.startswith("#")))
    kernels = sys.argv[2] if len(sys.argv) == 3 else rows[0]["kernels"] if rows else ""
    lines = [Line(row) for row in rows if row["kernels"] == kernels]
    if not lines:
        known = ", ".join(dict.fromkeys(row["kernels"] for row in rows)) or "none"
        print(f"{sys.argv[1]} has no kernels {kernels!r}; it has {known}", file=sys.stderr)
        return 1
    print(page(lines, [f"Kernels: {kernels}", *(line[1:].strip() for line in text if line.startswith("#"))]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
