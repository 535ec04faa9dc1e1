"""The golden file of a case: the form of tools/golden, with what it lacks. See ../README.md."""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import golden_file
import reference as mlx_reference
import torch_reference
from compare import GOLDEN
from family import checkpoint, heads, reference, texts
from family.case import Case
from family.tokenization import Encoder, folder as tokenizer_folder

PLAIN, EXTENDED = 1, 2
KNOWN_POOLINGS = ("last-token", "mean", "cls")
# sentence-transformers' names, in the order in which it joins several.
OF_FLAG = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean",
           "mean_sqrt_len_tokens": "mean-sqrt-len", "weightedmean_tokens": "weighted-mean",
           "lasttoken": "last-token"}


def pooling_name(case: Case) -> str:
    """The ways in the order in which sentence-transformers joins them."""
    for module in case.modules:
        if module.kind == "Pooling" and "pooling_mode" not in module.config:
            flags = [flag for flag in OF_FLAG if module.config[f"pooling_mode_{flag}"]]
            return "+".join(OF_FLAG[flag] for flag in flags)
    return case.pooling


def normalized(case: Case) -> bool:
    """Whether the last module makes unit vectors; without modules and code of their own they are."""
    if case.modules and case.finish is None:
        return case.modules[-1].kind == "Normalize"
    return case.finish is None or case.unit


def entries(case: Case, encoder: Encoder) -> list[dict]:
    if case.kind in ("labels", "module-labels", "yes-no"):
        return heads.pair_entries(case, encoder)
    if case.kind == "late":
        return heads.late_entries(case, encoder, texts.texts(encoder, case.lengths, case.texts))
    found = []
    for name, prompt in [(None, ""), *case.prompts.items()]:
        for text in texts.texts(encoder, case.lengths, case.texts)[: None if name is None else 3]:
            found.append({"text": text, "prompt_name": name, "prompt": prompt,
                          "ids": encoder(prompt + text)})
    return found


def make(case: Case, folder: Path, command: str) -> None:
    written, beside = checkpoint.write(case, folder)
    model = reference.load(case, folder, written)
    encoder = Encoder(tokenizer_folder(folder.parent, case.tokenizer), case.appended)
    pipeline = None
    if case.modules and case.kind == "vector" and case.finish is None:
        pipeline = reference.Pipeline(case, folder)
    head = heads.of(case, folder)
    kept, tensors, width = [], {}, 0
    for i, entry in enumerate(entries(case, encoder)):
        inputs = {name: entry.get(name) for name in ("token_type_ids", "attention_mask")}
        states, output = torch_reference.run(model, entry["ids"], **heads.tensors(inputs))
        entry["rows"] = texts.rows(i, len(entry["ids"]))
        if entry["rows"]:
            tensors[f"hidden.{i}"] = states[:, entry["rows"]]
        if head is not None:
            tensors |= {f"{name}.{i}": value for name, value in head(entry, states[-1], output).items()}
        elif case.finish is not None:
            tensors[f"embedding.{i}"] = case.finish(states[-1], beside)[None]
        elif pipeline is not None:
            seen = output.last_hidden_state[0].numpy() if case.projected else states[-1]
            seen = case.behind(seen, beside) if case.behind else seen
            tensors[f"embedding.{i}"] = pipeline(seen, entry)[None]
        else:
            tensors[f"embedding.{i}"] = mlx_reference.pool(case.pooling, states[-1])[None]
        kept.append(entry)
    shape = states.shape
    width = tensors["embedding.0"].shape[1] if "embedding.0" in tensors else shape[2]
    facts = {
        "version": EXTENDED, "about": case.about, "command": command,
        "reference": about_reference(case),
        "versions": {name: importlib.metadata.version(name) for name in reference.PACKAGES},
        "model": {"layers": shape[0] - 2, "hidden_size": shape[2],
                  "vocab_size": vocab_size(model), "embedding_size": width},
        "weights_sha256": golden_file.weights_sha256(folder),
        "poolings": [pooling_name(case)], "outputs": ["vector"], "normalized": normalized(case),
        "texts": kept,
    }
    if head is not None:
        facts |= head.facts
    if is_plain(facts):
        facts["version"] = PLAIN
    array = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    if not all(np.isfinite(value).all() for value in array.values()):
        raise ValueError(f"{case.name}: not finite")
    save_file(array, folder / GOLDEN, metadata={"golden": json.dumps(facts, ensure_ascii=False)})


def vocab_size(model) -> int:
    return model.get_input_embeddings().weight.shape[0]


def is_plain(facts: dict) -> bool:
    """Whether a reader of version 1 reads it rightly."""
    model = facts["model"]
    return (facts["outputs"] == ["vector"] and facts["normalized"]
            and model["embedding_size"] == model["hidden_size"]
            and facts["poolings"][0] in KNOWN_POOLINGS)


def about_reference(case: Case) -> str:
    source = "transformers on torch in f32 on the CPU, each text alone"
    if case.quantization:
        return f"{source}, with the dequantised weights"
    return source if case.loads else f"{source}, its config given where it reads another"
