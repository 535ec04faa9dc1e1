"""T5's encoder: norms before each half, scores with a bias by distance."""

from family.case import MEAN, Case, affine, dense, normalize, pipeline, pooling

T5 = dict(
    architectures=["T5EncoderModel"], model_type="t5", d_model=64, d_kv=16, d_ff=96, num_layers=2,
    num_heads=4, feed_forward_proj="relu", layer_norm_epsilon=1e-6, n_positions=512,
    relative_attention_num_buckets=32, relative_attention_max_distance=128, vocab_size=200,
    is_encoder_decoder=True, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    dropout_rate=0.1, initializer_factor=1.0, use_cache=True,
)
# As sentence-t5 and gtr: a Dense without a bias.
MODULES = pipeline(pooling("mean_tokens"), dense("2_Dense", 64, 48), normalize("3_Normalize"))
# On both sides of what has a bucket of its own, and of the last bucket.
LENGTHS = (9, 17, 128, 130, 160)


def whole(tensors: dict) -> dict:
    """With the table once more, and something of a decoder."""
    return tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"],
                      "decoder.final_layer_norm.weight": tensors["encoder.final_layer_norm.weight"]}


def t5(name: str, about: str, config: dict | None = None, **fields) -> Case:
    defaults = dict(tokenizer="t5", lengths=LENGTHS, modules=MODULES, auto="AutoModelForTextEncoding")
    return Case(name, about, T5 | (config or {}), **defaults | fields)


CASES = [
    t5("t5-f32", "as sentence-t5: ReLU, mean, a Dense, normalised"),
    t5("t5-gated-bf16", "as T5 1.1: GELU behind a gate, heads wider together than the hidden states; the "
       "decoder's tensors beside",
       {"architectures": ["T5ForConditionalGeneration"], "feed_forward_proj": "gated-gelu", "d_kv": 32},
       dtype="bfloat16", lengths=(33, 150), stored=whole),
    t5("t5-affine-4bit-g64", "4 bits, the table of distances too", {"d_ff": 128}, dtype="bfloat16",
       quantization=affine(4), modules=MEAN, lengths=(33, 150)),
]
