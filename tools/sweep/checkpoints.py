"""Good checkpoints, and edits made to copies of them."""

import json
import shutil
from pathlib import Path

import mlx.core as mx

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
WEIGHTS = "model.safetensors"

# Of other families the configuration alone is edited.
FAMILIES = ("families/ministral3-is-causal-false-window", "families/embedding-gemma2-f32")
# One of each family, with biases, quantised, and with the files of sentence-transformers.
BASES = ("qwen3-f32", "qwen2-f32", "llama-f32", "llama-biases-f32", "qwen3-affine-4bit-g64", "st-mean", *FAMILIES)


def copy(base: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for file in sorted((GOLDEN / base).rglob("*")):
        here = folder / file.relative_to(GOLDEN / base)
        if file.is_dir():
            here.mkdir(parents=True, exist_ok=True)
        elif file.name != "golden.safetensors":
            here.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, here)


def edit(folder: Path, changes) -> None:
    tensors = None
    for change in changes:
        if "file" in change:
            edit_json(folder / change["file"], change)
        else:
            tensors = mx.load(str(folder / WEIGHTS)) if tensors is None else tensors
            edit_tensor(tensors, change)
    if tensors is not None:
        mx.eval(tensors)
        # MLX reads as it goes, so not over what it reads.
        (folder / WEIGHTS).unlink()
        mx.save_safetensors(str(folder / WEIGHTS), tensors, {"format": "mlx"})


def edit_json(path: Path, change: dict) -> None:
    content = json.loads(path.read_text())
    *above, key = change["key"].split(".")
    if not all(isinstance(content.get(name), dict) for name in above[:1]):
        above, key = [], change["key"]
    place = content
    for name in above:
        place = place[name]
    if change.get("drop"):
        place.pop(key, None)
    else:
        place[key] = change["value"]
    path.write_text(json.dumps(content))


def edit_tensor(tensors: dict, change: dict) -> None:
    name = change["tensor"]
    if change["do"] == "add":
        tensors[name] = mx.full(change["shape"], 0.5)
        return
    value = tensors.pop(name)
    match change["do"]:
        case "double":
            tensors[name] = value * 2
        case "f16":
            tensors[name] = value.astype(mx.float16)
        case "i32":
            tensors[name] = value.astype(mx.int32)
        case "rename":
            tensors[f"{name}_"] = value
        case "shape":
            tensors[name] = mx.concatenate([value, value], axis=0)
