#!/usr/bin/env python3
"""Draws docs/speed.svg from the records beside this file: chart.py [--check]

With --check nothing is written; exits with 1 where the file is not what the records say. Python's standard library."""

import csv
import sys
from html import escape
from pathlib import Path

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
STYLE = """text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.own { fill: #1a7f64 }
.other { fill: #b4bcc6 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .own { fill: #2ea98a } .other { fill: #5c6672 } }"""


def times(record: str, shape: str) -> dict:
    """Medians in ms, by runtime."""
    with open(HERE / record, newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row.get("peer") or row["runtime"]: float(row["p50_ms"]) for row in rows if row["shape"] == shape}


def panel(title: str, record: str, shape: str, shown: dict, top: int) -> tuple:
    """Its lines of SVG, and where the next one begins."""
    found = times(record, shape)
    longest = max(found[name] for name in shown)
    lines = [f'<text class="title" x="0" y="{top + 16}">{escape(title)}</text>']
    y = top + TITLE
    for name in sorted(shown, key=found.get):
        width = found[name] / longest * (WIDTH - LABELS - VALUES)
        kind = "own" if name.startswith("mlx-embed") else "other"
        middle = y + BAR - 5
        lines += [
            f'<text x="{LABELS - 10}" y="{middle}" text-anchor="end">{escape(shown[name])}</text>',
            f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3"/>',
            f'<text x="{LABELS + width + 8:.1f}" y="{middle}">{found[name]:.3g} ms</text>',
        ]
        y += BAR + GAP
    return lines, y + GAP


def chart() -> str:
    top, body = 0, []
    for title, record, shape, shown in PANELS:
        lines, top = panel(title, record, shape, shown, top)
        body += lines
    label = "Milliseconds of a forward pass of Qwen3-Embedding-0.6B's geometry, less is better"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-label="{label}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>", ""])


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
