"""What transformers and sentence-transformers compute on torch, in f32 on the CPU, each text alone."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import import_from_string

from family.case import Case

transformers.utils.logging.disable_progress_bar()
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "mlx", "numpy",
            "safetensors")
CLOSE = 2e-6


def load(case: Case, folder: Path, written: torch.nn.Module) -> torch.nn.Module:
    """What transformers reads of the folder, held against what was written; else the latter."""
    if not case.loads or case.quantization:
        return written
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model, info = getattr(transformers, case.auto).from_pretrained(
        folder, output_loading_info=True, **options
    )
    wrong = {key: value for key, value in info.items() if value}
    read, meant = model.state_dict(), written.state_dict()
    if wrong or read.keys() != meant.keys() or any(not read[n].equal(meant[n]) for n in read):
        raise ValueError(f"{case.name}: transformers reads other weights than were meant: {wrong}")
    return model.eval()


class Pipeline:
    """A folder's modules behind the transformer, as sentence-transformers has them."""

    def __init__(self, case: Case, folder: Path):
        listed = json.loads((folder / "modules.json").read_text("utf-8"))
        self.modules = [
            import_from_string(module["type"]).load(str(folder), subfolder=module["path"]).eval()
            for module in listed[1:]
        ]
        self.whole = None
        if case.loads and case.encodes and not case.quantization:
            options = {"dtype": torch.float32, "attn_implementation": "eager"}
            self.whole = SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs=options
            )

    def __call__(self, final: np.ndarray, entry: dict) -> np.ndarray:
        """[tokens, hidden] to a vector; the whole pipeline, where it can run, gives the same."""
        tokens = len(entry["ids"])
        features = {
            "token_embeddings": torch.from_numpy(np.ascontiguousarray(final))[None],
            "attention_mask": torch.ones((1, tokens), dtype=torch.int64),
            "input_ids": torch.tensor([entry["ids"]]),
        }
        if self.whole is not None:
            prompt = entry["prompt"] or None
            whole = self.whole.encode([entry["text"]], prompt=prompt, convert_to_numpy=True)[0]
            if entry["prompt"]:
                features["prompt_length"] = self.whole[0]._get_prompt_length(entry["prompt"])
        with torch.no_grad():
            for module in self.modules:
                module.float()
                features = module(features)
        vector = features["sentence_embedding"][0].numpy()
        if self.whole is not None and np.abs(whole - vector).max() > CLOSE * np.abs(vector).max():
            off = np.abs(whole - vector).max()
            raise ValueError(f"{entry['text']!r}: sentence-transformers' encode is off by {off:.1e}")
        return vector
