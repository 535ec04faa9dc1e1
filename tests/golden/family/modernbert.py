"""ModernBERT and nomic-bert: encoders with RoPE and gated halves."""

import mlx.core as mx

from family.case import CLS, MEAN, Case, affine

# local_attention 16: eight tokens on each side.
LENGTHS = (9, 10, 11, 17, 18, 33, 70, 150)
MODERN = dict(
    architectures=["ModernBertModel"], model_type="modernbert", hidden_size=64,
    num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, hidden_activation="gelu",
    norm_eps=1e-5, layer_norm_eps=1e-5, norm_bias=False, attention_bias=False, mlp_bias=False,
    vocab_size=288, max_position_embeddings=512, local_attention=16, global_attn_every_n_layers=3,
    global_rope_theta=160000.0, local_rope_theta=10000.0, position_embedding_type="absolute",
    decoder_bias=True, classifier_pooling="mean", classifier_activation="gelu",
    classifier_bias=False, pad_token_id=3, cls_token_id=1, sep_token_id=2, bos_token_id=1,
    eos_token_id=2, tie_word_embeddings=True,
    # What the published ones have besides, and nobody computes with.
    attention_dropout=0.0, classifier_dropout=0.0, deterministic_flash_attn=False,
    embedding_dropout=0.0, gradient_checkpointing=False, initializer_cutoff_factor=2.0,
    initializer_range=0.02, mlp_dropout=0.0, reference_compile=False, repad_logits_with_grad=False,
    sparse_pred_ignore_index=-100, sparse_prediction=False,
)


def modern(name: str, about: str, config: dict | None = None, without: tuple = (), **fields) -> Case:
    merged = {key: value for key, value in (MODERN | (config or {})).items() if key not in without}
    return Case(name, about, merged, **dict(tokenizer="modernbert", lengths=LENGTHS) | fields)


NOMIC = dict(
    architectures=["NomicBertModel"], model_type="nomic_bert", activation_function="swiglu",
    attn_pdrop=0.0, auto_map={"AutoConfig": "configuration_hf_nomic_bert.NomicBertConfig",
                              "AutoModel": "modeling_hf_nomic_bert.NomicBertModel"},
    bos_token_id=None, causal=False, dense_seq_output=True, embd_pdrop=0.0, eos_token_id=None,
    fused_bias_fc=True, fused_dropout_add_ln=True, initializer_range=0.02, layer_norm_epsilon=1e-12,
    max_trained_positions=2048, mlp_fc1_bias=False, mlp_fc2_bias=False, n_embd=64, n_head=4,
    n_inner=96, n_layer=2, n_positions=512, pad_vocab_size_multiple=64, parallel_block=False,
    parallel_block_tied_norm=False, prenorm=False, qkv_proj_bias=False, resid_pdrop=0.0,
    rotary_emb_base=1000, rotary_emb_fraction=1.0, rotary_emb_interleaved=False,
    rotary_emb_scale_base=None, rotary_scaling_factor=None, scale_attn_weights=True,
    type_vocab_size=2, use_rms_norm=False, vocab_size=208,
    # GPT-2's, from which its code took the config.
    reorder_and_upcast_attn=False, scale_attn_by_inverse_layer_idx=False, summary_activation=None,
    summary_first_dropout=0.0, summary_proj_to_labels=True, summary_type="cls_index",
    summary_use_proj=True, use_cache=True, use_flash_attn=True, use_xentropy=True,
)
NOMIC_OF_TRANSFORMERS = dict(
    architectures=["NomicBertModel"], model_type="nomic_bert", hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=96, hidden_act="silu", layer_norm_eps=1e-12,
    max_position_embeddings=512, type_vocab_size=2, vocab_size=208, pad_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
)
ALIKE = ("architectures", "model_type", "type_vocab_size", "vocab_size")


def nomic_names(tensors: dict) -> dict:
    """The names of its checkpoints: fused Wqkv, fc11 (up), fc12 (gate), fc2, norm1, norm2."""
    parts = (("embeddings.LayerNorm", "emb_ln"), ("self_attn.o_proj", "attn.out_proj"),
             ("mlp.up_proj", "mlp.fc11"), ("mlp.gate_proj", "mlp.fc12"),
             ("mlp.down_proj", "mlp.fc2"), ("post_attention_layernorm", "norm1"),
             ("post_mlp_layernorm", "norm2"), ("layers.", "encoder.layers."))
    renamed = {}
    for name, value in tensors.items():
        if "self_attn.q_proj" in name:
            three = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name, value = name.replace("self_attn.q_proj", "attn.Wqkv"), mx.concatenate(three)
        elif "self_attn.k_proj" in name or "self_attn.v_proj" in name:
            continue
        for ours, theirs in parts:
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


OF_MODERN = [
    modern("modernbert-f32", "as gte-modernbert: cls, names without prefix, texts longer than the "
           "local window", modules=CLS),
    modern("modernbert-mlm-prefix-bf16", "as ModernBERT itself: names with model., head and decoder "
           "beside; four layers, so that two are global; mean; prompts",
           {"architectures": ["ModernBertForMaskedLM"], "num_hidden_layers": 4},
           auto="AutoModelForMaskedLM", dtype="bfloat16", modules=MEAN,
           prompts={"query": "search_query: ", "document": "search_document: "}),
    modern("modernbert-layer-types-biases-bf16", "as transformers 5 writes it: layer_types and "
           "rope_parameters; biases on norms, attention and the gated half",
           {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2,
            "norm_bias": True, "attention_bias": True, "mlp_bias": True, "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 80000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}},
           without=("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
           dtype="bfloat16", modules=MEAN),
    modern("modernbert-affine-4bit-g64", "4 bits, names with model.", {"intermediate_size": 128},
           dtype="bfloat16", modules=MEAN, lengths=(9, 10, 18, 70),
           stored=lambda tensors: {f"model.{name}": value for name, value in tensors.items()},
           quantization=affine(4)),
]
OF_NOMIC = [
    Case("nomic-bert-bf16", "nomic-embed v1.5's names with transformers' config: rotary BERT, SwiGLU, "
         "no biases but the norms'", NOMIC_OF_TRANSFORMERS, stored=nomic_names,
         dtype="bfloat16", tokenizer="wordpiece", lengths=(33, 70, 150), modules=MEAN,
         prompts={"search_query": "search_query: ", "search_document": "search_document: "}),
    Case("nomic-bert-own-config", "the same with the config that its checkpoints have", NOMIC,
         reference={key: None for key in NOMIC if key not in ALIKE}
         | {key: value for key, value in NOMIC_OF_TRANSFORMERS.items() if key not in ALIKE},
         loads=False, dtype="bfloat16", stored=nomic_names, tokenizer="wordpiece",
         lengths=(33, 70, 150), modules=MEAN, weights_of="nomic-bert-bf16"),
]
CASES = OF_MODERN + OF_NOMIC
