"""The text part of EmbeddingGemma 2."""

from family.case import Case, Tensors, affine, normalize, pipeline, pooling

# sliding_window is a radius: eight tokens on each side.
AROUND_WINDOW = (9, 10, 11, 17, 18, 33, 70, 150)
TEXT = dict(
    model_type="embedding_gemma2_text", hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, head_dim=16, embedding_dim=96,
    hidden_activation="gelu_pytorch_tanh", hidden_size_per_layer_input=32, rms_norm_eps=1e-6,
    sliding_window=8, vocab_size=384, max_position_embeddings=512, attention_bias=False,
    pad_token_id=0, eos_token_id=1, bos_token_id=2,
    layer_types=["sliding_attention", "full_attention"],
    per_layer_config={"1": {"head_dim": 32, "num_key_value_heads": 1}},
    rope_parameters={
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25,
                           "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
)
# What images and sound need: it has to be passed over by name.
OTHER_TOWERS = {
    "vision_tower.patch_embedder.input_proj.weight": (8, 8),
    "embed_vision.embedding_projection.weight": (64, 8),
    "audio_tower.output_proj.weight": (8, 8),
    "embed_audio.embedding_projection.weight": (64, 8),
}
MODULES = pipeline(pooling("mean_tokens", width=96), normalize("2_Normalize"))


def config(**text) -> dict:
    return dict(
        architectures=["EmbeddingGemma2Model"], model_type="embedding_gemma2",
        text_config={key: value for key, value in (TEXT | text).items() if value is not None},
        vision_config=None, audio_config=None, image_token_id=380,
        video_token_id=381, audio_token_id=382, boi_token_id=376, eoi_token_id=377,
        boa_token_id=378, eoa_token_index=379,
    )


def case(name: str, about: str, settings: dict, **fields) -> Case:
    defaults = dict(tokenizer="gemma", lengths=AROUND_WINDOW, modules=MODULES, projected=True,
                    encodes=False, more=OTHER_TOWERS)
    return Case(name, about, settings, **defaults | fields)


def softer(tensors: Tensors) -> Tensors:
    """Of wide heads scores, which nothing divides, would be so large that each token sees one other."""
    norms = ("q_norm.weight", "k_norm.weight")
    return {name: value / 4 if name.endswith(norms) else value for name, value in tensors.items()}


def wide_heads(name: str, hidden_size: int, **fields) -> Case:
    return case(name, "heads as wide as the published model's, 256 and 512", config(
        hidden_size=hidden_size, intermediate_size=32, hidden_size_per_layer_input=8, head_dim=256,
        num_key_value_heads=1, per_layer_config={"1": {"head_dim": 512}}),
                drawn=softer, lengths=(10, 33, 70, 150), **fields)


CASES = [
    case("embedding-gemma2-f32", "full layers with another head_dim and one KV head, rotary in a "
         "quarter of it; inputs of each layer; layer_scalar; a projection for every token; tensors "
         "of other towers beside", config(),
         prompts={"query": "task: search result | query: ", "document": "title: none | text: "}),
    case("embedding-gemma2-bf16", "full layers by sliding_window_pattern, "
         "global_head_dim and num_global_key_value_heads; rotary in all of a head",
         config(layer_types=None, per_layer_config=None, sliding_window_pattern=2,
                global_head_dim=32, num_global_key_value_heads=1, rope_parameters={
                    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
         dtype="bfloat16"),
    case("embedding-gemma2-affine-8bit-g64", "8 bits", config(
        hidden_size_per_layer_input=64, intermediate_size=128), dtype="bfloat16",
         quantization=affine(8), lengths=(9, 10, 18, 70)),
    wide_heads("embedding-gemma2-head-dim-512-f32", 16),
    wide_heads("embedding-gemma2-head-dim-512-bf16", 32, dtype="bfloat16"),
]
