"""Alibaba's gte and jina-embeddings-v3: rotary BERT, with GeGLU and with GELU."""

import mlx.core as mx

from family.case import CLS, MEAN, Case, affine
from family.rerankers import classifier
from family.sentence import splade

GTE = dict(
    architectures=["GteModel"], model_type="gte", hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=96, hidden_act="gelu", layer_norm_eps=1e-12,
    max_position_embeddings=512, type_vocab_size=1, vocab_size=200, pad_token_id=1,
    rope_parameters={"rope_type": "default", "rope_theta": 160000.0},
)
# As the config of its own code has it. Its ntk is the product of base and factor, and a linear rest.
FACTOR = 8.0
NEW = {key: value for key, value in GTE.items() if key != "rope_parameters"} | dict(
    architectures=["NewModel", "NewForTokenClassification"], model_type="new",
    auto_map={"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
              "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
    attention_probs_dropout_prob=0.0, classifier_dropout=0.0, hidden_dropout_prob=0.1,
    initializer_range=0.02, layer_norm_type="layer_norm", logn_attention_clip1=False,
    logn_attention_scale=False, pack_qkv=True, position_embedding_type="rope",
    rope_scaling={"factor": FACTOR, "type": "ntk"}, rope_theta=2000.0, torch_dtype="float16",
    unpad_inputs=False, use_memory_efficient_attention=False,
)
NEW_OF_TRANSFORMERS = {key: None for key in NEW if key not in GTE} | GTE | {
    "rope_parameters": {"rope_type": "linear", "rope_theta": 2000.0 * FACTOR, "factor": FACTOR ** (2 / 16)}}
JINA = dict(
    architectures=["JinaEmbeddingsV3Model"], model_type="jina_embeddings_v3", hidden_size=64,
    num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, hidden_act="gelu",
    layer_norm_eps=1e-5, max_position_embeddings=512, type_vocab_size=1, vocab_size=200, pad_token_id=1,
    bos_token_id=0, eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
)
GTE_NAMES = (("self_attn.o_proj", "attention.o_proj"), ("post_attention_layernorm", "attn_ln"),
             ("post_mlp_layernorm", "mlp_ln"), ("layers.", "encoder.layer."),
             ("lm_head.layer_norm", "lm_head.norm"), ("gte.", "new."))
JINA_NAMES = (("self_attn.o_proj", "mixer.out_proj"), ("post_attention_layernorm", "norm1"),
              ("post_mlp_layernorm", "norm2"), ("layers.", "encoder.layers."), ("embeddings.LayerNorm", "emb_ln"))
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def joined(tensors: dict, parts: tuple, whole: str) -> dict:
    """Rows of matrices that are one in the file, and their biases."""
    made = {}
    for name, value in tensors.items():
        part = next((part for part in parts if part in name), None)
        if part == parts[0]:
            all_parts = [tensors[name.replace(part, other)] for other in parts]
            made[name.replace(part, whole)] = mx.concatenate(all_parts)
        elif part is None:
            made[name] = value
    return made


def renamed(tensors: dict, names: tuple) -> dict:
    made = {}
    for name, value in tensors.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        made[name] = value
    return made


def gte_names(tensors: dict) -> dict:
    tensors = joined(tensors, QKV, "attention.qkv_proj")
    return renamed(joined(tensors, ("mlp.up_proj", "mlp.gate_proj"), "mlp.up_gate_proj"), GTE_NAMES)


def jina_names(tensors: dict) -> dict:
    return renamed(joined(tensors, QKV, "mixer.Wqkv"), JINA_NAMES)


def case(name: str, about: str, config: dict, **fields) -> Case:
    return Case(name, about, config, **dict(tokenizer="unigram", lengths=(33, 150), modules=CLS) | fields)


CASES = [
    case("gte-bf16", "as gte-multilingual: names of its own code, whose gate is behind what it gates; a "
         "weight of each token beside; cls", GTE | {"architectures": ["GteForTokenClassification"]},
         auto="AutoModelForTokenClassification", dtype="bfloat16", stored=gte_names),
    case("gte-new-config", "the same with the config of its own code, whose positions are stretched by ntk",
         NEW, reference=NEW_OF_TRANSFORMERS, loads=False, auto="AutoModelForTokenClassification",
         dtype="bfloat16", stored=gte_names, weights_of="gte-bf16"),
    case("gte-no-types-f32", "as gte-base-en-v1.5: no token types; names of transformers; WordPiece",
         GTE | {"type_vocab_size": 0, "vocab_size": 208, "pad_token_id": 0, "num_hidden_layers": 1},
         tokenizer="wordpiece"),
    case("gte-affine-4bit-g64", "4 bits, the joined matrices too", GTE | {"intermediate_size": 128},
         dtype="bfloat16", stored=gte_names, quantization=affine(4)),
    case("jina-v3-bf16", "names of its own code; mean; prompts", JINA, dtype="bfloat16", stored=jina_names,
         modules=MEAN, prompts={"retrieval.query": "Represent the query: "}),
    case("jina-v3-linear-f32", "names of transformers, positions stretched",
         JINA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0}},
         modules=MEAN, lengths=(33,)),
    classifier("reranker-gte", "as gte-multilingual-reranker: pooler with tanh, one label; names with new.",
               GTE | {"architectures": ["GteForSequenceClassification"], "num_hidden_layers": 1},
               tokenizer="unigram", stored=gte_names),
    classifier("reranker-jina-v3", "dense with tanh, then one label",
               JINA | {"architectures": ["JinaEmbeddingsV3ForSequenceClassification"], "num_hidden_layers": 1},
               tokenizer="unigram"),
    splade("splade-gte", "as OpenSearch's: the head of gte, whose norm has another name in its own files",
           GTE | {"architectures": ["GteForMaskedLM"], "num_hidden_layers": 1}, tokenizer="unigram",
           stored=gte_names),
]
