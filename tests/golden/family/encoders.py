"""BERT, RoBERTa and XLM-RoBERTa: norms behind each half, absolute positions, biases."""

from family.case import CLS, MEAN, Case, affine, dense, normalize, pipeline, pooling

BERT = dict(
    architectures=["BertModel"], model_type="bert", hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=128, hidden_act="gelu", layer_norm_eps=1e-12,
    vocab_size=208, type_vocab_size=2, max_position_embeddings=96, pad_token_id=0,
    position_embedding_type="absolute", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    initializer_range=0.02, use_cache=True,
)
ROBERTA = BERT | dict(
    architectures=["XLMRobertaModel"], model_type="xlm-roberta", vocab_size=200, type_vocab_size=1,
    layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2, max_position_embeddings=98,
    output_past=True,
)
DISTILBERT = dict(
    architectures=["DistilBertModel"], model_type="distilbert", dim=64, n_layers=2, n_heads=4,
    hidden_dim=128, activation="gelu", vocab_size=208, max_position_embeddings=96, pad_token_id=0,
    dropout=0.1, attention_dropout=0.1, qa_dropout=0.1, seq_classif_dropout=0.2,
    sinusoidal_pos_embds=False, initializer_range=0.02,
)
# More positions than distances that have a bucket, so that far ones share the last.
MPNET = BERT | dict(
    architectures=["MPNetModel"], model_type="mpnet", layer_norm_eps=1e-5, pad_token_id=1,
    bos_token_id=0, eos_token_id=2, max_position_embeddings=162, relative_attention_num_buckets=32,
)
del MPNET["type_vocab_size"], MPNET["position_embedding_type"]
# All positions of the table: 96 tokens.
LENGTHS = (31, 33, 64, 95, 96)
PAD_INSIDE = ("the <pad> cat", "<mask> in the garden")


def prefixed(prefix: str):
    return lambda tensors: {f"{prefix}{name}": value for name, value in tensors.items()}


def old_names(tensors: dict) -> dict:
    """As files from TensorFlow's days have them: bert., and gamma and beta in norms."""
    renamed = {}
    for name, value in tensors.items():
        if "LayerNorm" in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            name = name.replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[f"bert.{name}"] = value
    return renamed


def bert(name: str, about: str, config: dict | None = None, **fields) -> Case:
    defaults = dict(tokenizer="wordpiece", lengths=LENGTHS, modules=MEAN)
    return Case(name, about, BERT | (config or {}), **defaults | fields)


def xlm_roberta(name: str, about: str, config: dict | None = None, **fields) -> Case:
    defaults = dict(tokenizer="unigram", lengths=LENGTHS, modules=MEAN, texts=PAD_INSIDE)
    return Case(name, about, ROBERTA | (config or {}), **defaults | fields)


OF_BERT = [
    bert("bert-f32", "as all-MiniLM-L6-v2: no prefix, a pooler beside, mean, normalised",
         max_seq_length=96),
    bert("bert-padded-tokenizer-f32", "tokenizer.json wants 16 tokens, cut and filled up, as "
         "all-MiniLM-L6-v2's does; max_seq_length wins", tokenizer="wordpiece-padded",
         max_seq_length=96, lengths=(33, 96), weights_of="bert-f32"),
    bert("bert-prefix-cls-f16", "names with bert., an MLM head beside, cls as bge, f16, prompts",
         {"architectures": ["BertForMaskedLM"]}, auto="AutoModelForMaskedLM", dtype="float16",
         modules=CLS, prompts={"query": "Represent this sentence for searching relevant passages: ",
                               "document": ""}, lengths=(31, 64)),
    bert("bert-gamma-beta-bf16", "names with bert. and gamma, beta; bf16; no Normalize",
         dtype="bfloat16", stored=old_names, lengths=(31, 64),
         modules=pipeline(pooling("mean_tokens"))),
    bert("bert-pickled-f16", "pytorch_model.bin, with gamma and beta and the numbers of positions",
         {"num_hidden_layers": 1}, dtype="float16", stored=old_names, pickled=True, lengths=(31, 64)),
    bert("bert-without-modules-bf16", "no sentence-transformers files; gelu_new; one layer",
         {"num_hidden_layers": 1, "hidden_act": "gelu_new"}, modules=(), pooling="cls",
         lengths=(31,), dtype="bfloat16"),
    bert("bert-relu-bf16", "hidden_act relu, another epsilon",
         {"num_hidden_layers": 1, "hidden_act": "relu", "layer_norm_eps": 1e-5}, lengths=(31,),
         dtype="bfloat16"),
    bert("bert-head-dim-64-bf16", "head_dim 64, as bge-large",
         {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}, dtype="bfloat16",
         lengths=(33, 96),
         modules=pipeline(pooling("cls_token", width=128), normalize("2_Normalize"))),
    bert("bert-affine-4bit-g64", "MLX's 4 bits: linear layers and all three embeddings",
         dtype="bfloat16", quantization=affine(4), lengths=(31, 96)),
    bert("bert-affine-8bit-g64", "8 bits, f32 scales, a dense word embedding", dtype="float32",
         quantization=affine(8), keeps=("word_embeddings",), lengths=(31, 96)),
]
OF_XLM_ROBERTA = [
    xlm_roberta("xlm-roberta-f32", "as multilingual-e5: positions from the pad id on, <pad> in a "
                "text keeps the pad's position; mean; prompts",
                prompts={"query": "query: ", "passage": "passage: "}),
    xlm_roberta("xlm-roberta-prefix-cls-bf16", "names with roberta., cls as bge-m3",
                dtype="bfloat16", stored=prefixed("roberta."), modules=CLS, lengths=(33, 96)),
    xlm_roberta("xlm-roberta-affine-4bit-g64", "4 bits", dtype="bfloat16",
                quantization=affine(4), lengths=(33, 96)),
    xlm_roberta("roberta-dense-tanh-bf16", "model_type roberta, byte-level BPE; a Dense with "
                "bias and tanh, not normalised",
                {"architectures": ["RobertaModel"], "model_type": "roberta", "vocab_size": 288},
                tokenizer="roberta", lengths=(33, 96), texts=PAD_INSIDE, dtype="bfloat16",
                modules=pipeline(pooling("mean_tokens"), dense("2_Dense", 64, 48, bias=True,
                                                               activation="Tanh"))),
]


def distilbert(name: str, about: str, config: dict | None = None, **fields) -> Case:
    defaults = dict(tokenizer="wordpiece", lengths=(33, 96), modules=MEAN)
    return Case(name, about, DISTILBERT | (config or {}), **defaults | fields)


def mpnet(name: str, about: str, config: dict | None = None, **fields) -> Case:
    defaults = dict(tokenizer="mpnet", lengths=(33, 96, 159, 160), modules=MEAN, texts=PAD_INSIDE)
    return Case(name, about, MPNET | (config or {}), **defaults | fields)


OF_KIN = [
    xlm_roberta("camembert-bf16", "RoBERTa by another name; names with roberta.",
                {"architectures": ["CamembertModel"], "model_type": "camembert", "num_hidden_layers": 1},
                dtype="bfloat16", stored=prefixed("roberta."), lengths=(33, 96)),
    bert("electra-f32", "BERT with a width of embeddings, which is the layers' own; names with electra., "
         "the discriminator's head beside",
         {"architectures": ["ElectraForPreTraining"], "model_type": "electra", "embedding_size": 64,
          "num_hidden_layers": 1}, auto="AutoModelForPreTraining", lengths=(33, 96)),
    bert("electra-affine-4bit-g64", "4 bits", {"architectures": ["ElectraModel"], "model_type": "electra",
                                              "embedding_size": 64, "num_hidden_layers": 1},
         dtype="bfloat16", quantization=affine(4), lengths=(33, 96)),
    distilbert("distilbert-f32", "as msmarco-distilbert: no prefix, mean"),
    distilbert("distilbert-prefix-dense-bf16", "as distiluse: names with distilbert., an MLM head "
               "beside, a Dense with tanh; transformers' names of sizes",
               {"architectures": ["DistilBertForMaskedLM"], "hidden_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 4, "dim": 64},
               auto="AutoModelForMaskedLM", dtype="bfloat16",
               modules=pipeline(pooling("mean_tokens"), dense("2_Dense", 64, 48, bias=True,
                                                              activation="Tanh"))),
    distilbert("distilbert-affine-4bit-g64", "4 bits, activation relu", {"activation": "relu"},
               dtype="bfloat16", quantization=affine(4)),
    mpnet("mpnet-f32", "as all-mpnet-base-v2: numbers by distance on every score, positions from 2 "
          "on, <pad> in a text keeps row 1; a pooler beside; mean"),
    mpnet("mpnet-prefix-cls-f16", "names with mpnet., cls, head_dim 32, f16",
          {"num_attention_heads": 2}, dtype="float16", stored=prefixed("mpnet."), modules=CLS),
    mpnet("mpnet-head-dim-64-bf16", "head_dim 64 in bf16, texts longer than distances that have a bucket",
          {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 2,
           "num_hidden_layers": 2}, dtype="bfloat16", lengths=(33, 64, 160)),
    mpnet("mpnet-affine-4bit-g64", "4 bits; the table of distances is too narrow and stays dense",
          dtype="bfloat16", quantization=affine(4), lengths=(33, 160)),
]
CASES = OF_BERT + OF_XLM_ROBERTA + OF_KIN
