"""The record of a run: a JSON object, a Markdown table for people, a CSV for the repository."""

import csv
import io
import platform
import re
import subprocess
from pathlib import Path

from .peers import OURS, ROOT
from .rounds import median


def commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    made = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return made.stdout.strip() or "unknown"


def machine(threads: int) -> dict:
    found = {"architecture": platform.machine(), "system": platform.system(), "threads": threads}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return found
    for key in ("vendor_id", "model name", "cpu family", "model", "stepping"):
        value = re.search(rf"^{key}\s*: (.*)$", text, re.MULTILINE)
        if value:
            found[key.replace(" ", "_")] = value.group(1)
    found["processors"] = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    return found


def slug(found: dict) -> str:
    """A folder's name for a machine: its architecture, CPU and number of processors."""
    parts = [found["architecture"], found.get("vendor_id", ""), found.get("cpu_family", ""),
             found.get("model", ""), f"{found.get('processors', '')}cpu"]
    return "-".join(re.sub(r"\W+", "", part).lower() for part in parts if part)


def best_peak(bursts: list) -> dict:
    """The best of each kind over the run; a kind that the CPU lacks stays None."""
    return {kind: max((burst[kind] for burst in bursts if burst[kind]), default=None)
            for kind in bursts[0]}


def row(line: dict, geometry, shape, activations: str, peak: dict) -> dict:
    """A series' summary with what it amounts to."""
    gflops = geometry.operations(shape) / line["p50_ms"] / 1e6
    kind = peak.get(activations)
    return {
        **line,
        "tokens_per_s": shape.total / line["p50_ms"] * 1e3,
        "gflops": gflops,
        "peak": activations,
        "share_of_peak": gflops / kind if kind else None,
    }


def ratio(result: dict, shape: str, name: str, to: str):
    """How many times as long as `to` the peer takes; None where one is missing."""
    lines = result["shapes"][shape]
    if name not in lines or to not in lines:
        return None
    return lines[name]["p50_ms"] / lines[to]["p50_ms"]


def table(head: list, lines: list, rest: str = "---:") -> str:
    """`rest` is the rule, and so the alignment, of all columns but the first."""
    rule = ["---"] + [rest] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines]) + "\n"


def number(value) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def per_shape(result: dict, names: list, cell) -> str:
    shapes = list(result["shapes"])
    lines = [[name, *(cell(name, shape) for shape in shapes)] for name in names]
    return table(["", *shapes], [line for line in lines if any(line[1:])])


def markdown(result: dict) -> str:
    """Times, ratios, shares of the peak, memory, and what to know about the run."""
    names, shapes, peak = list(result["peers"]), result["shapes"], result["peak"]

    def line(name, shape):
        return shapes[shape].get(name)

    def times(name, shape):
        found = line(name, shape)
        if not found:
            return ""
        return "{} ({} to {})".format(*(number(found[key]) for key in ("p50_ms", "min_ms", "max_ms")))

    def share(name, shape):
        found = line(name, shape)
        return f"{found['share_of_peak']:.1%}" if found and found["share_of_peak"] else ""

    def memory(name, shape):
        found = line(name, shape)
        return f"{found['peak_memory_bytes'] / 1e6:.0f}" if found else ""

    about = result["machine"]
    rounds = {str(shape): max(found["rounds"] for found in lines.values())
              for shape, lines in shapes.items() if lines}
    parts = [
        f"{about.get('model_name', about['architecture'])}, {about['threads']} threads, "
        f"commit {result['commit']}, {result['date']}, {result['model']}. Rounds: "
        + ", ".join(f"{shape} {count}" for shape, count in rounds.items()) + ".",
        "Milliseconds a forward pass, median (lowest to highest):",
        per_shape(result, names, times),
    ]
    for ours in OURS:
        if any(ours in lines for lines in shapes.values()):
            parts += [
                f"Time divided by that of `{ours}` (above 1: {ours} is faster):",
                per_shape(result, [name for name in names if name != ours],
                          lambda name, shape: number(ratio(result, shape, name, ours))),
            ]
    kinds = ", ".join(f"{kind} {value:.0f} GFLOP/s" for kind, value in peak.items()
                      if value and kind != "read")
    floor = result["weight_bytes"] / (peak["read"] or float("inf")) / 1e6
    parts += [
        f"Share of the machine's peak ({kinds}), each peer against the kind of its products' "
        f"activations; attention counts as if it ran in that kind too:",
        per_shape(result, names, share),
        f"Memory is read at {peak['read'] or 0:.1f} GB/s: one pass over the weights "
        f"({result['weight_bytes'] / 1e6:.0f} MB) takes {floor:.1f} ms where no cache holds them.",
        "Peak resident memory so far, MB (shapes ran in this order):",
        per_shape(result, names, memory),
        "Peers:",
        table(["", "what", "version", "cosine to the reference"],
              [[name, peer["about"], str(peer["facts"].get("version", "")),
                f"{peer['cosine']:.6f}" if peer.get("cosine") is not None else "not compared"]
               for name, peer in result["peers"].items()],
              rest="---"),
    ]
    parts += [f"- {name} failed: {why}" for name, why in result["failed"].items()]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n\n" + disturbances(result)


def disturbances(result: dict) -> str:
    """What else ran: other processes, and peers that should have been idle."""
    shares = [line["busy_processors"] for lines in result["shapes"].values() for line in lines.values()]
    if not shares:
        return ""
    others = median([share["others"] for share in shares])
    idle = max(share["idle_workers"] for share in shares)
    return (f"While a peer was timed, other processes used {others:.2f} processors (median over all), "
            f"idle peers at most {idle:.2f}.\n")


COLUMNS = ["shape", "peer", "rounds", "p50_ms", "min_ms", "max_ms", "tokens_per_s", "gflops", "peak",
           "share_of_peak", "peak_memory_bytes", "others_busy"]


def write_csv(result: dict) -> str:
    """Lines starting with # say where the figures are from."""
    out = io.StringIO()
    header = {
        "command": result["command"],
        "commit": result["commit"],
        "date": result["date"],
        "machine": " ".join(f"{key}={value}" for key, value in result["machine"].items()),
        "peak": " ".join(f"{kind}={value}" for kind, value in result["peak"].items()),
        "versions": "; ".join(sorted({str(peer["facts"]["version"]) for peer in result["peers"].values()
                                      if "version" in peer["facts"]})),
        "cosines": " ".join(f"{name}={peer['cosine']:.6f}" for name, peer in result["peers"].items()
                            if peer.get("cosine") is not None),
    }
    for key, value in header.items():
        out.write(f"# {key}: {value}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for shape, lines in result["shapes"].items():
        for name, line in lines.items():
            values = {**line, "shape": shape, "peer": name,
                      "others_busy": line["busy_processors"]["others"]}
            writer.writerow(f"{values[key]:.6g}" if isinstance(values[key], float) else values[key]
                            for key in COLUMNS)
    return out.getvalue()
