"""Writes a case's folder: config, weights as its family stores them, tokenizer, modules."""

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import transformers

from family import tokenization
from family.case import Case, Tensors
from family.draw import draw, fill

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def config_of(case: Case):
    """transformers' config object."""
    config = dict(case.transformers_config())
    return transformers.AutoConfig.for_model(config.pop("model_type"), **config)


def empty_model(case: Case) -> torch.nn.Module:
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    return getattr(transformers, case.auto).from_config(config_of(case), **options).eval()


def centred_norms(case: Case) -> bool:
    return case.transformers_config()["model_type"].startswith("gemma3")


def is_quantised(case: Case, name: str, array: np.ndarray) -> bool:
    """MLX's rule: linear layers and embeddings whose rows are whole groups."""
    return bool(
        case.quantization and array.ndim == 2 and name.endswith(".weight")
        and array.shape[1] % case.quantization["group_size"] == 0
        and not any(part in name for part in case.keeps)
    )


def store(case: Case, tensors: Tensors) -> tuple[dict[str, mx.array], Tensors]:
    """What the file holds, and the values that it means, in f32."""
    stored, meant = {}, {}
    for name, array in tensors.items():
        rounded = mx.array(array).astype(DTYPES[case.dtype])
        if is_quantised(case, name, array):
            options = {key: case.quantization[key] for key in ("group_size", "bits")}
            stem = name.removesuffix(".weight")
            weight, scales, biases = mx.quantize(rounded, **options)
            stored |= {name: weight, f"{stem}.scales": scales, f"{stem}.biases": biases}
            in_f32 = [part.astype(mx.float32) for part in (scales, biases)]
            meant[name] = np.array(mx.dequantize(weight, *in_f32, **options))
        else:
            stored[name], meant[name] = rounded, np.array(rounded.astype(mx.float32))
    return stored, meant


def write(case: Case, folder: Path) -> tuple[torch.nn.Module, Tensors]:
    """Writes everything but golden.safetensors; returns transformers' model with those weights, and
    what stands beside them."""
    folder.mkdir(parents=True)
    model = empty_model(case)
    drawn = fill(model, centred_norms(case))
    stored, meant = store(case, case.drawn(drawn) if case.drawn else drawn)
    load_values(model, meant)
    stored = case.stored(stored) if case.stored else stored
    beside, more = store(case, {name: draw(name, shape) for name, shape in case.more.items()})
    write_weights(case, folder, stored | beside)
    config = case.config | {"torch_dtype": case.dtype}
    if case.quantization:
        config |= {"quantization": case.quantization, "quantization_config": case.quantization}
    write_json(folder / "config.json", config)
    source = tokenization.folder(folder.parent, case.tokenizer)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).symlink_to(os.path.relpath(source / file, folder))
    write_modules(case, folder)
    for file, value in case.files.items():
        write_json(folder / file, value)
    if case.extra:
        case.extra(case, folder)
    return model, more


def write_weights(case: Case, folder: Path, tensors: dict[str, mx.array]) -> None:
    if case.pickled:
        values = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
        # Such files have the numbers of positions, too.
        values["bert.embeddings.position_ids"] = torch.arange(case.config["max_position_embeddings"])[None]
        torch.save(values, folder / "pytorch_model.bin")
        return
    file = folder / "model.safetensors"
    mx.save_safetensors(str(file), tensors, {"format": "mlx" if case.quantization else "pt"})
    if case.weights_of:
        other = folder.parent / case.weights_of / file.name
        if other.read_bytes() != file.read_bytes():
            raise ValueError(f"{case.name} has other weights than {case.weights_of}")
        file.unlink()
        file.symlink_to(f"../{case.weights_of}/{file.name}")


def load_values(model: torch.nn.Module, values: Tensors) -> None:
    state = {name: torch.from_numpy(np.array(value)) for name, value in values.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    own = model.state_dict()
    tied = {own[name].data_ptr() for name in values}
    if unexpected or any(own[name].data_ptr() not in tied for name in missing):
        raise ValueError(f"missing {missing}, unexpected {unexpected}")


def write_json(file: Path, value: dict | list) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_modules(case: Case, folder: Path) -> None:
    if not case.modules:
        return
    listed = []
    for i, module in enumerate(case.modules):
        kind = f"{module.namespace}.{module.kind}"
        entry = {"idx": i, "name": str(i), "path": module.path, "type": kind}
        listed.append(entry | ({"kwargs": list(module.kwargs)} if module.kwargs else {}))
        if module.config is not None:
            write_json(folder / module.path / "config.json", module.config)
        weights = module_weights(case, module)
        if weights:
            stored, _ = store(case, weights)
            file = folder / module.path / "model.safetensors"
            mx.save_safetensors(str(file), stored, {"format": "pt"})
    write_json(folder / "modules.json", listed)
    if case.max_seq_length:
        settings = {"max_seq_length": case.max_seq_length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", settings)
    if "config_sentence_transformers.json" not in case.files:
        settings = {"prompts": case.prompts, "default_prompt_name": None,
                    "similarity_fn_name": "cosine"}
        write_json(folder / "config_sentence_transformers.json", settings)


def module_weights(case: Case, module) -> Tensors:
    config = module.config
    if config is None:
        return {}
    if module.kind == "LayerNorm":
        shapes = {f"norm.{name}": (config["dimension"],) for name in ("weight", "bias")}
    elif module.kind == "Dense":
        outputs, inputs = config["out_features"], config["in_features"]
        shapes = {"linear.weight": (outputs, inputs)}
        if config["bias"]:
            shapes["linear.bias"] = (outputs,)
        if config.get("use_residual") and inputs != outputs:
            shapes["residual.weight"] = (outputs, inputs)
    else:
        return {}
    return {name: draw(f"{module.path}.{name}", shape) for name, shape in shapes.items()}
