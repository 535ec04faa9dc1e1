"""Writes a quantised checkpoint's weights in f32: dequantize.py FROM TO

What transformers computes with them is a reference for the quantised checkpoint, of families that mlx-lm's layers in a
loop don't cover."""

import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx


def write(source: Path, to: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    quantization = config.pop("quantization")
    config.pop("quantization_config", None)
    config["torch_dtype"] = "float32"
    tensors = {}
    for path in sorted(source.glob("model*.safetensors")):
        tensors |= mx.load(str(path))
    dense = {}
    for name, array in tensors.items():
        base = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" in tensors:
            array = mx.dequantize(array, tensors[f"{base}.scales"].astype(mx.float32),
                                  tensors[f"{base}.biases"].astype(mx.float32), quantization["group_size"],
                                  quantization["bits"])
        dense[name] = array.astype(mx.float32)
    to.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(to / "model.safetensors"), dense, {"format": "mlx"})
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, to / name)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
