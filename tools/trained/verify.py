"""Verifies a trained model layer by layer: 4 bits, 8 bits and bf16, in every precision.

    python verify.py DIR [--model NAME] [--checkpoints 4bit,bf16] [--ways mlx] [--device cpu|gpu] [--binary FILE]

Makes each checkpoint and its golden file in DIR unless they are there, runs `mlx-embed verify` on
it and prints a table, and on stderr what is running. Exits with 1 if anything is off. README.md
has the models and the Python that it needs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHECKPOINTS = {"4bit": ["--bits", "4"], "8bit": ["--bits", "8"], "mxfp8": ["--mode", "mxfp8"],
               "nvfp4": ["--mode", "nvfp4"], "bf16": ["--bits", "0"]}
# MLX's operations share one thread's queue with the products, so more BLAS threads only wait.
MLX = ["--kernels", "mlx", "--threads", "1"]
WAYS = {"exact": ["--precision", "exact"], "fast": ["--precision", "fast"], "mlx": MLX}


@dataclass(frozen=True)
class Model:
    # What the golden file's texts end on, also where the mean of all tokens is taken.
    end: str = "<|endoftext|>"
    # Whether mlx-lm's layers in a loop are a reference; else it is transformers, with weights dequantised before.
    by_mlx_lm: bool = True
    # For tools/golden/make.py.
    golden: tuple = ()


MODELS = {
    "smollm2-135m": Model(),
    "gemma3-270m": Model(end="<eos>", by_mlx_lm=False),
    # In f64 its weights take 12 GB.
    "qwen2.5-coder-1.5b": Model(golden=("--dtype", "f32", "--texts", "6")),
}


def make(folder: Path, model: str, name: str) -> tuple[Path, Path]:
    """The checkpoint and its golden file."""
    checkpoint, golden = folder / f"{model}-{name}", folder / f"{model}-{name}.golden.safetensors"
    if not (checkpoint / "config.json").is_file():
        command = [sys.executable, HERE / "make_checkpoint.py", checkpoint, "--model", model, *CHECKPOINTS[name]]
        subprocess.run(command, check=True)
    if golden.is_file():
        return checkpoint, golden
    quantised = name != "bf16"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source, reference = checkpoint, "mlx-lm"
        if quantised and not MODELS[model].by_mlx_lm:
            source = Path(temporary)
            subprocess.run([sys.executable, ROOT / "tools/golden/dequantize.py", checkpoint, source], check=True)
        if source != checkpoint or (not quantised and find_spec("torch")):
            reference = "transformers"
        command = [sys.executable, ROOT / "tools/golden/make.py", source, golden, "--reference", reference]
        subprocess.run([*command, *MODELS[model].golden], check=True)
    return checkpoint, golden


def verify(binary: Path, checkpoint: Path, golden: Path, arguments: list[str]) -> dict:
    command = [binary, "verify", checkpoint, "--against", golden, "--json", "--quiet", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode > 1 or not result.stdout:
        sys.exit(f"{checkpoint}: {result.stderr}")
    return json.loads(result.stdout)


def both_poolings(name: str, end: str, binary: Path, checkpoint: Path, golden: Path, arguments: list) -> list[dict]:
    """`verify` with each. It may take minutes, so stderr tells what is running."""
    found = []
    for pooling, its in {"last token": [], "mean pooled": ["--pooling", "mean", "--end-token", end]}.items():
        print(f"{name}, {pooling}:", end=" ", file=sys.stderr, flush=True)
        start = time.monotonic()
        found.append(verify(binary, checkpoint, golden, [*arguments, *its]))
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def some_of(known: dict):
    """Reads names with commas between them."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}: there are {', '.join(known)}")
        return names

    return read


def number(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.1e}"


def row(name: str, way: str, last: dict, mean: dict) -> str:
    layers = last["against"]["layers"]
    decoder = layers[1:-1]
    errors = [float("nan") if each["error"] is None else each["error"] for each in layers]
    cells = [
        name,
        last["against"]["reference"].split(" in ")[0],
        way,
        number(decoder[0]["median_error"]),
        number(decoder[len(decoder) // 2]["median_error"]),
        number(decoder[-1]["median_error"]),
        number(max(errors)),
        f"{last['against']['vectors']['cosine']:.8f}",
        f"{mean['against']['vectors']['cosine']:.8f}",
        "passed" if last["passed"] and mean["passed"] else
        f"OFF from {last['first_divergent_layer']}: {'; '.join(last['failures'] + mean['failures'])}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the folder for checkpoints and golden files")
    parser.add_argument("--model", choices=MODELS, default="smollm2-135m", help="(default: %(default)s)")
    parser.add_argument("--checkpoints", type=some_of(CHECKPOINTS), default=list(CHECKPOINTS),
                        help=f"comma-separated, of {','.join(CHECKPOINTS)} (default: all)")
    parser.add_argument("--ways", type=some_of(WAYS), default=list(WAYS),
                        help=f"comma-separated, of {','.join(WAYS)}, MLX's own operations (default: all)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/mlx-embed",
                        help="mlx-embed (default: %(default)s)")
    options = parser.parse_args()
    if not options.binary.is_file():
        parser.error(f"{options.binary} is not there: cargo build --release -p mlx-embed-cli")
    options.dir.mkdir(parents=True, exist_ok=True)
    print("| checkpoint | reference | precision | median error, first layer | middle | last "
          "| largest of a token | lowest cosine, last token | mean pooled | |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |", flush=True)
    passed = True
    for name in options.checkpoints:
        checkpoint, golden = make(options.dir, options.model, name)
        # What is not 4 or 8 bits is never rounded, and a GPU knows no precision.
        ways = {"as it is": []} if options.device == "gpu" else {way: WAYS[way] for way in options.ways}
        if name == "bf16":
            ways.pop("fast", None)
        for way, arguments in ways.items():
            arguments = [*arguments, "--device", options.device]
            end = MODELS[options.model].end
            last, mean = both_poolings(f"{name}, {way}", end, options.binary, checkpoint, golden, arguments)
            passed &= last["passed"] and mean["passed"]
            print(row(name, way, last, mean), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
