"""Decoders without the causal mask, and causal ones with a window."""

import numpy as np

from family.case import DECODER, LAST, MEAN, Case, Module, Tensors, affine, normalize, pipeline, pooling

QUERY_PROMPTS = {"query": "Instruct: Given a web search query, retrieve relevant passages that "
                          "answer the query\nQuery:", "document": ""}
LENGTHS = (31, 32, 33, 70)
WINDOW = 16
AROUND_WINDOW = (15, 16, 17, 18, 33, 70, 150)
PROJECTED = 96


def config(model_type: str, architecture: str, without: tuple = (), **more) -> dict:
    entries = {"architectures": [architecture], "model_type": model_type} | DECODER | more
    return {key: value for key, value in entries.items() if key not in without}


def qwen2(**more) -> dict:
    """head_dim is hidden / heads by definition."""
    return config("qwen2", "Qwen2ForCausalLM", without=("head_dim",), **more)


def prefixed(tensors: dict) -> dict:
    return {f"model.{name}": value for name, value in tensors.items()}


def voyage_linear(final: np.ndarray, beside: Tensors) -> np.ndarray:
    """A linear layer to `num_labels` for every token."""
    weight = beside["linear.weight"].astype(np.float64)
    return (final.astype(np.float64) @ weight.T).astype(np.float32)


def pplx_vector(final: np.ndarray, _beside: Tensors) -> np.ndarray:
    """The mean, then tanh times 127, rounded (halves to even) and held within -128 to 127: whole
    numbers, not normalised."""
    scaled = np.tanh(final.astype(np.float64).mean(0)) * 127
    nearest = np.abs(scaled - np.floor(scaled) - 0.5).min()
    if nearest < 2e-4:
        raise ValueError(f"{nearest:.1e} from a half: rounding would hang on the last bits")
    return np.clip(np.round(scaled), -128, 127)


def windowed(model_type: str, **more) -> dict:
    if model_type == "qwen2":
        return qwen2(num_hidden_layers=3, sliding_window=WINDOW, **more)
    return config("qwen3", "Qwen3ForCausalLM", num_hidden_layers=3, sliding_window=WINDOW, **more)


BIDIRECTIONAL = [
    Case("qwen2-bidirectional-auto-map",
         "gte-Qwen2: nothing but auto_map tells that there is no causal mask; last token",
         qwen2(use_sliding_window=False, sliding_window=131072, max_window_layers=21, auto_map={
             "AutoModel": "modeling_qwen.Qwen2Model",
             "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM",
             "AutoModelForSequenceClassification": "modeling_qwen.Qwen2ForSequenceClassification",
         }),
         reference={"auto_map": None, "is_causal": False}, loads=False, stored=prefixed,
         dtype="bfloat16", lengths=LENGTHS, modules=LAST, prompts=QUERY_PROMPTS),
    Case("qwen2-is-causal-false-mean", "Qwen2 with is_causal false, mean", qwen2(is_causal=False),
         stored=prefixed, lengths=LENGTHS, modules=MEAN, dtype="bfloat16",
         weights_of="qwen2-bidirectional-auto-map"),
    Case("qwen3-is-causal-false-affine-4bit-g64", "the same of Qwen3, 4 bits",
         config("qwen3", "Qwen3Model", is_causal=False, intermediate_size=128), lengths=LENGTHS,
         modules=MEAN, dtype="bfloat16",
         quantization=affine(4)),
    Case("qwen3-use-bidirectional-attention-linear",
         "voyage-4-nano: use_bidirectional_attention, linear.weight to num_labels behind the last "
         "norm, then the mean and a unit vector",
         config("qwen3", "VoyageQwen3BidirectionalEmbedModel", use_bidirectional_attention=True,
                num_labels=PROJECTED, auto_map={
                    "AutoModel": "modeling_qwen3_bidirectional.VoyageQwen3BidirectionalEmbedModel"
                }),
         reference={"auto_map": None, "is_causal": False, "num_labels": None}, loads=False,
         stored=prefixed, dtype="bfloat16", more={"linear.weight": (PROJECTED, 64)},
         lengths=LENGTHS, behind=voyage_linear,
         modules=pipeline(pooling("mean_tokens", width=PROJECTED), normalize("2_Normalize"))),
    Case("llama-bidirec", "llama-nemotron-embed: model_type llama_bidirec, names without prefix, "
         "pooling avg, llama3 RoPE",
         config("llama_bidirec", "LlamaBidirectionalModel", pooling="avg", temperature=0.02,
                rope_theta=5e5, rms_norm_eps=1e-5, auto_map={
                    "AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel",
                    "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
                },
                rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
         reference={"model_type": "llama", "auto_map": None, "is_causal": False, "pooling": None,
                    "temperature": None}, loads=False, dtype="bfloat16",
         lengths=LENGTHS, modules=MEAN, prompts={"query": "query: ", "document": "passage: "}),
    Case("llama-is-causal-false", "Llama with is_causal false, mean",
         config("llama", "LlamaModel", is_causal=False), lengths=LENGTHS, modules=MEAN,
         dtype="bfloat16", weights_of="llama-bidirec"),
    Case("pplx-qwen3", "pplx-embed: bidirectional_pplx_qwen3, mean, then tanh times 127, rounded",
         config("bidirectional_pplx_qwen3", "PPLXQwen3Model", use_bidirectional_attention=True,
                auto_map={"AutoConfig": "configuration.PPLXQwen3Config",
                          "AutoModel": "modeling.PPLXQwen3Model"}),
         reference={"model_type": "qwen3", "auto_map": None, "is_causal": False}, loads=False,
         dtype="bfloat16", lengths=LENGTHS, finish=pplx_vector, modules=pipeline(
             pooling("mean_tokens"),
             Module("", "FlexibleQuantizer", namespace="st_quantize", kwargs=("quantization",)))),
    Case("eurobert", "EuroBERT: as Llama, bidirectional, names with model., lm_head beside, mean",
         config("eurobert", "EuroBertForMaskedLM", num_key_value_heads=4, rms_norm_eps=1e-5,
                rope_theta=250000.0, pad_token_id=285, bos_token_id=286, mask_token_id=287,
                attention_bias=False, mlp_bias=False, tie_word_embeddings=False,
                clf_pooling="late", mask_token="<|im_end|>", pretraining_tp=1),
         auto="AutoModelForMaskedLM", lengths=LENGTHS, modules=MEAN, dtype="bfloat16"),
]
CAUSAL_WINDOWS = [
    Case("qwen2-sliding-window", "use_sliding_window: layers from max_window_layers on see the last "
         "16 tokens, themselves included", windowed("qwen2", use_sliding_window=True,
                                                    max_window_layers=1),
         stored=prefixed, lengths=AROUND_WINDOW, modules=LAST, dtype="bfloat16"),
    Case("qwen2-sliding-window-unused", "use_sliding_window false: the window beside it counts for "
         "nothing", windowed("qwen2", use_sliding_window=False, max_window_layers=1),
         stored=prefixed, lengths=(15, 18, 70), modules=LAST, dtype="bfloat16",
         weights_of="qwen2-sliding-window"),
    Case("qwen3-sliding-window-layer-types", "the same by layer_types, in Qwen3",
         windowed("qwen3", use_sliding_window=True, max_window_layers=3, layer_types=[
             "sliding_attention", "full_attention", "sliding_attention"]),
         stored=prefixed, lengths=AROUND_WINDOW, modules=LAST, dtype="bfloat16"),
]
def massive(tensors: Tensors) -> Tensors:
    """What the feed-forward parts add, and what is activated in them, is far beyond the largest f16."""
    factors = {"up_proj": 2**14, "down_proj": 2**8}

    def factor(name: str) -> int:
        return next((by for part, by in factors.items() if part in name), 1)

    return {name: value * np.float32(factor(name)) for name, value in tensors.items()}


LARGE = [
    Case("qwen3-beyond-f16", "f16, with hidden states of some millions, where f16 ends at 65504",
         config("qwen3", "Qwen3ForCausalLM"), drawn=massive, stored=prefixed, lengths=LENGTHS, modules=LAST,
         dtype="float16"),
]
CASES = BIDIRECTIONAL + CAUSAL_WINDOWS + LARGE
