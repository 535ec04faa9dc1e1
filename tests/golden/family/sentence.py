"""What sentence-transformers puts behind the transformer: modules, token vectors, sparse vectors."""

import string
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import torch

from family.case import Case, Module, affine, dense, layer_norm, normalize, pipeline, pooling
from family.draw import draw
from family.encoders import BERT, DISTILBERT, MPNET, ROBERTA
from family.modernbert import MODERN

ONE_LAYER = BERT | {"num_hidden_layers": 1}
TWO_LAYERS = MODERN | {"num_hidden_layers": 2, "global_attn_every_n_layers": 2}
BASE = "modules-dense-activations"
HIDDEN = 64
TOKEN_WIDTH = 32


def bert(name: str, about: str, *modules: Module, **fields) -> Case:
    defaults = dict(tokenizer="wordpiece", lengths=(33,), dtype="bfloat16",
                    weights_of=None if name == BASE else BASE)
    return Case(name, about, ONE_LAYER, modules=pipeline(*modules), **defaults | fields)


MODULES = [
    bert(BASE, "cls, Dense with bias and GELU, Dense with ReLU, Normalize: 64 to 96 to 40",
         pooling("cls_token"), dense("2_Dense", 64, 96, bias=True, activation="GELU"),
         dense("3_Dense", 96, 40, bias=True, activation="ReLU"), normalize("4_Normalize")),
    bert("modules-dense-tanh-residual", "Dense with tanh, as distiluse; Dense with a residual of its "
         "own, without one of its own; no Normalize", pooling("mean_tokens"),
         dense("2_Dense", 64, 48, bias=True, activation="Tanh"),
         dense("3_Dense", 48, 48, use_residual=True), dense("4_Dense", 48, 32, use_residual=True)),
    bert("modules-dropout", "Dropout between pooling, Dense and Normalize, which does nothing",
         pooling("mean_tokens"), Module("2_Dropout", "Dropout", {"dropout": 0.5}),
         dense("3_Dense", 64, 24, bias=True), Module("4_Dropout", "Dropout", {"dropout": 0.5}),
         normalize("5_Normalize")),
    bert("modules-layer-norm", "LayerNorm behind the mean, then Normalize", pooling("mean_tokens"),
         layer_norm("2_LayerNorm", 64), normalize("3_Normalize")),
    bert("modules-normalize-before-dense", "Normalize stands before the last Dense: no unit vectors",
         pooling("mean_tokens"), normalize("2_Normalize"), dense("3_Dense", 64, 24, bias=True)),
    bert("pooling-max", "max over tokens", pooling("max_tokens"), normalize("2_Normalize")),
    bert("pooling-mean-sqrt-len", "sum by the root of the length", pooling("mean_sqrt_len_tokens")),
    bert("pooling-weighted-mean", "weights 1, 2, 3, ... as SGPT", pooling("weightedmean_tokens"),
         normalize("2_Normalize")),
    bert("pooling-all-joined", "all six ways in sentence-transformers' order, then Dense: 384 to 32",
         pooling("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens",
                 "weightedmean_tokens", "lasttoken"), dense("2_Dense", 384, 32),
         normalize("3_Normalize")),
    bert("pooling-cls-mean", "two ways joined, not normalised: 128", pooling("cls_token",
                                                                            "mean_tokens")),
    bert("pooling-without-prompt", "include_prompt false: tokens of the prompt, [CLS] too, are seen "
         "but not pooled", pooling("mean_tokens", include_prompt=False), normalize("2_Normalize"),
         prompts={"query": "represent the question: ", "document": ""}),
    Case("pooling-mode-by-name", "sentence-transformers 6's spelling: pooling_mode and "
         "embedding_dimension, its own class paths", ONE_LAYER, tokenizer="wordpiece", lengths=(33,),
         dtype="bfloat16", weights_of=BASE, pooling="mean+max",
         modules=(Module("", "Transformer",
                         namespace="sentence_transformers.base.modules.transformer"),
                  Module("1_Pooling", "Pooling", dict(embedding_dimension=HIDDEN,
                                                      pooling_mode=["mean", "max"],
                                                      include_prompt=True),
                         namespace="sentence_transformers.sentence_transformer.modules.pooling"),
                  Module("2_Normalize", "Normalize",
                         namespace="sentence_transformers.base.modules.normalize"))),
]


def bge_m3_heads(suffix: str):
    def write(case: Case, folder: Path) -> None:
        """Upstream's are PyTorch's pickles in a zip: state dicts of one linear layer each."""
        for name, outputs in (("sparse", 1), ("colbert", HIDDEN)):
            values = {part: draw(f"{name}_linear.{part}", shape)
                      for part, shape in (("weight", (outputs, HIDDEN)), ("bias", (outputs,)))}
            file = folder / f"{name}_linear{suffix}"
            if suffix == ".pt":
                torch.save({key: torch.from_numpy(value) for key, value in values.items()}, file)
            else:
                mx.save_safetensors(str(file), {key: mx.array(value) for key, value in values.items()},
                                    {"format": "pt"})
    return write


def bge_m3(name: str, about: str, suffix: str, **fields) -> Case:
    return Case(name, about, ROBERTA | {"num_hidden_layers": 1}, tokenizer="unigram",
                lengths=(33,), dtype="bfloat16", kind="bge-m3", pooling="cls",
                extra=bge_m3_heads(suffix), modules=pipeline(pooling("cls_token"),
                                                             normalize("2_Normalize")), **fields)


def splade_modules(config: dict, activation: str = "relu", strategy: str = "max") -> tuple[Module, Module]:
    pooled = dict(pooling_strategy=strategy, activation_function=activation,
                  word_embedding_dimension=config["vocab_size"])
    own = "sentence_transformers.sparse_encoder.models"
    return (Module("", "MLMTransformer", namespace=own),
            Module("1_SpladePooling", "SpladePooling", pooled, namespace=own))


def of_version_6(config: dict) -> dict:
    """One class for all models, which says elsewhere that it makes logits of masked tokens."""
    own = "sentence_transformers.sparse_encoder.modules.splade_pooling"
    first, second = splade_modules(config)
    return dict(
        modules=(replace(first, kind="Transformer",
                         namespace="sentence_transformers.base.modules.transformer"),
                 replace(second, namespace=own)),
        files=SPARSE_SETTINGS | {"sentence_bert_config.json": {
            "transformer_task": "fill-mask", "modality_config": {
                "text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "token_embeddings"}},
    )


def embeddings_of_decoder(tensors: dict) -> dict:
    """The tied matrix by the name under which transformers saves it."""
    names = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"}
    return {names.get(name, name): value for name, value in tensors.items()}


SPARSE_SETTINGS = {"config_sentence_transformers.json": {
    "model_type": "SparseEncoder", "prompts": {"query": "", "document": ""},
    "default_prompt_name": None, "similarity_fn_name": "dot"}}
OF_BERT = ONE_LAYER | {"architectures": ["BertForMaskedLM"]}


def splade(name: str, about: str, config: dict, **fields) -> Case:
    defaults = dict(auto="AutoModelForMaskedLM", tokenizer="wordpiece", lengths=(33,), dtype="bfloat16",
                    kind="splade", modules=splade_modules(config), files=SPARSE_SETTINGS)
    return Case(name, about, config, **defaults | fields)


SPARSE = [
    bge_m3("bge-m3-pickled-heads", "bge-m3's heads as upstream has them: .pt", ".pt"),
    bge_m3("bge-m3-safetensors-heads", "the same heads as safetensors", ".safetensors",
           weights_of="bge-m3-pickled-heads"),
    splade("splade-bert", "SPLADE: the MLM head, max over tokens of log(1 + relu)", OF_BERT),
    splade("splade-bert-without-modules", "the same, with config.json and weights only", OF_BERT,
           weights_of="splade-bert", modules=(), files={}),
    splade("splade-bert-version-6", "the same as sentence-transformers 6 saves it", OF_BERT,
           weights_of="splade-bert", **of_version_6(BERT)),
    splade("splade-bert-sum", "the sum over tokens, and the logarithm twice", OF_BERT,
           weights_of="splade-bert", modules=splade_modules(BERT, "log1p_relu", "sum")),
    splade("splade-bert-untied", "the head has a last matrix of its own, and that a bias, which is not "
           "the one beside it", OF_BERT | {"tie_word_embeddings": False}),
    splade("splade-xlm-roberta", "the head of XLM-RoBERTa: lm_head, whose bias is its own",
           ROBERTA | {"architectures": ["XLMRobertaForMaskedLM"], "num_hidden_layers": 1},
           tokenizer="unigram", stored=embeddings_of_decoder),
    splade("splade-distilbert-log1p", "as OpenSearch's: the head of DistilBERT, and the logarithm twice",
           DISTILBERT | {"architectures": ["DistilBertForMaskedLM"], "n_layers": 1},
           modules=splade_modules(DISTILBERT, "log1p_relu")),
    splade("splade-mpnet", "the head of MPNet, as RoBERTa's",
           MPNET | {"architectures": ["MPNetForMaskedLM"], "num_hidden_layers": 1}, tokenizer="mpnet"),
    splade("splade-modernbert", "the head of ModernBERT: no biases but the last matrix's, a local window",
           TWO_LAYERS | {"architectures": ["ModernBertForMaskedLM"]}, tokenizer="modernbert"),
    splade("splade-bert-affine-4bit-g64", "the embedding table, which is the head's last matrix, and the "
           "head's first in 4 bits", OF_BERT, modules=(), files={}, quantization=affine(4)),
]


def pylate(**settings) -> dict:
    return {"config_sentence_transformers.json": {
        "model_type": "ColBERT", "prompts": {}, "default_prompt_name": None,
        "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ", "document_prefix": "[D] ",
        "query_length": 16, "document_length": 48, "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation), "do_query_expansion": True,
    } | settings}


def late_dense(path: str, inputs: int, outputs: int, bias=False, use_residual=False) -> Module:
    return Module(path, "Dense", dict(
        in_features=inputs, out_features=outputs, bias=bias, use_residual=use_residual,
        activation_function="torch.nn.modules.linear.Identity"), namespace="pylate.models.Dense")


LATE_MODULES = pipeline(late_dense("1_Dense", HIDDEN, TOKEN_WIDTH))


def late(name: str, about: str, config: dict, **fields) -> Case:
    defaults = dict(tokenizer="wordpiece-markers", lengths=(33,), dtype="bfloat16", kind="late",
                    modules=LATE_MODULES)
    return Case(name, about, config, **defaults | fields)


LATE = [
    late("late-interaction-bert", "PyLate: markers of queries and documents, queries filled up with "
         "[MASK] that none sees, punctuation skipped in documents", ONE_LAYER, files=pylate()),
    late("late-interaction-bert-attended", "the same, but [MASK] is seen", ONE_LAYER, lengths=(),
         files=pylate(attend_to_expansion_tokens=True), weights_of="late-interaction-bert"),
    late("late-interaction-modernbert", "ModernBERT, queries as they are (no expansion), no skip "
         "list, texts longer than the local window", TWO_LAYERS,
         tokenizer="modernbert-markers", lengths=(18, 33),
         files=pylate(do_query_expansion=False, skiplist_words=[], query_length=48)),
    late("late-interaction-modernbert-expanded", "ModernBERT, [MASK] that none sees within the local "
         "window, two Dense modules, the second with a residual of its own",
         TWO_LAYERS | {"local_attention": 32}, tokenizer="modernbert-markers",
         modules=(*LATE_MODULES[:1], late_dense("1_Dense", HIDDEN, 96, bias=True),
                  late_dense("2_Dense", 96, TOKEN_WIDTH, use_residual=True)), files=pylate()),
    late("late-interaction-colbert", "ColBERT's own layout: linear.weight beside the encoder, "
         "[unused0] and [unused1], artifact.metadata", ONE_LAYER | {"architectures": ["HF_ColBERT"]},
         tokenizer="wordpiece-unused", loads=False, modules=(),
         stored=lambda tensors: {f"bert.{name}": value for name, value in tensors.items()},
         more={"linear.weight": (TOKEN_WIDTH, HIDDEN)}, files={"artifact.metadata": {
             "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_token": "[Q]",
             "doc_token": "[D]", "query_maxlen": 16, "doc_maxlen": 48, "dim": TOKEN_WIDTH,
             "mask_punctuation": True, "attend_to_mask_tokens": False, "similarity": "cosine",
             "interaction": "colbert"}}),
]
OWN_LATE = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask"
OWN = "sentence_transformers.base.modules"


def own_dense(path: str, inputs: int, outputs: int, bias=False) -> Module:
    """As version 6 saves it: with the names of what comes in and goes out."""
    return Module(path, "Dense", dict(
        in_features=inputs, out_features=outputs, bias=bias, use_residual=False,
        activation_function="torch.nn.modules.linear.Identity",
        module_input_name="token_embeddings", module_output_name="token_embeddings",
    ), namespace=f"{OWN}.dense")


def own_mask(path: str, *words: str, tasks=("document",)) -> Module:
    return Module(path, "MultiVectorMask", dict(
        skiplist_words=list(words), skiplist_tasks=list(tasks), keep_only_token_ids=None,
    ), namespace=OWN_LATE)


def own_normalize(path: str) -> Module:
    return Module(path, "Normalize", dict(
        module_input_name="token_embeddings", module_output_name="token_embeddings",
    ), namespace=f"{OWN}.normalize")


def version_6(prompts: dict, **settings) -> dict:
    return {
        "config_sentence_transformers.json": {
            "model_type": "MultiVectorEncoder", "prompts": prompts, "default_prompt_name": None,
            "similarity_fn_name": "maxsim"},
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction", "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings"} | settings,
    }


OWN_TRANSFORMER = Module("", "Transformer", namespace=f"{OWN}.transformer")
LATE += [
    late("late-interaction-version-6", "sentence-transformers 6's own layout: markers in the "
         "prompts, queries of one length, MultiVectorMask, Normalize", ONE_LAYER,
         tokenizer="wordpiece-special-markers", weights_of="late-interaction-bert",
         modules=(OWN_TRANSFORMER, own_dense("1_Dense", HIDDEN, TOKEN_WIDTH),
                  own_mask("2_MultiVectorMask", *string.punctuation), own_normalize("3_Normalize")),
         files=version_6({"query": "[Q] ", "document": "[D] "}, document_length=48,
                         query_expansion={"strategy": "fixed", "length": 16})),
    late("late-interaction-version-6-min", "the same, but short queries are filled up with a seen "
         "[SEP], long ones are as they are; a skip list of both sides; Normalize between two Dense "
         "modules and none behind; no limit of documents", ONE_LAYER,
         tokenizer="wordpiece", lengths=(18, 33), max_tokens=64, weights_of="late-interaction-bert",
         modules=(OWN_TRANSFORMER, own_dense("1_Dense", HIDDEN, 48, bias=True),
                  own_normalize("2_Normalize"), own_dense("3_Dense", 48, TOKEN_WIDTH),
                  own_mask("4_MultiVectorMask", ",", ".", "no such token",
                           tasks=("query", "document"))),
         files=version_6({"query": "question: ", "document": None, "passage": "passage: "},
                         query_length=40, max_seq_length=64, query_expansion={
                             "strategy": "min", "attend": True, "token": "[SEP]", "length": 12})),
]
CASES = MODULES + SPARSE + LATE
