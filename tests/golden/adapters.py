"""Makes the adapters of adapters/, and the vectors of sentence-transformers with peft. See README.md.

adapters.py            makes all of them
adapters.py --check    makes them again in a temporary folder and compares
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tools/golden"))

from compare import differences  # noqa: E402

TEXTS = ["the cat", "the cat sat on the mat and looked at the dog"]
RESULT = "vectors.json"
# What an adapter's folder keeps where the model's own files say how texts are read.
BARE = ["adapter_config.json", "adapter_model.safetensors"]


@dataclass
class Case:
    name: str
    base: str
    lora: dict
    bare: bool = False
    trained: tuple = field(default=())


CASES = [
    Case("bert", "families/bert-f32", dict(r=4, lora_alpha=8, target_modules=["query", "value", "dense"])),
    Case("bert-patterns-stabilised", "families/bert-f32",
         dict(r=4, lora_alpha=8, target_modules=["key", "dense"], rank_pattern={"key": 2}, use_rslora=True)),
    Case("bert-embeddings-norms", "families/bert-f32",
         dict(r=3, lora_alpha=2, target_modules=["word_embeddings", "query"], modules_to_save=["LayerNorm"])),
    Case("qwen3-bf16", "qwen3-bf16", dict(r=4, lora_alpha=4, target_modules=["q_proj", "down_proj"])),
    Case("modernbert-bare", "families/modernbert-f32", dict(r=2, lora_alpha=4, target_modules=["Wqkv", "Wi", "Wo"]),
         bare=True),
]


def make(case: Case, folder: Path) -> None:
    torch.manual_seed(7)
    base = HERE / case.base
    model = SentenceTransformer(str(base), device="cpu")
    model.add_adapter(LoraConfig(init_lora_weights=False, **case.lora))
    # Large enough to be seen, and small enough that it is still the same model.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight, dtype=torch.float32) * 0.2)
            elif "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), create_model_card=False)
    config = json.loads((folder / BARE[0]).read_text())
    config["base_model_name_or_path"] = f"../{case.base}"
    config["target_modules"] = sorted(config["target_modules"])
    (folder / BARE[0]).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    if case.bare:
        for path in folder.iterdir():
            if path.name not in BARE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    # As merge_and_unload has it, in the weights' own type, but rounded once.
    with torch.no_grad():
        for module in model.modules():
            for name in module.active_adapters if isinstance(module, LoraLayer) else []:
                if name in module.lora_A:
                    first, second = module.lora_A[name].weight, module.lora_B[name].weight
                else:
                    first, second = module.lora_embedding_B[name].T, module.lora_embedding_A[name].T
                weight = module.get_base_layer().weight
                weight.copy_(weight.float() + second.float() @ first.float() * module.scaling[name])
                second.zero_()
    vectors = model.float().encode(TEXTS)
    result = {"base": case.base, "texts": TEXTS, "vectors": [[round(float(x), 7) for x in vector] for vector in vectors]}
    (folder / RESULT).write_text(json.dumps(result) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        to = Path(temporary) if options.check else HERE / "adapters"
        for case in CASES:
            make(case, to / case.name)
        found = [f"{case.name}/{line}" for case in CASES if options.check
                 for line in differences(HERE / "adapters" / case.name, to / case.name)]
    print("\n".join(found) or f"{len(CASES)} adapters are as committed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
