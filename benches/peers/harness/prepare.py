"""Makes what the peers need, once: everything lands in target/peers."""

import os
import shutil
import subprocess
import sys
import venv

from .peers import CACHE, HERE, MODEL, OPENVINO, OURS, PYTHON, ROOT, RUST, gguf, onnx

VENV = PYTHON.parent.parent
BASE_MODEL = ROOT / "target" / "demo" / "qwen3-0.6b-4bit-random"


class PrepareError(Exception):
    """A command that failed; its output is on standard error."""


def run(*command, environment=None, cwd=ROOT) -> None:
    command = [str(part) for part in command]
    print("+ " + " ".join(command), file=sys.stderr)
    finished = subprocess.run(command, cwd=cwd, stdout=sys.stderr, env={**os.environ, **(environment or {})})
    if finished.returncode != 0:
        raise PrepareError(f"`{' '.join(command)}` failed with {finished.returncode}")


def pins(group: str) -> str:
    return subprocess.run([ROOT / "tools" / "pins" / "python", group], check=True, capture_output=True, text=True).stdout


def is_installed(group: str) -> bool:
    installed = VENV / f"{group}.txt"
    return installed.is_file() and installed.read_text() == pins(group)


def install(group: str, *options, environment=None) -> None:
    if not is_installed(group):
        installed, wanted = VENV / f"{group}.txt", VENV / f"{group}.new.txt"
        wanted.write_text(pins(group))
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
        run(*pip, *options, "-r", wanted, environment=environment)
        wanted.rename(installed)


def python_packages() -> None:
    """A virtual environment with the pinned packages."""
    if not is_installed("peers"):
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True)
    install("peers")


def llama_cpp() -> None:
    """llama-cpp-python, compiled for this CPU."""
    path = f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    native = {"PATH": path, "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF"}
    install("llama", "--no-build-isolation", environment=native)


def checkpoint() -> None:
    if not BASE_MODEL.is_dir():
        BASE_MODEL.parent.mkdir(parents=True, exist_ok=True)
        run(sys.executable, ROOT / "tools" / "full_size" / "make_checkpoint.py", BASE_MODEL)
    if not MODEL.is_dir():
        run(PYTHON, HERE / "workers" / "weights.py", BASE_MODEL, MODEL)


def converted(script: str, path, *arguments, checkpoint=MODEL) -> None:
    """The checkpoint in a peer's own format, made once."""
    if not path.is_file():
        run(PYTHON, HERE / "workers" / script, checkpoint, path, *arguments)


def gguf_file(kind: str) -> None:
    converted("make_gguf.py", gguf(kind), kind)


def rust_workers(*options) -> None:
    """The peers in Rust, compiled for this CPU."""
    run(
        "cargo", "build", "--release", "--locked", "--target-dir", RUST, *options,
        environment={"RUSTFLAGS": "-C target-cpu=native"}, cwd=HERE / "rust",
    )


def cli() -> None:
    run("cargo", "build", "--release", "--locked", "-p", "mlx-embed-cli")


def roofline() -> None:
    run("cargo", "build", "--release", "--locked", "-p", "mlx-embed", "--features", "bench,default-model",
        "--example", "roofline")


def prepare(names: list) -> dict:
    """Makes what these peers need; returns, for each that cannot be had, why."""
    python_packages()
    checkpoint()
    roofline()
    steps = {
        "openvino": [lambda: converted("make_openvino.py", OPENVINO)],
        "openvino-f32": [lambda: converted("make_openvino.py", OPENVINO)],
        "onnxruntime": [lambda: converted("make_onnx.py", onnx(4), 4)],
        "onnxruntime-f32": [lambda: converted("make_onnx.py", onnx(1), 1)],
        "llama.cpp": [llama_cpp, lambda: gguf_file("full")],
        "llama.cpp-headless": [llama_cpp, lambda: gguf_file("headless")],
        "candle": [lambda: gguf_file("candle"), rust_workers],
        **dict.fromkeys(OURS, [cli]),
    }
    return take(steps, names)


def take(steps: dict, names: list) -> dict:
    """Takes the steps of these peers; returns, for each whose steps fail, why."""
    missing = {}
    for name in names:
        try:
            for step in steps.get(name, []):
                step()
        except (PrepareError, OSError) as error:
            missing[name] = str(error)
    return missing
