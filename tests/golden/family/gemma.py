"""The first Gemma, and Gemma 3's text model, causal and as EmbeddingGemma has it."""

from dataclasses import replace

import numpy as np

from family.case import LAST, MEAN, Case, Tensors, affine, dense, normalize, pipeline, pooling

WINDOW = 16
# Causal layers see 16 tokens. Bidirectional ones see 8 on each side: half of the config's window.
AROUND_CAUSAL = (15, 16, 17, 18, 33, 70, 150)
AROUND_BIDIRECTIONAL = (9, 10, 11, 17, 18, 33, 70, 150)
SHAPE = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
    intermediate_size=96, hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, vocab_size=384,
    max_position_embeddings=512, sliding_window=WINDOW, query_pre_attn_scalar=24,
    attention_bias=False, attn_logit_softcapping=None, final_logit_softcapping=None,
    bos_token_id=2, eos_token_id=1, pad_token_id=0, use_cache=True,
)
TWO_BASES = dict(rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=None)
TYPES = ["sliding_attention", "full_attention"]
PROMPTS = {"query": "task: search result | query: ", "document": "title: none | text: "}


def config(architecture: str, *parts: dict, **more) -> dict:
    merged = {"architectures": [architecture], "model_type": "gemma3_text"} | SHAPE
    for part in parts:
        merged |= part
    return merged | more


def prefixed(tensors: dict) -> dict:
    return {f"model.{name}": value for name, value in tensors.items()}


def mlx_vector(final: np.ndarray, beside: Tensors) -> np.ndarray:
    """The mean, both Dense layers, a unit vector."""
    vector = final.astype(np.float64).mean(0)
    for name in ("dense.0.weight", "dense.1.weight"):
        vector = beside[name].astype(np.float64) @ vector
    return vector / np.linalg.norm(vector)


EMBEDDING_GEMMA = pipeline(pooling("mean_tokens"), dense("2_Dense", 64, 128),
                           dense("3_Dense", 128, 64), normalize("4_Normalize"))
WITHOUT_DENSE_FILES = tuple(replace(module, config=None) if module.kind == "Dense" else module
                            for module in EMBEDDING_GEMMA)
DENSE_INSIDE = {"dense.0.weight": (128, 64), "dense.1.weight": (64, 128)}
ENCODER = config("Gemma3TextModel", TWO_BASES, use_bidirectional_attention=True)
CAUSAL = [
    Case("gemma3-causal-sliding-window-pattern", "as harrier-oss-v1-270m: causal, last token, the "
         "period by sliding_window_pattern; names with model.",
         config("Gemma3ForCausalLM", TWO_BASES, sliding_window_pattern=2), dtype="bfloat16",
         stored=prefixed, lengths=AROUND_CAUSAL, modules=LAST, tokenizer="gemma"),
    Case("gemma3-causal-layer-types", "the same by layer_types and rope_parameters, as transformers 5 "
         "writes them; mean; no pattern",
         config("Gemma3TextModel", layer_types=TYPES, rope_parameters={
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
         dtype="bfloat16", stored=prefixed, lengths=AROUND_CAUSAL, tokenizer="gemma",
         modules=MEAN, weights_of="gemma3-causal-sliding-window-pattern"),
    Case("gemma3-causal-defaults", "no period at all: every sixth layer is full; no bases either: 1e6 "
         "and 1e4", config("Gemma3ForCausalLM", num_hidden_layers=6, intermediate_size=64,
                                num_attention_heads=1),
         dtype="bfloat16", stored=prefixed, lengths=(15, 16, 17, 70), modules=LAST,
         tokenizer="gemma"),
    Case("gemma3-causal-affine-4bit-g64", "4 bits, the embedding too",
         config("Gemma3ForCausalLM", TWO_BASES, sliding_window_pattern=2, intermediate_size=128),
         dtype="bfloat16", stored=prefixed, lengths=(16, 17, 70), modules=LAST, tokenizer="gemma",
         quantization=affine(4)),
]
BIDIRECTIONAL = [
    Case("embedding-gemma-f32", "as EmbeddingGemma 300M: bidirectional, layer_types with "
         "_sliding_window_pattern beside, mean, 2_Dense, 3_Dense, Normalize; prompts",
         ENCODER | {"layer_types": TYPES, "_sliding_window_pattern": 2}, lengths=AROUND_BIDIRECTIONAL,
         modules=EMBEDDING_GEMMA, tokenizer="gemma", prompts=PROMPTS),
    Case("embedding-gemma-underscore-pattern", "only _sliding_window_pattern tells the period; "
         "transformers does not read it, and is told the layer types",
         ENCODER | {"_sliding_window_pattern": 2}, reference={"layer_types": TYPES}, loads=False,
         lengths=(10, 17, 70), modules=MEAN, tokenizer="gemma",
         weights_of="embedding-gemma-f32"),
    Case("embedding-gemma-mlx-bf16", "MLX's conversion: dense.0 and dense.1 in model.safetensors; "
         "modules.json lists folders that are not there",
         ENCODER | {"sliding_window_pattern": 2}, dtype="bfloat16", stored=prefixed,
         loads=False, more=DENSE_INSIDE, finish=mlx_vector, unit=True, lengths=AROUND_BIDIRECTIONAL,
         modules=WITHOUT_DENSE_FILES, tokenizer="gemma", prompts=PROMPTS),
    Case("embedding-gemma-mlx-affine-4bit-g64", "the same in 4 bits, dense.0 and dense.1 too; no "
         "sentence-transformers files: mean, Dense and a unit vector are the family's",
         ENCODER | {"layer_types": TYPES, "intermediate_size": 128}, dtype="bfloat16",
         stored=prefixed, more=DENSE_INSIDE, finish=mlx_vector, unit=True,
         lengths=AROUND_BIDIRECTIONAL, tokenizer="gemma",
         quantization=affine(4)),
    Case("embedding-gemma-head-dim-256-bf16", "head_dim 256, one KV head, window of 64",
         ENCODER | {"head_dim": 256, "query_pre_attn_scalar": 256, "num_hidden_layers": 1,
                    "layer_types": TYPES[:1], "sliding_window": 64}, dtype="bfloat16",
         lengths=(32, 33, 34, 65, 150), tokenizer="gemma", modules=MEAN),
]
OF_LATER_ONES = ("query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
FIRST = {key: value for key, value in SHAPE.items() if key not in OF_LATER_ONES} | dict(
    architectures=["GemmaForCausalLM"], model_type="gemma", hidden_act="gelu", hidden_activation=None,
    rope_theta=1e4)
GEMMA = [
    Case("gemma-causal", "the first Gemma: causal, last token, two norms a layer, neither head norms nor windows; "
         "`gelu` means its approximation by tanh here", FIRST, dtype="bfloat16",
         stored=prefixed, lengths=(16, 17, 70, 150), modules=LAST, tokenizer="gemma"),
]
CASES = GEMMA + CAUSAL + BIDIRECTIONAL
