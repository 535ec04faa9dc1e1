"""Encoders with random weights in f32: the peers, what they need, and whether they compute the whole model."""

import json
import subprocess
from pathlib import Path

from .peers import CACHE, CLI, HERE, OURS, PYTHON, Peer, rust
from .prepare import VENV, cli, converted, python_packages, roofline, run, rust_workers, take
from .worker import WorkerError

# Rows of the vocabulary, hidden size.
SIZES = {"minilm": (30522, 384), "bge-small": (30522, 384), "embeddinggemma": (262144, 768)}
NAMES = tuple(SIZES)
SHAPES = "1x16,1x128,32x128"
IDS = [[5, 71, 1013, 17, 619, 23, 290, 411], [900, 2, 333, 40, 55, 60, 7, 1001]]
HUB = CACHE / "hub"
ONNXRUNTIME = CACHE / "libonnxruntime.so"


def folder(name: str) -> Path:
    return CACHE / name


def peers(name: str, model: Path, threads: int) -> dict:
    """Every peer of an encoder by its name. Ours reads `model`; the others read the checkpoint made for them."""

    def ours(precision):
        options = ["--model", model, "--device", "cpu", "--threads", threads, "--precision", precision]
        return [CLI, "bench", *options, "--stdin"]

    def onnxruntime(kind):
        return [PYTHON, HERE / "workers" / "onnxruntime_worker.py", onnx(name, kind), threads, *SIZES[name]]

    def openvino(kind):
        return [PYTHON, HERE / "workers" / "openvino_worker.py", xml(name, kind), threads, "default", *SIZES[name]]

    longest = 256 if name == "embeddinggemma" else 512
    found = {
        "mlx-embed-exact": Peer(ours("exact"), "f32", "this crate, `--precision exact`"),
        "mlx-embed-fast": Peer(ours("fast"), "int8", "this crate, `--precision fast`"),
        "onnxruntime": Peer(
            onnxruntime("f32"), "f32", "ONNX Runtime, f32, with its fused operators", longest=longest,
        ),
        "onnxruntime-int8": Peer(
            onnxruntime("int8"), "int8", "the same, quantised dynamically", longest=longest,
        ),
        "openvino": Peer(openvino("f32"), "f32", "OpenVINO, f32", longest=longest),
        "openvino-int8": Peer(
            openvino("int8"), "int8", "OpenVINO, int8 weights, activations to int8 at run time", longest=longest,
        ),
    }
    return found if name == "embeddinggemma" else found | in_rust(name, threads)


def in_rust(name: str, threads: int) -> dict:
    """What Rust programs would use instead; BERTs only."""
    own = {"RAYON_NUM_THREADS": str(threads)}
    fastembed = own | {"HF_HOME": str(HUB), "ORT_DYLIB_PATH": str(ONNXRUNTIME)}
    states = onnx(name, "states")
    return {
        "candle": Peer([rust("candle-bert"), folder(name)], "f32", "candle-transformers' BERT", own, longest=512),
        "fastembed": Peer(
            [rust("fastembed"), "onnx", folder(name), states], "f32",
            "fastembed's `TextEmbedding`, on the same ONNX Runtime, tokenising taken off", fastembed, longest=512,
        ),
        "fastembed-candle": Peer(
            [rust("fastembed"), "candle", folder(name)], "f32",
            "fastembed's `BertTextEmbedding`, on candle: the first token's state, tokenising taken off", fastembed,
            longest=512, pooling="first",
        ),
    }


def default(name: str) -> list:
    return list(peers(name, folder(name), 1))


def onnx(name: str, kind: str) -> Path:
    return CACHE / f"{name}-{kind}.onnx"


def xml(name: str, kind: str) -> Path:
    return CACHE / f"{name}-{kind}.xml"


def prepare(name: str, wanted: list) -> dict:
    """Makes what these peers need; returns, for each that cannot be had, why."""
    python_packages()
    roofline()
    checkpoint = folder(name)
    if not checkpoint.is_dir():
        run(PYTHON, HERE / "workers" / "encoder.py", "write", checkpoint, name)

    def made(script, path, kind):
        return lambda: converted(script, path, kind, checkpoint=checkpoint)

    steps = {
        "onnxruntime": [made("encoder_onnx.py", onnx(name, "f32"), "f32")],
        "onnxruntime-int8": [made("encoder_onnx.py", onnx(name, "int8"), "int8")],
        "openvino": [made("encoder_openvino.py", xml(name, "f32"), "f32")],
        "openvino-int8": [made("encoder_openvino.py", xml(name, "int8"), "int8")],
        "candle": [rust_workers],
        "fastembed": [fastembed_workers, made("encoder_onnx.py", onnx(name, "states"), "states")],
        "fastembed-candle": [fastembed_workers, lambda: in_hub(checkpoint)],
        **dict.fromkeys(OURS, [cli]),
    }
    return take(steps, wanted)


def fastembed_workers() -> None:
    """Built with fastembed, and ONNX Runtime for it."""
    rust_workers("--features", "fastembed")
    onnxruntime_library()


def onnxruntime_library() -> None:
    """A link to the library of the Python package."""
    library = next(VENV.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.*"))
    ONNXRUNTIME.unlink(missing_ok=True)
    ONNXRUNTIME.symlink_to(library)


def in_hub(checkpoint: Path) -> None:
    """The checkpoint as `local/NAME` of a hub's cache, from which alone fastembed reads a BERT for candle."""
    repository, snapshot = HUB / f"models--local--{checkpoint.name}", "0"
    for name in ("refs", "snapshots"):
        (repository / name).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(snapshot)
    link = repository / "snapshots" / snapshot
    link.unlink(missing_ok=True)
    link.symlink_to(checkpoint)


def reference(name: str) -> dict:
    """Vectors of IDS, in f64, by what is pooled."""
    made = subprocess.run(
        [PYTHON, HERE / "workers" / "encoder.py", "vectors", folder(name), json.dumps(IDS)],
        capture_output=True, text=True, check=False,
    )
    if made.returncode != 0:
        raise WorkerError(f"encoder.py failed: {made.stderr.strip()[-300:]}")
    return json.loads(made.stdout)


def cosine(worker, expected: dict) -> float:
    """The lowest cosine to the reference over the texts."""
    found = own_vectors(worker) if worker.name in OURS else worker.ask({"ids": IDS})["vectors"]
    pairs = zip(found, expected[worker.peer.pooling], strict=True)
    return min(sum(a * b for a, b in zip(*pair)) for pair in pairs)


def own_vectors(worker) -> list:
    """What `mlx-embed embed` gives for the words that the tokenizer has for these ids."""
    command = worker.peer.command
    model, precision = (command[command.index(name) + 1] for name in ("--model", "--precision"))
    texts = [" ".join(f"t{id}" for id in ids) for ids in IDS]
    finished = subprocess.run(
        [command[0], "embed", "--model", model, "--device", "cpu", "--precision", precision, *texts],
        capture_output=True, text=True, check=False,
    )
    if finished.returncode != 0:
        raise WorkerError(f"mlx-embed embed failed: {finished.stderr.strip()[-300:]}")
    return [json.loads(line)["embedding"] for line in finished.stdout.strip().splitlines()]
