"""What a GGUF says of a model, as the model's own config.json and tensor names have it."""

from dataclasses import dataclass
from typing import Callable

import numpy as np
from gguf import GGUFReader
from mlx_lm.models import gemma3_text, llama, qwen2

NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma has norms before and behind both halves of a layer.
GEMMA_NAMES = NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GEMMA_PATTERN = 6  # every sixth layer sees the whole text


class Fields:
    def __init__(self, reader: GGUFReader):
        self.reader = reader
        self.architecture = self["general.architecture"]

    def __getitem__(self, name: str):
        return self.reader.fields[name].contents()

    def of_model(self, name: str):
        return self[f"{self.architecture}.{name}"]

    def has(self, tensor: str) -> bool:
        return any(found.name == tensor for found in self.reader.tensors)

    def common(self) -> dict:
        """What all families' config.json has."""
        return {
            "eos_token_id": self["tokenizer.ggml.eos_token_id"],
            "bos_token_id": self["tokenizer.ggml.bos_token_id"],
            "pad_token_id": self["tokenizer.ggml.padding_token_id"],
            "hidden_size": self.of_model("embedding_length"),
            "intermediate_size": self.of_model("feed_forward_length"),
            "max_position_embeddings": self.of_model("context_length"),
            "num_attention_heads": self.of_model("attention.head_count"),
            "num_hidden_layers": self.of_model("block_count"),
            "num_key_value_heads": self.of_model("attention.head_count_kv"),
            "rms_norm_eps": float(f"{self.of_model('attention.layer_norm_rms_epsilon'):.6g}"),
            "rope_theta": self.of_model("rope.freq_base"),
            "tie_word_embeddings": not self.has("output.weight"),
            "vocab_size": len(self["tokenizer.ggml.tokens"]),
        }


def llama_config(fields: Fields) -> dict:
    return fields.common() | {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
        "head_dim": fields.of_model("rope.dimension_count"), "model_type": "llama", "rope_scaling": None,
    }


def qwen2_config(fields: Fields) -> dict:
    return fields.common() | {
        "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "model_type": "qwen2", "rope_scaling": None,
        "use_sliding_window": False,
    }


def gemma3_config(fields: Fields) -> dict:
    layers = range(1, fields.of_model("block_count") + 1)
    width = fields.of_model("attention.key_length")
    return fields.common() | {
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma3_text",
        "head_dim": width, "query_pre_attn_scalar": width, "rope_local_base_freq": 10000.0, "rope_scaling": None,
        "sliding_window": fields.of_model("attention.sliding_window"), "sliding_window_pattern": GEMMA_PATTERN,
        "layer_types": ["sliding_attention" if layer % GEMMA_PATTERN else "full_attention" for layer in layers],
    }


def halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes GGUF's order of a llama's q and k rows.

    llama.cpp rotates neighbouring rows of a head and therefore stores them interleaved; MLX and
    transformers rotate row i with row i + head_dim / 2.
    """
    rows, columns = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, columns)
    return paired.swapaxes(1, 2).reshape(rows, columns)


def llama_values(name: str, values: np.ndarray, config: dict) -> np.ndarray:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    part = name.split(".")[-2]
    return halves_apart(values, heads[part]) if part in heads else values


def gemma3_values(name: str, values: np.ndarray, config: dict) -> np.ndarray:
    """Gemma multiplies with 1 and a norm's weight; a GGUF holds the sum."""
    return values - 1 if name.endswith("norm.weight") else values


@dataclass(frozen=True)
class Family:
    module: object  # of mlx-lm
    config: Callable[[Fields], dict]
    names: dict
    values: Callable[[str, np.ndarray, dict], np.ndarray] = lambda name, values, config: values

    def name(self, of_gguf: str) -> str:
        """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
        *block, part, kind = of_gguf.split(".")
        prefix = f"model.layers.{block[1]}." if block else ""
        return f"{prefix}{self.names[part]}.{kind}"


# By what a GGUF calls its architecture.
FAMILIES = {
    "llama": Family(llama, llama_config, NAMES, llama_values),
    "qwen2": Family(qwen2, qwen2_config, NAMES),
    "gemma3": Family(gemma3_text, gemma3_config, GEMMA_NAMES, gemma3_values),
}
