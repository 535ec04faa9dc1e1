#!/usr/bin/env python3
"""Draws docs/speed.svg from the records beside this file: chart.py [--check]

With --check nothing is written; exits with 1 where the file is not what the records say. Python's standard library."""

import csv
import sys
from pathlib import Path

from svg import Drawing

HERE = Path(__file__).resolve().parent
CHART = HERE.parents[1] / "docs/speed.svg"
# Of each panel: its title, the record, the shape, and which runtimes are shown as what.
PANELS = (
    ("Two CPU cores (Xeon, AVX-512 VNNI), ten texts of 16 tokens", "x86_64-genuineintel-6-207-2cpu/2026-11-24.csv", "10x16", {
        "mlx-embed-fast": "mlx-embed, fast", "openvino": "OpenVINO", "mlx-embed-exact": "mlx-embed, exact",
        "onnxruntime": "ONNX Runtime", "candle": "candle, Q4_K", "llama.cpp-headless": "llama.cpp, Q4_0, no head",
    }),
    ("NVIDIA H100, ten texts of 16 tokens", "x86_64-nvidia-h100/2026-11-26.csv", "10x16", {
        "mlx-embed": "mlx-embed, 4 bits", "torch-compile": "torch.compile, bf16", "torch-graph": "PyTorch, CUDA graph",
        "mlx-4bit": "Python MLX, 4 bits", "torch-eager": "PyTorch, eager",
    }),
)
WIDTH, LABELS, VALUES, BAR, GAP, TITLE = 760, 200, 90, 20, 8, 34


def times(record: str, shape: str) -> dict:
    """Medians in ms, by runtime."""
    with open(HERE / record, newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row.get("peer") or row["runtime"]: float(row["p50_ms"]) for row in rows if row["shape"] == shape}


def panel(drawing: Drawing, title: str, found: dict, shown: dict, top: int) -> None:
    longest = max(found[name] for name in shown)
    drawing.text(0, top + 16, title, kind="heading")
    for index, name in enumerate(sorted(shown, key=found.get)):
        y = top + TITLE + index * (BAR + GAP)
        width = found[name] / longest * (WIDTH - LABELS - VALUES)
        drawing.text(LABELS - 10, y + BAR - 5, shown[name], "end")
        drawing.box(LABELS, y, width, BAR, "own" if name.startswith("mlx-embed") else "other")
        drawing.text(LABELS + width + 8, y + BAR - 5, f"{found[name]:.3g} ms")


def chart() -> str:
    heights = [TITLE + len(shown) * (BAR + GAP) + GAP for *_, shown in PANELS]
    label = "Milliseconds of a forward pass of Qwen3-Embedding-0.6B's geometry, less is better"
    drawing, top = Drawing(WIDTH, sum(heights), label), 0
    for (title, record, shape, shown), height in zip(PANELS, heights, strict=True):
        panel(drawing, title, times(record, shape), shown, top)
        top += height
    return str(drawing)


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        if not CHART.is_file() or CHART.read_text() != chart():
            print(f"{CHART.name} is not what the records say: run benches/record/chart.py", file=sys.stderr)
            return 1
        return 0
    CHART.write_text(chart())
    return 0


if __name__ == "__main__":
    sys.exit(main())
