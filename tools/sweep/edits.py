"""What the sweep does to a good checkpoint, as data.

An edit is a list of changes. A change is one of
  {"file": "config.json", "key": "rope_theta", "value": 1e4}      null is a value
  {"file": "config.json", "key": "rope_theta", "drop": true}
  {"file": "config.json", "key": "text_config.head_dim", "value": 8}
  {"tensor": "model.norm.weight", "do": "drop" | "double" | "f16" | "i32" | "rename" | "shape"}
  {"tensor": "model.norm.bias", "do": "add", "shape": [32]}
"""

from dataclasses import dataclass, field

CONFIG = "config.json"


@dataclass(frozen=True)
class Edit:
    name: str
    changes: tuple = field(default_factory=tuple)
    # causal, or bidirectional where no reference reads the key that says so.
    attention: str = "causal"


def set_keys(file: str = CONFIG, **values) -> tuple:
    return tuple({"file": file, "key": key, "value": value} for key, value in values.items())


def drop_keys(*keys: str, file: str = CONFIG) -> tuple:
    return tuple({"file": file, "key": key, "drop": True} for key in keys)


def doubled(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2
    return value + value if isinstance(value, (str, list)) else {"doubled": value}


def of_another_type(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return 7
    return {} if isinstance(value, list) else []


# Other values that are valid in themselves.
OTHER = {
    "architectures": [["Qwen3Model"], ["Qwen3ForSequenceClassification"], ["LlamaModel"], []],
    "attention_bias": [True, False],
    "eos_token_id": [286, [286, 285], []],
    "head_dim": [8, 32, 128],
    "hidden_act": ["gelu", "relu", "swish", "gelu_pytorch_tanh"],
    "intermediate_size": [32, 96],
    "max_position_embeddings": [16, 64, 4096],
    "mlp_bias": [True, False],
    "model_type": ["qwen2", "qwen3", "llama", "mistral", "gemma"],
    "num_attention_heads": [2, 8],
    "num_hidden_layers": [1, 3],
    "num_key_value_heads": [1, 4],
    "rms_norm_eps": [1e-5, 1e-2],
    "rope_theta": [1e4, 100],
    "torch_dtype": ["float16", "bfloat16"],
    "vocab_size": [288, 301],
    "include_prompt": [False],
    "pooling_mode_cls_token": [True],
    "max_seq_length": [7],
    "embedding_dim": [64],
    "global_head_dim": [16, 64],
    "hidden_activation": ["gelu", "silu", "relu"],
    "hidden_size_per_layer_input": [16],
    "llama_4_scaling_beta": [0.0, 0.5],
    "original_max_position_embeddings": [8, 64],
    "partial_rotary_factor": [1.0, 0.5],
    "per_layer_config": [{"01": {"head_dim": 32, "num_key_value_heads": 1}}, {"1": {"head_dim": 32}}, {}],
    "rope_type": ["default", "linear", "proportional"],
    "sliding_window": [4, 1, 4096],
}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
FACTORS = [1.0, 1.5, 2.0, 3.0]


def longrope(head_dim: int, original: int) -> dict:
    factors = (FACTORS * head_dim)[: head_dim // 2]
    return {"rope_type": "longrope", "original_max_position_embeddings": original,
            "short_factor": [1.0] * (head_dim // 2), "long_factor": factors}


def scalings(head_dim: int) -> dict:
    """By name, for `rope_scaling` and for `rope_parameters`."""
    return {
        "empty": {},
        "default": {"rope_type": "default"},
        "mrope": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "linear": {"type": "linear", "factor": 4.0},
        "dynamic": {"type": "dynamic", "factor": 4.0},
        "llama3": LLAMA3,
        "llama3-no-original": {k: v for k, v in LLAMA3.items() if k[0] != "o"},
        "yarn": YARN,
        "yarn-type": {**YARN, "type": "yarn"},
        "yarn-type-default": {**YARN, "type": "default"},
        "yarn-type-linear": {**YARN, "type": "linear"},
        "yarn-default-type-yarn": {**YARN, "type": "yarn", "rope_type": "default"},
        "yarn-no-factor": {k: v for k, v in YARN.items() if k != "factor"},
        "yarn-factor-null": {**YARN, "factor": None},
        "yarn-no-original": {"rope_type": "yarn", "factor": 4.0},
        "yarn-truncate-false": {**YARN, "original_max_position_embeddings": 64, "truncate": False},
        "yarn-attention-factor": {**YARN, "attention_factor": 1.5},
        "yarn-mscale": {**YARN, "mscale": 2.0},
        "yarn-mscales": {**YARN, "mscale": 2.0, "mscale_all_dim": 0.5},
        "yarn-mscale-all-dim": {**YARN, "mscale_all_dim": 0.5},
        "yarn-betas": {**YARN, "beta_fast": 4, "beta_slow": 0.1},
        "yarn-unknown-key": {**YARN, "finetuned": True},
        "yarn-partial": {**YARN, "partial_rotary_factor": 0.5},
        "longrope": longrope(head_dim, 1024),
        "longrope-long": longrope(head_dim, 16),
        "longrope-factor": {**longrope(head_dim, 1024), "factor": 8.0},
        "longrope-attention-factor": {**longrope(head_dim, 1024), "attention_factor": 1.25},
        "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
        "unheard-of": {"rope_type": "unheard-of", "factor": 2.0},
        "theta": {"rope_type": "default", "rope_theta": 5e5},
        "by-layer-type": {"full_attention": {"rope_type": "default", "rope_theta": 1e4},
                          "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}},
    }


def positions(head_dim: int) -> list[Edit]:
    edits = []
    for name, value in scalings(head_dim).items():
        edits.append(Edit(f"rope_scaling {name}", set_keys(rope_scaling=value)))
        edits.append(Edit(f"rope_parameters {name}", set_keys(rope_parameters=value)))
    return edits + [
        Edit("partial_rotary_factor 0.5", set_keys(partial_rotary_factor=0.5)),
        Edit("partial_rotary_factor 1", set_keys(partial_rotary_factor=1.0)),
        Edit("original at the top", set_keys(
            rope_scaling={"rope_type": "yarn", "factor": 4.0}, original_max_position_embeddings=16)),
        Edit("two originals", set_keys(rope_scaling=YARN, original_max_position_embeddings=64)),
        Edit("two scalings", set_keys(rope_scaling=YARN, rope_parameters=LLAMA3)),
        Edit("theta nested alone", drop_keys("rope_theta") + set_keys(
            rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
        Edit("rope_traditional", set_keys(rope_traditional=True)),
    ]


def attention(layers: int) -> list[Edit]:
    def window(tokens, first, **more):
        return set_keys(use_sliding_window=True, sliding_window=tokens, max_window_layers=first, **more)

    full, sliding = "full_attention", "sliding_attention"
    last = [full] * (layers - 1) + [sliding]
    return [
        Edit("window in no layer", window(4, layers)),
        Edit("window in the last layer", window(4, layers - 1)),
        Edit("window in every layer", window(4, 0)),
        Edit("window as long as texts", window(4096, 0)),
        Edit("window of 0", window(0, 0)),
        Edit("window null", window(None, 0)),
        Edit("window by default", set_keys(use_sliding_window=True)),
        Edit("window not in use", set_keys(use_sliding_window=False, sliding_window=4, max_window_layers=0)),
        Edit("window alone", set_keys(sliding_window=4)),
        Edit("layer_types full", set_keys(layer_types=[full] * layers)),
        Edit("layer_types full, window in use", window(4, 0, layer_types=[full] * layers)),
        Edit("layer_types sliding, window in use", window(4, 99, layer_types=last)),
        Edit("layer_types sliding, window not in use", set_keys(layer_types=last, sliding_window=4)),
        Edit("layer_types unknown", set_keys(layer_types=["chunked_attention"] * layers)),
        Edit("layer_types too few", set_keys(layer_types=[full] * (layers - 1))),
        Edit("is_causal false", set_keys(is_causal=False), "bidirectional"),
        Edit("is_causal true", set_keys(is_causal=True)),
        Edit("use_bidirectional_attention", set_keys(use_bidirectional_attention=True), "bidirectional"),
        Edit("gte's auto_map", set_keys(
            auto_map={"AutoModel": "modeling_qwen.Qwen2Model"}, model_type="qwen2"), "bidirectional"),
    ]


def further_keys() -> list[Edit]:
    known = dict(
        attention_bias=True, mlp_bias=True, num_labels=96, embedding_multiplier=12.0,
        residual_multiplier=0.5, attn_logit_softcapping=50.0, use_qk_norm=True, num_experts=4,
        per_layer_config={"0": {"head_dim": 8}}, text_config={"hidden_size": 8}, model_file="x.py",
        auto_map={"AutoModel": "modeling.NewModel"}, dtype="float16", favourite_colour="green",
        quantization={"group_size": 64, "bits": 4}, quantization_config={"quant_method": "gptq", "bits": 4},
        attention_dropout=0.5, hidden_dropout=0.5, use_cache=False, pretraining_tp=2, head_dim=None,
        num_key_value_heads=None, original_max_position_embeddings=32, is_decoder=False,
        tie_word_embeddings=False,
    )
    return [Edit(f"{key} added or set", set_keys(**{key: value})) for key, value in known.items()]


def of_file(file: str, content: dict, above: str = "") -> list[Edit]:
    """Every key of a JSON file, and of objects in config.json: dropped, null, doubled, of another type, other valid
    values."""
    edits = []
    for name, value in content.items():
        key = above + name
        if file == CONFIG and isinstance(value, dict):
            edits += of_file(file, value, f"{key}.")
        edits.append(Edit(f"{file}: {key} dropped", drop_keys(key, file=file)))
        values = {"null": None, "doubled": doubled(value), "of another type": of_another_type(value)}
        values |= {f"set to {other}": other for other in OTHER.get(name, []) if other != value}
        edits += [Edit(f"{file}: {key} {what}", set_keys(file, **{key: new}))
                  for what, new in values.items()]
    return edits


def of_tensors(names: list[str]) -> list[Edit]:
    ways = ("drop", "double", "f16", "i32", "rename", "shape")
    edits = [Edit(f"{name}: {way}", ({"tensor": name, "do": way},)) for name in names for way in ways]
    more = {
        "linear.weight": [32, 32], "score.weight": [2, 32], "lm_head.weight": [300, 32],
        "model.norm.bias": [32], "model.layers.0.self_attn.sinks": [4],
        "model.layers.0.self_attn.q_proj.lora_A.weight": [4, 32],
        "model.layers.0.self_attn.q_proj.bias": [64], "model.layers.0.self_attn.o_proj.bias": [32],
        "model.layers.0.self_attn.q_norm.weight": [16], "model.layers.0.mlp.up_proj.bias": [64],
        "model.layers.7.input_layernorm.weight": [32], "model.layers.0.input_layernorm.bias": [32],
        "model.rotary_emb.inv_freq": [8], "visual.patch_embed.proj.weight": [8, 8],
    }
    edits += [Edit(f"{name} added", ({"tensor": name, "do": "add", "shape": shape},))
              for name, shape in more.items() if name not in names]
    return edits
