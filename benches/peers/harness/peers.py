"""The peers: how each one is started."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
CACHE = ROOT / "target" / "peers"
MODEL = CACHE / "model"
PYTHON = CACHE / "venv" / "bin" / "python"
RELEASE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
CLI = RELEASE / "mlx-embed"
ROOFLINE = RELEASE / "examples" / "roofline"
RUST = CACHE / "rust"
OPENVINO = CACHE / "qwen3.xml"
SIZES = (151669, 1024)  # rows of the vocabulary, hidden size
SHAPES = "1x8,1x16,10x16,1x128,1x512,32x128,1x4096"
OURS = ("mlx-embed-exact", "mlx-embed-fast")


class Peer:
    """`activations` is what a matrix product gets: it decides which peak is the peer's.

    `longest` is the longest text, in tokens, that the peer is asked for; `pooling` what it makes of an encoder's states.
    """

    def __init__(self, command, activations: str, about: str, environment=None, longest=None, pooling="mean"):
        self.command, self.activations, self.about = command, activations, about
        self.environment, self.longest, self.pooling = environment or {}, longest, pooling


def rust(program: str) -> Path:
    return RUST / "release" / program


def gguf(kind: str) -> Path:
    return CACHE / f"qwen3-{kind}.gguf"


def onnx(accuracy: int) -> Path:
    return CACHE / f"qwen3-accuracy-{accuracy}.onnx"


def peers(model: Path, threads: int) -> dict:
    """Every peer by name. Ours reads `model`; the others read the checkpoint made for them."""

    def python(script, *arguments):
        return [PYTHON, HERE / "workers" / script, *arguments]

    def ours(precision):
        options = ["--model", model, "--device", "cpu", "--threads", threads, "--precision", precision]
        return [CLI, "bench", *options, "--stdin"]

    return {
        "mlx-embed-exact": Peer(ours("exact"), "int16", "this crate, `--precision exact`"),
        "mlx-embed-fast": Peer(ours("fast"), "int8", "this crate, `--precision fast`"),
        "openvino": Peer(
            python("openvino_worker.py", OPENVINO, threads, "default", *SIZES),
            "int8",
            "OpenVINO as it comes: activations to int8 at run time",
        ),
        "openvino-f32": Peer(
            python("openvino_worker.py", OPENVINO, threads, "0", *SIZES),
            "f32",
            "OpenVINO with activations kept in f32",
        ),
        "llama.cpp": Peer(
            python("llama_cpp_worker.py", gguf("full"), threads),
            "int8",
            "llama.cpp, Q4_0, as it comes: computes the output head for every token too",
        ),
        "llama.cpp-headless": Peer(
            python("llama_cpp_worker.py", gguf("headless"), threads),
            "int8",
            "llama.cpp, Q4_0, vocabulary cut to 1024 so that the head costs nothing",
        ),
        "candle": Peer(
            [rust("candle-qwen3"), gguf("candle")],
            "int8",
            "candle-transformers quantized_qwen3, Q4_K; one text after another, of at most 512 tokens",
            {"RAYON_NUM_THREADS": str(threads)},
            longest=512,
        ),
        "onnxruntime": Peer(
            python("onnxruntime_worker.py", onnx(4), threads, *SIZES),
            "int8",
            "ONNX Runtime, MatMulNBits with accuracy_level 4: activations to int8",
        ),
        "onnxruntime-f32": Peer(
            python("onnxruntime_worker.py", onnx(1), threads, *SIZES),
            "f32",
            "ONNX Runtime, MatMulNBits with accuracy_level 1: activations in f32",
        ),
        "mlx-lm": Peer(
            python("mlx_lm_worker.py", MODEL, threads),
            "f32",
            "Python mlx-lm in f32 on MLX's own kernels; only texts of 8 tokens",
            longest=8,
        ),
    }


DEFAULT = [
    "mlx-embed-exact", "mlx-embed-fast", "openvino", "openvino-f32", "llama.cpp",
    "llama.cpp-headless", "candle", "onnxruntime", "mlx-lm",
]
