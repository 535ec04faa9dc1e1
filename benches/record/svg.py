"""Drawings as SVG: axes, lines, marks. Python's standard library."""

import math
from html import escape

STYLE = """svg { font: 13px system-ui, sans-serif }
text { fill: #1f2328 }
.heading { font-weight: 600 }
.grid { stroke: #d8dee4 }
.roof, .curve { fill: none; stroke: #57606a; stroke-width: 1.5 }
.own, .c0 { fill: #1a7f64 } .c1 { fill: #d1495b } .c2 { fill: #edae49 } .c3 { fill: #1f6f8b } .c4 { fill: #8f6bb3 }
.c5 { fill: #6c9a3b } .c6 { fill: #c97b4a } .c7 { fill: #4aa3a2 } .other { fill: #b4bcc6 }
.l0 { stroke: #1a7f64 } .l1 { stroke: #d1495b } .l2 { stroke: #edae49 } .l3 { stroke: #1f6f8b }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .grid { stroke: #30363d } .roof, .curve { stroke: #8b949e } .own, .c0 { fill: #2ea98a }
.other { fill: #5c6672 } .l0 { stroke: #2ea98a } }"""


def short(number: float) -> str:
    """Three digits, thousands and millions by letter."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e6 if unit == 'M' else 1e3):.3g}{unit}"
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


class Axis:
    """From numbers to points: from zero to a round number, or between powers of ten."""

    def __init__(self, numbers, points: tuple, logarithmic: bool = False):
        numbers = [number for number in numbers if number > 0] or [1.0]
        self.points, self.logarithmic = points, logarithmic
        if logarithmic:
            low, high = math.floor(math.log10(min(numbers))), math.ceil(math.log10(max(numbers)))
            self.low, self.high = 10.0**low, 10.0 ** max(high, low + 1)
            self.ticks = [10.0**power for power in range(low, max(high, low + 1) + 1)]
            return
        rough = max(numbers) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        self.low, self.high = 0.0, step * math.ceil(max(numbers) / step)
        self.ticks = [step * count for count in range(round(self.high / step) + 1)]

    def __call__(self, number: float) -> float:
        scale = math.log10 if self.logarithmic else float
        number = min(max(number, self.low), self.high)
        share = (scale(number) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.points[0] + share * (self.points[1] - self.points[0])


class Drawing:
    def __init__(self, width: int, height: float, label: str):
        self.head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" role="img" '
                     f'aria-label="{escape(label)}">')
        self.body = []

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> None:
        kind = f' class="{kind}"' if kind else ""
        self.body.append(f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> None:
        self.body.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, title: str = "") -> None:
        title = f"<title>{escape(title)}</title>" if title else ""
        self.body.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}">{title}</rect>')

    def dot(self, x: float, y: float, kind: str, title: str) -> None:
        self.body.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(title)}</title></circle>')

    def curve(self, points: list, kind: str) -> None:
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.body.append(f'<polyline class="curve {kind}" points="{at}"/>')

    def axes(self, x: Axis, y: Axis, titles: tuple) -> None:
        (left, right), (bottom, top) = x.points, y.points
        for tick in y.ticks:
            self.line(left, y(tick), right, y(tick))
            self.text(left - 8, y(tick) + 4, short(tick), "end")
        for tick in x.ticks:
            self.line(x(tick), bottom, x(tick), top)
            self.text(x(tick), bottom + 18, short(tick), "middle")
        self.text((left + right) / 2, bottom + 38, titles[0], "middle")
        self.text(left, top - 10, titles[1])

    def __str__(self) -> str:
        return "\n".join([self.head, f"<style>{STYLE}</style>", *self.body, "</svg>", ""])
