"""Measures the teacher, the dense student and the 4-bit model: one table, all columns from this script.

The students run in `mlx-embed embed`, as for any user. Exits with 1 if a figure is below what is asked for.

evaluate.py [--work DIR] [--binary FILE] [--output FILE]
"""

import argparse
import sys
from pathlib import Path

import measures
from distill import MODEL, REPOSITORY
from teacher import Teacher


def rows(teacher: dict, dense: dict, four: dict) -> list:
    """(what, teacher, dense, 4-bit, least, reached)"""
    found = []
    agreement = {"dense": measures.agreement(dense, teacher), "four": measures.agreement(four, teacher)}
    for kind, name in (("both", "fortunes and FOLDOC together"), ("fortunes", "fortunes alone"), ("foldoc", "FOLDOC alone")):
        least = 0.90 if kind == "both" else None
        a, b = agreement["dense"][kind], agreement["four"][kind]
        found.append((f"agreement with the teacher, {name}", 1.0, a, b, least, least is None or b >= least))
    for name, share in (("WordSim-353", 0.90), ("SimLex-999", 0.80), ("Lee", 0.90), ("recall@10", 0.85)):
        t, a, b = teacher[name], dense[name], four[name]
        found.append((name, t, a, b, share * t, b >= share * t))
    found.append(("triplets right, of 20", teacher["triplets"], dense["triplets"], four["triplets"], None, True))
    for case in four["seed"]:
        t, a, b = (m["seed"][case] for m in (teacher, dense, four))
        seed = four["seed"]
        rug = 0.7 if teacher["seed"]["mat/rug"] > 0.7 else teacher["seed"]["mat/rug"] - 0.05
        reached = {
            "cat/dog": seed["cat/dog"] > seed["cat/car"],
            "king/queen": seed["king/queen"] > seed["king/apple"],
            "mat/rug": seed["mat/rug"] > rug,
            "mat/stock market": seed["mat/stock market"] < 0.5,
        }.get(case, True)
        found.append((f"cosine {case}", t, a, b, rug if case == "mat/rug" else None, reached))
    return found


def kept(dense: dict, four: dict, teacher: dict) -> dict:
    """What the 4-bit model keeps of the dense student's scores."""
    shares = {name: four[name] / dense[name] for name in ("WordSim-353", "SimLex-999", "Lee", "recall@10")}
    shares["agreement"] = measures.agreement(four, teacher)["both"] / measures.agreement(dense, teacher)["both"]
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/distill")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/mlx-embed")
    parser.add_argument("--output", type=Path, help="also write the table here")
    options = parser.parse_args()
    students = lambda model: measures.Program(options.binary, model, "--device", "cpu")  # noqa: E731
    teacher = measures.measure(Teacher(options.work, "cpu").embed, options.work)
    dense = measures.measure(students(options.work / "dense").embed, options.work)
    four = measures.measure(students(MODEL).embed, options.work)
    lines = ["| measure | teacher | dense student | 4-bit model | at least | |", "| --- | --- | --- | --- | --- | --- |"]
    table = rows(teacher, dense, four)
    for what, t, a, b, least, reached in table:
        numbers = (f"{x:.3f}" if isinstance(x, float) else str(x) for x in (t, a, b))
        bound = "" if least is None else f"{least:.3f}"
        lines.append(f"| {what} | {' | '.join(numbers)} | {bound} | {'' if reached else 'falls short'} |")
    shares = kept(dense, four, teacher)
    lines.append("")
    lines.append("Of the dense student's score 4 bits keep: " + ", ".join(f"{k} {v:.1%}" for k, v in shares.items()) + ".")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, "utf-8")
    short = [row[0] for row in table if not row[-1]] + [k for k, v in shares.items() if v < 0.99]
    for name in short:
        print(f"falls short: {name}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
