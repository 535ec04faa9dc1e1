"""The table of golden checkpoints: what each one is, as data."""

from dataclasses import dataclass, field
from math import log

LONG = "Roses in the old garden open before the sun is over the wall, and by noon they fade."
TEXTS = (
    "a",
    "",
    "Hello, world!",
    "Café naïve: déjà vu, cafe\u0301",  # the last accent is a combining one: NFC folds it
    "東京は日本の首都です。",
    "🦀 crabs & 👩‍🔬 labs",
    "  two spaces,\n\na blank line and\ta tab 12345  ",
    LONG,
    "an <|im_end|> inside the text",
)
# Indices into TEXTS whose hidden states are kept (embeddings are kept for all).
ONE_AND_TWO_TOKENS = (0, 1)
SHORT = (0, 1, 2)
WITH_LONG = (0, 2, 7)
FORTY_TOKENS = (6,)

# Shapes. SMALL is for dense weights (Qwen2 has no head_dim of its own: there it is 8). The
# others are for quantised ones: rows of at least two groups somewhere, and nothing larger.
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=16, intermediate_size=64)
ONE_LAYER = SMALL | dict(num_hidden_layers=1)
GROUPS_OF = {
    32: ONE_LAYER | dict(hidden_size=64),
    64: ONE_LAYER | dict(hidden_size=128),
    128: ONE_LAYER | dict(hidden_size=128, head_dim=64, intermediate_size=128),
}

ARCHITECTURE = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                "llama": "LlamaForCausalLM"}


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    family: str = "qwen3"  # model_type: qwen2, qwen3 or llama
    dtype: str = "float32"
    shape: dict = field(default_factory=lambda: SMALL)
    extra: dict = field(default_factory=dict)  # further config entries; None removes one
    reference_config: dict | None = None  # laid over the config when mlx-lm loads it
    qk_norm: bool = False  # q_norm and k_norm in a Qwen2 checkpoint
    quantization: dict | None = None  # group_size, bits, mode
    overrides: dict = field(default_factory=dict)  # path entries of the quantization record
    dense: tuple = ()  # paths left dense without an entry
    writes_mode: bool = True  # whether the record says "mode"
    layout: str = "single"  # single, single-with-index, sharded, no-prefix
    weights_of: str | None = None  # a case whose weights this one links to
    checkpoint: str | None = None  # a trained checkpoint of the repository that this case links to
    tokenizer: str = "tokenizer"
    sentence_transformers: bool = False
    pooling: str = "last-token"
    prompts: dict = field(default_factory=dict)
    hidden: tuple = SHORT
    torch: bool = False  # compared with transformers by --check-torch

    def config(self) -> dict:
        """config.json without its quantization record."""
        config = {
            "architectures": [ARCHITECTURE[self.family]],
            "model_type": self.family,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "vocab_size": 300,  # larger than the tokenizer's 288, as real ones are
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "torch_dtype": self.dtype,
            "eos_token_id": 285,
            "use_cache": True,
        }
        config |= self.shape | self.extra
        if self.family == "qwen2" and not self.qk_norm:
            del config["head_dim"]  # hidden / heads by definition
        return {key: value for key, value in config.items() if value is not None}


def affine(bits: int, group_size: int) -> dict:
    return {"group_size": group_size, "bits": bits, "mode": "affine"}


DENSE = [
    Case("qwen3-f32", "Qwen3, f32", hidden=WITH_LONG, torch=True),
    Case("qwen3-f16", "Qwen3, f16", dtype="float16", shape=ONE_LAYER),
    Case("qwen3-bf16", "Qwen3, bf16", dtype="bfloat16"),
    Case("qwen2-f32", "Qwen2, f32: bias on q, k, v, no q/k norm", family="qwen2",
         hidden=WITH_LONG, torch=True),
    Case("qwen2-bf16", "Qwen2, bf16", family="qwen2", dtype="bfloat16", shape=ONE_LAYER),
    Case("llama-f32", "Llama, f32: no biases", family="llama", hidden=WITH_LONG, torch=True),
    Case("llama-biases-f32", "Llama with biases on q, k, v, o and on gate, up, down",
         family="llama", shape=ONE_LAYER, torch=True,
         extra={"attention_bias": True, "mlp_bias": True}),
    Case("qwen2-with-qk-norm-f32", "model_type qwen2 whose checkpoint has q_norm and k_norm beside "
         "its biases; mlx-lm's qwen3.Attention is put in with biased q, k, v", family="qwen2",
         shape=ONE_LAYER | {"head_dim": 8}, qk_norm=True),
]

def quantised(name: str, about: str, quantization: dict, **fields) -> Case:
    """Scales are bf16, as most checkpoints' are, unless `dtype` says otherwise."""
    shape = GROUPS_OF[max(quantization["group_size"], 32)]
    return Case(name, about, quantization=quantization,
                **{"dtype": "bfloat16", "shape": shape, "hidden": ONE_AND_TWO_TOKENS} | fields)


LAYER = "model.layers.0"
QUANTISED = [
    quantised("qwen3-affine-4bit-g64", "as Qwen3-Embedding-0.6B-4bit-DWQ: affine 4 bit g64, bf16 "
              "scales, quantised embedding, no mode in the record, an index beside the one file",
              affine(4, 64), shape=GROUPS_OF[64] | {"num_hidden_layers": 2}, writes_mode=False,
              layout="single-with-index", hidden=SHORT),
    quantised("qwen3-affine-4bit-g64-f32-scales", "scales and biases in f32", affine(4, 64),
              dtype="float32"),
    quantised("qwen3-affine-8bit-g32-f16-scales", "scales and biases in f16", affine(8, 32),
              dtype="float16"),
    quantised("qwen3-three-layers-affine-4bit-g64", "layers enough to plant faults in; scales in f16",
              affine(4, 64), shape=GROUPS_OF[64] | {"num_hidden_layers": 3}, dtype="float16",
              hidden=SHORT),
    quantised("qwen3-mxfp4", "mxfp4 in groups of 32, u8 scales, no biases",
              {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
    quantised("qwen3-mxfp8", "mxfp8 in groups of 32, u8 scales, no biases",
              {"group_size": 32, "bits": 8, "mode": "mxfp8"}),
    quantised("qwen3-nvfp4", "nvfp4 in groups of 16, u8 scales, no biases",
              {"group_size": 16, "bits": 4, "mode": "nvfp4"}),
    quantised("qwen2-affine-4bit-g64", "a layer's own bias beside the biases of its quantisation",
              affine(4, 64), family="qwen2"),
    quantised("llama-biases-affine-8bit-g32", "biases of their own on all of Llama's layers",
              affine(8, 32), family="llama", extra={"attention_bias": True, "mlp_bias": True}),
    quantised("qwen3-mixed-bits", "path entries: other bits and group, true (the defaults), false "
              "(dense; the embedding too)", affine(4, 64), overrides={
                  f"{LAYER}.mlp.down_proj": {"group_size": 32, "bits": 6},
                  f"{LAYER}.self_attn.v_proj": {"group_size": 64, "bits": 8},
                  f"{LAYER}.self_attn.q_proj": True,
                  f"{LAYER}.self_attn.o_proj": False,
                  "model.embed_tokens": False,
              }),
    quantised("qwen3-mixed-modes", "path entries under an mxfp4 default; one without mode is "
              "affine, whatever the default", {"group_size": 32, "bits": 4, "mode": "mxfp4"},
              shape=GROUPS_OF[64], overrides={
                  f"{LAYER}.mlp.down_proj": {"group_size": 32, "bits": 4},
                  f"{LAYER}.self_attn.v_proj": {"group_size": 64, "bits": 8, "mode": "affine"},
                  "model.embed_tokens": {"group_size": 64, "bits": 6, "mode": "affine"},
              }),
    quantised("qwen3-dense-without-entry", "no entry and no scales: dense", affine(4, 64),
              dense=("model.embed_tokens", f"{LAYER}.mlp.up_proj"), writes_mode=False),
]

SWEEP = [
    quantised(f"qwen3-affine-{bits}bit-g{group}", f"affine {bits} bit in groups of {group}",
              affine(bits, group))
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    if (bits, group) != (4, 64)
]

SHAPES = [
    Case("qwen3-head-dim-128-bf16", "head_dim 128 is not hidden / heads; one KV head",
         dtype="bfloat16", shape=ONE_LAYER | dict(num_attention_heads=2, num_key_value_heads=1,
                                                  head_dim=128), torch=True),
    Case("qwen3-kv-heads-equal-heads-bf16", "no grouping of heads", dtype="bfloat16",
         shape=ONE_LAYER | dict(num_key_value_heads=4)),
    Case("qwen2-odd-sizes-bf16", "hidden 60, 3 heads of 20, one KV head, intermediate 100",
         family="qwen2", dtype="bfloat16",
         shape=ONE_LAYER | dict(hidden_size=60, num_attention_heads=3, num_key_value_heads=1,
                                head_dim=20, intermediate_size=100), torch=True),
    Case("llama-defaults-bf16", "config without num_key_value_heads, head_dim, rope_theta",
         family="llama", dtype="bfloat16", shape=ONE_LAYER | dict(num_key_value_heads=4),
         extra=dict(num_key_value_heads=None, head_dim=None, rope_theta=None), torch=True),
    Case("qwen3-sharded-bf16", "three shards and an index", dtype="bfloat16", shape=ONE_LAYER,
         layout="sharded"),
    quantised("qwen3-sharded-affine-4bit-g64", "a weight and its scales in different shards",
              affine(4, 64), layout="sharded"),
    Case("qwen3-no-prefix-bf16", "tensor names without model., as AutoModel saves them; mlx-lm "
         "gets them with the prefix put back", dtype="bfloat16", shape=ONE_LAYER,
         layout="no-prefix"),
    quantised("qwen3-no-prefix-affine-4bit-g64", "tensor names without model., quantised",
              affine(4, 64), layout="no-prefix"),
    Case("qwen3-untied-bf16", "tie_word_embeddings false: lm_head.weight is there, to be ignored",
         dtype="bfloat16", shape=ONE_LAYER, extra={"tie_word_embeddings": False}),
    quantised("qwen3-untied-affine-4bit-g64", "a quantised lm_head, to be ignored", affine(4, 64),
              extra={"tie_word_embeddings": False}),
]


# What the kernels for NVIDIA GPUs can run: heads of 64 or 128, sizes that are multiples of 64.
WIDE = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=64, intermediate_size=192)
WIDE_CASES = [
    quantised("qwen3-head-dim-128-affine-4bit-g64", "as the large Qwen3 models, hidden 3 * 64",
              affine(4, 64), shape=WIDE | dict(hidden_size=192, head_dim=128), hidden=WITH_LONG),
    quantised("qwen2-head-dim-64-affine-4bit-g128", "biases, one group of inputs", affine(4, 128),
              family="qwen2", shape=WIDE | dict(intermediate_size=256), hidden=WITH_LONG),
    quantised("llama-head-dim-64-affine-4bit-g32", "neighbours rotate, an 8-bit embedding",
              affine(4, 32), family="llama", shape=WIDE, extra={"rope_traditional": True},
              hidden=WITH_LONG, overrides={"model.embed_tokens": {"group_size": 64, "bits": 8}}),
    Case("qwen3-head-dim-64-yarn-bf16", "dense; yarn scales what it rotates", dtype="bfloat16",
         shape=WIDE, hidden=WITH_LONG, extra={"rope_scaling": {
             "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
]


def rope(name: str, about: str, scaling: dict, **fields) -> Case:
    """qwen3-f32's weights under another rope_scaling."""
    extra = {"rope_scaling": scaling} | fields.pop("extra", {})
    return Case(name, about, extra=extra,
                **{"weights_of": "qwen3-f32", "hidden": FORTY_TOKENS, "torch": True} | fields)


LLAMA3_NESTED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                 "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 1024,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
ROPE = [
    rope("qwen3-rope-parameters", "theta nested as transformers 5 writes it", None,
         extra={"rope_theta": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    rope("qwen3-rope-parameters-linear", "theta and scaling nested", None,
         extra={"rope_theta": None, "rope_parameters": {
             "rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    rope("qwen3-rope-default", "rope_scaling of kind default", {"rope_type": "default"}),
    rope("qwen3-rope-linear", "linear, under the older key `type`",
         {"type": "linear", "factor": 4.0}),
    rope("qwen3-rope-llama3", "llama3, with kept, smoothed and stretched wavelengths",
         {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}),
    rope("qwen3-rope-yarn", "yarn with its defaults", YARN),
    rope("qwen3-rope-yarn-betas", "yarn with a wide ramp", YARN | {
        "beta_fast": 4.0, "beta_slow": 0.1, "original_max_position_embeddings": 64},
        extra={"rope_theta": 100.0}),
    rope("qwen3-rope-yarn-mscale", "yarn with mscale and mscale_all_dim",
         YARN | {"mscale": 3.0, "mscale_all_dim": 0.5}),
    rope("qwen3-rope-yarn-attention-factor", "yarn with attention_factor 1.3. mlx-lm ignores that "
         "key; the reference gets the mscale that comes to 1.3, as transformers computes",
         YARN | {"attention_factor": 1.3},
         reference_config={"rope_scaling": YARN | {"mscale": 0.3 / (0.1 * log(4.0))}}),
    rope("qwen3-rope-longrope", "longrope. As in transformers the short factors hold up to "
         "original_max_position_embeddings tokens; mlx-lm takes the long ones at every length, so "
         "the reference gets the short ones in their place", LONGROPE,
         extra={"max_position_embeddings": 4096},
         reference_config={"rope_scaling": LONGROPE | {"long_factor": LONGROPE["short_factor"]}}),
    rope("qwen3-rope-yarn-exact-bounds", "yarn with truncate false: the ramp's bounds are no whole "
         "numbers. mlx-lm doesn't read that key; it gets the frequencies that transformers has",
         YARN | {"original_max_position_embeddings": 64, "truncate": False},
         extra={"rope_theta": 100.0}),
    rope("qwen3-rope-type-beside-type", "an older `type` left at its default beside rope_type, as "
         "transformers reads it; mlx-lm prefers `type`, so the reference gets rope_type alone",
         YARN | {"type": "default"}, reference_config={"rope_scaling": YARN}),
    rope("qwen3-rope-original-at-the-top", "original_max_position_embeddings at the top, where "
         "transformers looks first; the reference gets it where mlx-lm looks",
         {"rope_type": "yarn", "factor": 4.0},
         extra={"original_max_position_embeddings": 16}, reference_config={"rope_scaling": YARN}),
    rope("qwen3-rope-original-by-default", "yarn without original_max_position_embeddings: "
         "max_position_embeddings stands in for it in transformers, 4096 in mlx-lm",
         {"rope_type": "yarn", "factor": 4.0}, extra={"max_position_embeddings": 128},
         reference_config={"rope_scaling": YARN | {"original_max_position_embeddings": 128}}),
    rope("qwen3-rope-mscale-alone", "mscale without mscale_all_dim does not count in transformers; "
         "mlx-lm would, so the reference gets none", YARN | {"mscale": 3.0},
         reference_config={"rope_scaling": YARN}),
    rope("qwen3-rope-dynamic", "dynamic: beyond max_position_embeddings (here 16, so a reader must "
         "set its token limit itself) the base depends on the text's own length, padding excluded",
         {"rope_type": "dynamic", "factor": 2.0}, extra={"max_position_embeddings": 16}),
    rope("qwen3-rope-mrope", "mrope: on text the same as default",
         {"type": "mrope", "mrope_section": [2, 3, 3]}, torch=False),
    rope("qwen3-rope-proportional", "proportional: the first half of each half turns",
         {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0}, torch=False),
    rope("llama-rope-traditional", "rope_traditional: neighbouring pairs turn", None,
         family="llama", weights_of="llama-f32", torch=False, extra={"rope_traditional": True}),
    rope("llama-rope-parameters-llama3", "nested in Llama. mlx-lm reads rope_parameters in Qwen3 "
         "only; the reference gets the same at top level", None, family="llama",
         weights_of="llama-f32", extra={"rope_theta": None, "rope_parameters": LLAMA3_NESTED},
         reference_config={"rope_theta": 1e4, "rope_scaling": LLAMA3_NESTED}),
    rope("qwen2-rope-parameters-yarn", "yarn nested in Qwen2, which mlx-lm does not read; "
         "the reference gets the same at top level", None, family="qwen2",
         weights_of="qwen2-f32",
         extra={"rope_theta": None, "rope_parameters": YARN | {"rope_theta": 1e4}},
         reference_config={"rope_theta": 1e4, "rope_scaling": YARN}),
]

QUERY = ("Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
         "Query:")


def sentence_transformers(name: str, about: str, pooling: str, **fields) -> Case:
    return Case(name, about, weights_of="qwen3-bf16", dtype="bfloat16", pooling=pooling,
                sentence_transformers=True, **fields)


TEXT = [
    sentence_transformers("st-last-token", "sentence-transformers files as Qwen3-Embedding's: "
                          "last token, normalised, prompts for query and document", "last-token",
                          prompts={"query": QUERY, "document": ""}),
    sentence_transformers("st-mean", "pooling mean", "mean"),
    sentence_transformers("st-cls", "pooling on the first token", "cls"),
    Case("plain-tokenizer", "no post-processor in the tokenizer: the embedder appends the end "
         "token (id 285 in `ids`)", weights_of="qwen3-bf16", dtype="bfloat16",
         tokenizer="tokenizer-plain"),
]

TRAINED = [
    Case("default-model", "the embedded default model: trained weights, affine 4-bit g64, f16 scales, "
         "pooling mean", dtype="float16", pooling="mean", hidden=(0, 2, 7),
         checkpoint="mlx-embed/models/default"),
]

CASES = DENSE + QUANTISED + SWEEP + SHAPES + WIDE_CASES + ROPE + TEXT + TRAINED
