"""Rerankers: scores of pairs."""

from family.case import DECODER, Case, affine, dense, layer_norm, pipeline, pooling
from family.encoders import BERT, DISTILBERT, MPNET, ROBERTA
from family.modernbert import MODERN

ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity",
                                      "version": "4.1.0"}}
SMALL = {"max_position_embeddings": 200, "num_hidden_layers": 1}
QWEN3 = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3") | DECODER | dict(
    num_hidden_layers=1, max_position_embeddings=1024, vocab_size=320)


def classifier(name: str, about: str, config: dict, **fields) -> Case:
    defaults = dict(auto="AutoModelForSequenceClassification", dtype="bfloat16", kind="labels",
                    tokenizer="wordpiece")
    return Case(name, about, config | ONE_LABEL, **defaults | fields)


def qwen3(name: str, about: str, config: dict | None = None, **fields) -> Case:
    defaults = dict(auto="AutoModelForCausalLM", dtype="bfloat16", kind="yes-no",
                    tokenizer="byte-level-yes-no")
    return Case(name, about, QWEN3 | (config or {}), **defaults | fields)


OF_VERSION_5 = {"config_sentence_transformers.json": {
    "__version__": {"sentence_transformers": "5.5.0"}, "activation_fn": "torch.nn.modules.activation.Sigmoid",
    "default_prompt_name": None, "model_type": "CrossEncoder", "prompts": {}},
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction", "module_output_name": "token_embeddings", "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}}}}
SCORES = {"module_input_name": "sentence_embedding", "module_output_name": "scores"}


def by_modules(name: str, about: str, config: dict, *modules, **fields) -> Case:
    """A model without a head, and modules that make the score."""
    defaults = dict(dtype="bfloat16", kind="module-labels", files=OF_VERSION_5)
    return Case(name, about, config, modules=pipeline(*modules), **defaults | fields)


OF_BERT = BERT | SMALL | {"architectures": ["BertForSequenceClassification"]}
MODERNBERT = MODERN | {"architectures": ["ModernBertForSequenceClassification"],
                      "num_hidden_layers": 2}
CASES = [
    classifier("reranker-bert-identity", "as ms-marco-MiniLM: pooler with tanh, one label, raw "
               "logits; token types of the pair", OF_BERT | IDENTITY),
    classifier("reranker-bert-sigmoid", "the same without a word on the activation: sigmoid",
               OF_BERT, weights_of="reranker-bert-identity"),
    classifier("reranker-bert-affine-4bit-g64", "4 bits, pooler too; the classifier has one row",
               OF_BERT, quantization=affine(4)),
    classifier("reranker-xlm-roberta", "as bge-reranker-v2-m3: dense with tanh, then one label; "
               "</s></s> between", ROBERTA | SMALL | {
                   "architectures": ["XLMRobertaForSequenceClassification"]},
               tokenizer="unigram"),
    classifier("reranker-electra", "as ms-marco-electra-base: dense with GELU, then one label",
               OF_BERT | {"architectures": ["ElectraForSequenceClassification"], "model_type": "electra",
                          "embedding_size": 64}),
    classifier("reranker-modernbert-mean", "as gte-reranker-modernbert: mean, then dense, GELU, norm "
               "and one label", MODERNBERT,
               tokenizer="modernbert"),
    classifier("reranker-modernbert-cls", "classifier_pooling cls",
               MODERNBERT | {"classifier_pooling": "cls"},
        tokenizer="modernbert", weights_of="reranker-modernbert-mean"),
    classifier("reranker-distilbert", "pre_classifier with relu, then one label; no token types",
               DISTILBERT | {"architectures": ["DistilBertForSequenceClassification"],
                             "max_position_embeddings": 200, "n_layers": 1}),
    classifier("reranker-mpnet", "dense with tanh, then one label", MPNET | SMALL | {
        "architectures": ["MPNetForSequenceClassification"]}, tokenizer="mpnet"),
    by_modules("reranker-modules-modernbert", "as ettin-reranker: cls, Dense with GELU, LayerNorm, and a "
               "Dense to the score", MODERN | {"num_hidden_layers": 2}, pooling("cls_token"),
               dense("2_Dense", 64, 64, activation="GELU"), layer_norm("3_LayerNorm", 64),
               dense("4_Dense", 64, 1, bias=True, **SCORES), tokenizer="modernbert"),
    by_modules("reranker-modules-bert", "mean and one Dense; token types of the pair; sigmoid, as no file says "
               "more", BERT | SMALL, pooling("mean_tokens"), dense("2_Dense", 64, 1, **SCORES), tokenizer="wordpiece",
               files=OF_VERSION_5 | {"config_sentence_transformers.json": {"model_type": "CrossEncoder"}}),
    qwen3("reranker-qwen3-tied", "Qwen3-Reranker: yes and no at the last position, tied head"),
    qwen3("reranker-qwen3-untied-affine-4bit-g64", "an lm_head of its own, all in 4 bits",
          {"tie_word_embeddings": False, "intermediate_size": 128}, quantization=affine(4)),
]
