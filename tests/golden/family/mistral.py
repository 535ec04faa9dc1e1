"""Mistral and Ministral 3: a window in every layer, queries scaled by position."""

from family.case import DECODER, LAST, MEAN, Case

AROUND_WINDOW = (15, 16, 17, 18, 33, 70, 150)
SHAPE = DECODER | dict(
    vocab_size=384, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=16, bos_token_id=1,
    eos_token_id=2, pad_token_id=2, tie_word_embeddings=False,
)
MISTRAL = dict(architectures=["MistralModel"], model_type="mistral") | SHAPE
del MISTRAL["head_dim"]
YARN = dict(rope_type="yarn", type="yarn", rope_theta=1e6, factor=4.0, beta_fast=32.0, beta_slow=1.0,
            mscale=1.0, mscale_all_dim=1.0, original_max_position_embeddings=32,
            llama_4_scaling_beta=0.1)
MINISTRAL = dict(architectures=["Ministral3Model"], model_type="ministral3") | SHAPE | dict(
    rope_parameters=YARN, max_position_embeddings=128, is_causal=False)
del MINISTRAL["rope_theta"]
INSTRUCT = {"web_search_query": "Instruct: Given a web search query, retrieve relevant passages that "
                                "answer the query\nQuery: "}


def case(name: str, about: str, config: dict, **fields) -> Case:
    defaults = dict(tokenizer="mistral", lengths=AROUND_WINDOW, dtype="bfloat16", modules=MEAN)
    return Case(name, about, config, **defaults | fields)


CASES = [
    case("mistral-sliding-window", "as e5-mistral: causal, every layer sees the last 16 tokens, last "
         "token", MISTRAL, modules=LAST, prompts=INSTRUCT),
    case("mistral-no-window", "sliding_window null", MISTRAL | {"sliding_window": None},
         modules=LAST, lengths=(17, 70), weights_of="mistral-sliding-window"),
    case("mistral-is-causal-false", "is_causal false with a window: 16 tokens on each side",
         MISTRAL | {"is_causal": False}, lengths=(*AROUND_WINDOW, 34),
         weights_of="mistral-sliding-window"),
    case("ministral3-is-causal-false", "as Nemotron-3-Embed: bidirectional, YaRN, queries grow with "
         "the logarithm of their position in units of 32; no window",
         MINISTRAL | {"sliding_window": None}, lengths=(31, 32, 33, 34, 63, 65, 66, 120)),
    case("ministral3-is-causal-false-window", "the same with a window: 16 tokens on each side",
         MINISTRAL, lengths=(16, 17, 18, 33, 70, 120), weights_of="ministral3-is-causal-false"),
    case("ministral3-causal-window-f32", "causal, the last 16 tokens",
         MINISTRAL | {"is_causal": True, "num_hidden_layers": 1}, dtype="float32", modules=LAST,
         lengths=(16, 17, 33, 70, 120)),
]
