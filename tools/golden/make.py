"""Writes what the reference computes with a checkpoint, for `mlx-embed verify`.

    python make.py MODEL FILE [--reference auto|mlx-lm|transformers] [--dtype f64|f32] [--texts N]

MODEL is a checkpoint directory. Quantised ones are computed by mlx-lm, dense ones by transformers
on torch; either way on the CPU, every text alone. README.md has the Python it needs and says what
is in FILE.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from transformers import PreTrainedTokenizerFast

import golden_file
from texts import TEXTS

POOLINGS = ("last-token", "mean", "cls")
MODULES = {"mlx-lm": "reference", "transformers": "torch_reference"}
PROMPTED = 2  # texts that are computed once more behind each prompt


def read_json(file: Path) -> dict:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


class Texts:
    """Texts to token ids as the checkpoint's files want them."""

    def __init__(self, folder: Path):
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
        self.end = self.appended_end(folder)

    def appended_end(self, folder: Path) -> list[int]:
        """The end token that mlx-embed appends: for last-token pooling, where the tokenizer
        appends none."""
        pooling = read_json(folder / "1_Pooling/config.json")
        last = not pooling or pooling.get("pooling_mode_lasttoken", False)
        of_a_letter = self.tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        if not last or of_a_letter[-1] == 1:
            return []
        end = self.tokenizer.get_vocab().get("<|endoftext|>")
        eos = read_json(folder / "config.json").get("eos_token_id")
        end = eos if end is None else end
        return [] if end is None else [end[0] if isinstance(end, list) else end]

    def entries(self, texts: tuple[str, ...]) -> list[dict]:
        """Every text without a prompt, then a few behind each prompt of the checkpoint."""
        named = [(name, prompt) for name, prompt in sorted(self.prompts.items()) if prompt]
        wanted = [(None, "", text) for text in texts]
        wanted += [(name, prompt, text) for name, prompt in named for text in texts[:PROMPTED]]
        return [
            {"text": text, "prompt_name": name, "prompt": prompt,
             "ids": self.tokenizer(prompt + text)["input_ids"] + self.end}
            for name, prompt, text in wanted
        ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the checkpoint directory")
    parser.add_argument("file", type=Path, help="the file to write, such as golden.safetensors")
    parser.add_argument("--reference", choices=["auto", *MODULES], default="auto",
                        help="what computes (default: %(default)s)")
    parser.add_argument("--dtype", choices=["f64", "f32"], default="f64",
                        help="what it computes in; f32 needs half the memory (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=len(TEXTS), metavar="N",
                        help="take the first N texts only (default: all %(default)s)")
    options = parser.parse_args()
    if options.texts < 1:
        parser.error("--texts: give at least 1")
    config = read_json(options.model / "config.json")
    if not config:
        parser.error(f"{options.model / 'config.json'} is missing: give a checkpoint directory")
    quantised = bool(config.get("quantization") or config.get("quantization_config"))
    wanted = options.reference
    if wanted == "auto":
        wanted = "mlx-lm" if quantised else "transformers"
    if quantised and wanted == "transformers":
        parser.error("transformers does not read MLX's quantised weights; take mlx-lm")
    computes = import_module(MODULES[wanted])
    model, golden = computes.load(options.model), golden_file.Golden(POOLINGS)
    if options.dtype == "f64":
        model = computes.in_double(model)
    entries = Texts(options.model).entries(TEXTS[: options.texts])
    for i, entry in enumerate(entries):
        last = len(entry["ids"]) - 1
        states = computes.hidden_states(model, entry["ids"])
        golden.add(entry, states, rows=sorted({0, last}), sketched=True)
        print(f"{wanted}: text {i + 1} of {len(entries)}, {last + 1} tokens", file=sys.stderr)
    source = {
        "about": f"{len(entries)} texts of tools/golden/texts.py",
        "command": f"make.py MODEL FILE --reference {wanted} --dtype {options.dtype} --texts {options.texts}",
        "reference": computes.ABOUT.format(options.dtype),
    }
    golden.write(options.file, options.model, source, computes.PACKAGES)
    print(f"{options.file}: {options.file.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
