"""Writes a small random checkpoint through mlx-lm's own classes, quantiser and savers."""

import copy
import json
import os
import zlib
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import qwen3
from mlx_lm.utils import quantize_model, save_config, save_model

import reference
from cases import Case

SEED = 20261124
REPOSITORY = Path(__file__).resolve().parents[2]


def model_classes(case: Case):
    """mlx-lm's Model and ModelArgs for this case, patched only where mlx-lm cannot read it."""
    module = import_module(f"mlx_lm.models.{case.family}")

    class Model(module.Model):
        def __init__(self, args):
            super().__init__(args)
            if case.qk_norm:
                for layer in self.model.layers:
                    layer.self_attn = biased_qwen3_attention(case)

        def sanitize(self, weights):
            if case.layout == "no-prefix":
                weights = {f"model.{name}": value for name, value in weights.items()}
            return super().sanitize(weights)

    return Model, module.ModelArgs


def load(case: Case, folder: Path) -> nn.Module:
    """What the reference loads of the case's folder."""
    model = reference.load(
        folder,
        model_config=case.reference_config,
        get_model_classes=lambda config: model_classes(case),
    )
    scaling = case.config().get("rope_scaling") or {}
    if scaling.get("truncate") is False:
        for layer in model.model.layers:
            layer.self_attn.rope._freqs = exact_yarn_periods(case.config())
    return model


def exact_yarn_periods(config: dict) -> mx.array:
    """YaRN's reciprocal frequencies with bounds that are not rounded, which mlx-lm hasn't."""
    scaling, dims, base = config["rope_scaling"], config["head_dim"], config["rope_theta"]

    def bound(rotations: float) -> float:
        length = scaling["original_max_position_embeddings"] / (2 * np.pi * rotations)
        return dims * np.log(length) / (2 * np.log(base))

    low, high = max(bound(32), 0), min(bound(1), dims - 1)
    stretched = np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)
    frequencies = base ** (-np.arange(0, dims, 2) / dims)
    frequencies *= 1 - stretched + stretched / scaling["factor"]
    return mx.array((1 / frequencies).astype(np.float32))


def biased_qwen3_attention(case: Case) -> nn.Module:
    """Qwen2 with q_norm and k_norm: mlx-lm's Qwen3 attention with Qwen2's biases put in."""
    args = qwen3.ModelArgs.from_dict(case.config())
    attention = qwen3.Attention(args)
    for name in ("q_proj", "k_proj", "v_proj"):
        rows, columns = attention[name].weight.shape
        attention[name] = nn.Linear(columns, rows, bias=True)
    return attention


def draw(name: str, shape: tuple[int, ...]) -> mx.array:
    """Values that keep every layer's output near 1; a tensor depends on its name only.

    Queries and keys are half as large again, so that attention (and with it RoPE) chooses.
    """
    values = np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith("norm.weight"):
        values = 1 + 0.1 * values
    elif name.endswith(".bias"):
        values = 0.1 * values
    elif name.endswith("embed_tokens.weight"):
        values = 0.5 * values
    else:
        values = values / np.sqrt(shape[-1])
    if any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
        values = 1.5 * values
    return mx.array(values.astype(np.float32))


def random_model(case: Case) -> nn.Module:
    model_class, args_class = model_classes(case)
    model = model_class(args_class.from_dict(case.config()))
    weights = [(name, draw(name, value.shape)) for name, value in tree_flatten(model.parameters())]
    model.update(tree_unflatten(weights))
    model.set_dtype(getattr(mx, case.dtype))
    return model


def quantise(case: Case, model: nn.Module, config: dict) -> dict:
    """Quantises in place as mlx_lm.convert does; returns the config with its record of it."""

    def predicate(path: str, _module) -> bool | dict:
        return copy.deepcopy(case.overrides.get(path, path not in case.dense))

    with open(os.devnull, "w") as quiet, redirect_stdout(quiet):
        _, config = quantize_model(model, config, quant_predicate=predicate, **case.quantization)
    record = config["quantization"]
    for path, entry in case.overrides.items():
        record[path] = copy.deepcopy(entry)
    if not case.writes_mode:
        del record["mode"]
    return config


def write_weights(case: Case, model: nn.Module, folder: Path) -> None:
    if case.weights_of:
        (folder / "model.safetensors").symlink_to(f"../{case.weights_of}/model.safetensors")
        return
    if case.layout in ("single", "single-with-index"):
        save_model(folder, model)
        if case.layout == "single":
            (folder / "model.safetensors.index.json").unlink()
        return
    weights = dict(tree_flatten(model.parameters()))
    if case.layout == "no-prefix":
        weights = {name.removeprefix("model."): value for name, value in weights.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    elif case.layout == "sharded":
        write_shards(weights, folder, 3)


def write_shards(weights: dict, folder: Path, shards: int) -> None:
    """mlx-lm shards by gigabytes only, so the same files and index are written here."""
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        mx.save_safetensors(str(folder / file), part, {"format": "mlx"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_sentence_transformers(case: Case, folder: Path) -> None:
    kinds = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
        "pooling_mode_weightedmean_tokens": "weighted_mean",
        "pooling_mode_lasttoken": "last-token",
    }
    pooling = {"word_embedding_dimension": case.config()["hidden_size"]}
    pooling |= {key: kind == case.pooling for key, kind in kinds.items()}
    pooling["include_prompt"] = True
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    settings = {
        "prompts": case.prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    (folder / "1_Pooling").mkdir()
    for file, value in [
        ("1_Pooling/config.json", pooling),
        ("modules.json", modules),
        ("config_sentence_transformers.json", settings),
    ]:
        (folder / file).write_text(json.dumps(value, indent=2) + "\n")


def link(checkpoint: Path, folder: Path) -> None:
    """Links to every file of a checkpoint that has its weights already."""
    for file in sorted(checkpoint.rglob("*.json")) + sorted(checkpoint.glob("*.safetensors")):
        here = folder / file.relative_to(checkpoint)
        here.parent.mkdir(exist_ok=True)
        here.symlink_to(os.path.relpath(file, here.parent))


def write(case: Case, folder: Path) -> None:
    """Writes the whole checkpoint folder; the tokenizer and shared weights are relative links."""
    folder.mkdir(parents=True)
    if case.checkpoint:
        link(REPOSITORY / case.checkpoint, folder)
        return
    model, config = random_model(case), case.config()
    if case.quantization:
        config = quantise(case, model, config)
    write_weights(case, model, folder)
    save_config(config, folder / "config.json")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).symlink_to(f"../{case.tokenizer}/{file}")
    if case.sentence_transformers:
        write_sentence_transformers(case, folder)
