"""The table of golden checkpoints: what each one is, as data."""

from dataclasses import dataclass, field

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

# Shapes. SMALL is for dense weights; WIDE is for quantised ones, whose input dimensions have to
# be multiples of the group.
SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=16, intermediate_size=64)
ONE_LAYER = SMALL | dict(num_hidden_layers=1)
WIDE = dict(hidden_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, intermediate_size=64)

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
    tokenizer: str = "tokenizer"
    sentence_transformers: bool = False
    pooling: str = "last"
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
         shape=ONE_LAYER, qk_norm=True),
]

SWEEP = [
    Case(f"qwen3-affine-{bits}bit-g{group}", f"affine {bits} bit in groups of {group}, bf16 scales",
         dtype="bfloat16", shape=WIDE | {"intermediate_size": max(group, 64)},
         quantization=affine(bits, group), hidden=ONE_AND_TWO_TOKENS)
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    if (bits, group) != (4, 64)
]

QUANTISED = [
    Case("qwen3-affine-4bit-g64", "as Qwen3-Embedding-0.6B-4bit-DWQ: affine 4 bit g64, bf16 scales, "
         "quantised embedding, no mode in the record, an index beside the one file",
         dtype="bfloat16", shape=WIDE | {"num_hidden_layers": 2}, quantization=affine(4, 64),
         writes_mode=False, layout="single-with-index"),
]

CASES = DENSE + QUANTISED + SWEEP
