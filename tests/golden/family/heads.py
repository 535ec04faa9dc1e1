"""What stands beside a vector or in its place: vectors of tokens, sparse vectors, scores of pairs.

Each head is made of a case and its folder, and called with a text's entry, its final hidden states
and what the model's call gave; it returns tensors by name. Where sentence-transformers reads the
folder, its own result is held against the formula's.
"""

import string
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder

from family.case import Case, Module

OPTIONS = {"dtype": torch.float32, "attn_implementation": "eager"}
SAFETENSORS, PICKLE = ".safetensors", ".pt"
SETTINGS = "config_sentence_transformers.json"


def tensors(inputs: dict) -> dict:
    """Lists to a batch of one; what is None is left out."""
    return {name: torch.tensor([value]) for name, value in inputs.items() if value is not None}


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def agree(what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape or np.abs(ours - theirs).max() > 2e-6 * max(1, np.abs(ours).max()):
        raise ValueError(f"{what}: sentence-transformers gives another result")


class Lexical:
    """bge-m3: a vector (cls), sparse weights of token ids, vectors of tokens.

    sparse = relu(hidden W + b), the largest of each token id, without <s>, <pad>, </s> and <unk>;
    tokens = hidden V + c of every token but the first, as unit vectors.
    """

    facts = {"outputs": ["vector", "sparse", "tokens"], "normalized": True}
    LEFT_OUT = (0, 1, 2, 3)

    def __init__(self, case: Case, folder: Path):
        self.sparse, self.colbert = (self.linear(folder, name) for name in ("sparse", "colbert"))
        self.vocab = case.config["vocab_size"]

    @staticmethod
    def linear(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
        file = folder / f"{name}_linear{SAFETENSORS}"
        state = (load_file(file) if file.exists()
                 else torch.load(file.with_suffix(PICKLE), weights_only=True))
        return state["weight"].float().numpy(), state["bias"].float().numpy()

    def __call__(self, entry: dict, final: np.ndarray, _output) -> dict:
        final = final.astype(np.float64)
        weight, bias = self.sparse
        of_tokens = np.maximum(final @ weight.T + bias, 0)[:, 0]
        sparse = np.zeros(self.vocab)
        for token, value in zip(entry["ids"], of_tokens, strict=True):
            if token not in self.LEFT_OUT:
                sparse[token] = max(sparse[token], value)
        weight, bias = self.colbert
        return {"embedding": unit(final[:1]), "sparse": sparse,
                "tokens": unit(final[1:] @ weight.T + bias)}


class Splade:
    """The largest log(1 + relu(logit)) over all tokens, or their sum, of each entry of the vocabulary;
    the logarithm once or twice."""

    facts = {"outputs": ["sparse"]}

    def __init__(self, case: Case, folder: Path):
        self.encoder = None
        settings = [module.config or {} for module in case.modules]
        self.twice = any(of.get("activation_function") == "log1p_relu" for of in settings)
        self.sums = any(of.get("pooling_strategy") == "sum" for of in settings)
        if case.modules:
            self.encoder = SparseEncoder(str(folder), device="cpu", model_kwargs=OPTIONS,
                                         local_files_only=True)

    def __call__(self, entry: dict, _final, output) -> dict:
        sparse = np.log1p(np.maximum(output.logits[0].numpy(), 0))
        sparse = np.log1p(sparse) if self.twice else sparse
        sparse = sparse.sum(0) if self.sums else sparse.max(0)
        if self.encoder is not None:
            theirs = self.encoder.encode([entry["text"]], convert_to_sparse_tensor=False)
            agree(entry["text"], sparse, np.asarray(theirs[0]))
        return {"sparse": sparse}


class Late:
    """Late interaction, PyLate's, ColBERT's or sentence-transformers' own: modules on each token.

    A query is filled up with a token, [MASK] mostly, which sees the real tokens, and is seen by none
    unless the settings say so. A document loses the tokens of the skip list.
    """

    def __init__(self, case: Case, folder: Path):
        self.steps = [step(module, folder) for module in case.modules[1:]]
        if not case.modules:  # ColBERT's one matrix
            self.steps = [dense_step(load_file(folder / "model.safetensors"), False)]
        if not is_version_6(case):
            self.steps.append(unit)
        self.encoder = MultiVectorEncoder(str(folder), device="cpu", model_kwargs=OPTIONS,
                                          local_files_only=True)
        # MaxSim of each query with each document, [queries, documents] in the order of `texts`.
        self.facts = {"outputs": ["tokens"], "maxsim": []}
        self.of = {"query": [], "document": []}

    def __call__(self, entry: dict, final: np.ndarray, _output) -> dict:
        vectors = np.ascontiguousarray(final).astype(np.float64)
        for each in self.steps:
            vectors = each(vectors)
        vectors = vectors[entry["kept"]]
        text = [entry["text"]]
        whole = (self.encoder.encode_query(text) if entry["side"] == "query"
                 else self.encoder.encode_document(text))
        agree(entry["text"], vectors, np.asarray(whole[0]))
        self.of[entry["side"]].append(vectors)
        self.facts["maxsim"] = [[round(float((query @ document.T).max(1).sum()), 6)
                                 for document in self.of["document"]] for query in self.of["query"]]
        return {"tokens": vectors}


def dense_step(state: dict, residual: bool):
    state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def step(vectors: np.ndarray) -> np.ndarray:
        added = vectors @ state["residual.weight"].T if residual else 0
        return vectors @ state["linear.weight"].T + state.get("linear.bias", 0) + added
    return step


def step(module: Module, folder: Path):
    """What a module makes of each token's state."""
    if module.kind == "Dense":
        state = load_file(folder / module.path / "model.safetensors")
        return dense_step(state, module.config["use_residual"])
    return unit if module.kind == "Normalize" else lambda vectors: vectors


def is_version_6(case: Case) -> bool:
    settings = case.files.get("config_sentence_transformers.json", {})
    return settings.get("model_type") == "MultiVectorEncoder"


def late_sides(case: Case) -> dict[str, dict]:
    """How each side is read: marker and prompt, most tokens, skipped words, filling."""
    if is_version_6(case):
        return sides_of_version_6(case)
    settings = late_settings(case)
    sides = {side: {"marker": settings[f"{side}_prefix"], "prompt": "", "skipped": [],
                    "most": settings[f"{side}_length"], "fill": None}
             for side in ("query", "document")}
    sides["document"]["skipped"] = settings["skiplist_words"]
    if settings["do_query_expansion"]:
        sides["query"]["fill"] = {"token": "[MASK]", "length": settings["query_length"],
                                  "attend": settings["attend_to_expansion_tokens"]}
    return sides


def sides_of_version_6(case: Case) -> dict[str, dict]:
    transformer = case.files["sentence_bert_config.json"]
    prompts = case.files["config_sentence_transformers.json"]["prompts"]
    mask = next(module.config for module in case.modules if module.kind == "MultiVectorMask")
    fill = transformer.get("query_expansion")
    most = {side: transformer.get(f"{side}_length") or case.max_tokens for side in
            ("query", "document")}
    if fill is not None:
        fill = {"token": "[MASK]", "attend": False} | fill
        most["query"] = fill["length"] if fill["strategy"] == "fixed" else most["query"]
    return {side: {"marker": None, "prompt": prompts.get(side) or "", "most": most[side],
                   "skipped": mask["skiplist_words"] if side in mask["skiplist_tasks"] else [],
                   "fill": fill if side == "query" else None}
            for side in ("query", "document")}


def late_settings(case: Case) -> dict:
    """PyLate's settings, or ColBERT's by their names."""
    if case.modules:
        return case.files["config_sentence_transformers.json"]
    metadata = case.files["artifact.metadata"]
    names = {"query_token_id": "query_prefix", "doc_token_id": "document_prefix",
             "query_maxlen": "query_length", "doc_maxlen": "document_length",
             "attend_to_mask_tokens": "attend_to_expansion_tokens"}
    skipped = list(string.punctuation) if metadata["mask_punctuation"] else []
    return {names[key]: value for key, value in metadata.items() if key in names} | {
        "do_query_expansion": True, "skiplist_words": skipped}


def late_entries(case: Case, encoder, listed: list[str]) -> list[dict]:
    """Every text as a query and as a document, as far as they fit."""
    tokenizer = encoder.tokenizer
    found = []
    for side, how in late_sides(case).items():
        skipped = {tokenizer.convert_tokens_to_ids(word) for word in how["skipped"]}
        for text in listed:
            ids = encoder(how["prompt"] + text)
            if how["marker"] is not None:
                ids.insert(1, tokenizer.convert_tokens_to_ids(how["marker"]))
            if len(ids) > how["most"]:
                continue
            entry = {"text": text, "prompt_name": None, "prompt": how["marker"] or how["prompt"],
                     "side": side, "ids": ids}
            if how["fill"] is not None:
                hidden = max(how["fill"]["length"] - len(ids), 0)
                sees = 1 if how["fill"]["attend"] else 0
                entry["ids"] = ids + [tokenizer.convert_tokens_to_ids(how["fill"]["token"])] * hidden
                entry["attention_mask"] = [1] * len(ids) + [sees] * hidden
            entry["kept"] = [i for i, token in enumerate(entry["ids"]) if token not in skipped]
            found.append(entry)
    return found


class Labels:
    """A sequence classifier's one label: the logit, and what the activation makes of it."""

    def __init__(self, case: Case, folder: Path):
        settings = case.files.get(SETTINGS, case.config.get("sentence_transformers", {}))
        named = settings.get("activation_fn", "")
        self.identity = named.endswith("Identity")
        self.facts = {"outputs": ["score"], "activation": "identity" if self.identity else "sigmoid"}
        self.encoder = None
        if case.loads and not case.quantization:
            self.encoder = CrossEncoder(str(folder), device="cpu", model_kwargs=OPTIONS,
                                        local_files_only=True)

    def logit(self, _final, output) -> np.ndarray:
        return output.logits[0].numpy()

    def __call__(self, entry: dict, final, output) -> dict:
        logit = self.logit(final, output).astype(np.float64)
        score = logit if self.identity else 1 / (1 + np.exp(-logit))
        if self.encoder is not None:
            theirs = self.encoder.predict([(entry["query"], entry["text"])])
            agree(entry["text"], score, np.asarray(theirs).reshape(-1))
        return {"logits": logit, "score": score}


class ModuleLabels(Labels):
    """The one label that sentence-transformers' own modules make behind a model without a head."""

    def __init__(self, case: Case, folder: Path):
        super().__init__(case, folder)
        self.modules = list(self.encoder)[1:]

    def logit(self, final, _output) -> np.ndarray:
        features = {"token_embeddings": torch.from_numpy(np.ascontiguousarray(final))[None],
                    "attention_mask": torch.ones((1, len(final)), dtype=torch.int64)}
        with torch.no_grad():
            for module in self.modules:
                features = module.float()(features)
        return features["scores"][0].numpy()


JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    "the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n"
    "<|im_start|>user\n"
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class YesNo:
    """Qwen3-Reranker: softmax of the logits of "no" and "yes" behind the last token."""

    def __init__(self, case: Case, folder: Path):
        from family.tokenization import Encoder, folder as tokenizer_folder

        tokenizer = Encoder(tokenizer_folder(folder.parent, case.tokenizer)).tokenizer
        self.rows = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
        self.facts = {"outputs": ["score"], "activation": "softmax", "no": self.rows[0],
                      "yes": self.rows[1], "prefix": JUDGE, "suffix": ANSWER,
                      "instruction": INSTRUCTION}

    def __call__(self, entry: dict, _final, output) -> dict:
        logits = output.logits[0, -1, self.rows].numpy().astype(np.float64)
        return {"logits": logits, "score": 1 / (1 + np.exp(logits[:1] - logits[1:]))}


def pair_entries(case: Case, encoder) -> list[dict]:
    found = []
    for query, document in case.pairs:
        entry = {"text": document, "query": query, "prompt_name": None, "prompt": ""}
        if case.kind == "yes-no":
            body = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
            entry["ids"] = [token for part in (JUDGE, body, ANSWER) for token in encoder.bare(part)]
        else:
            entry["ids"], types = encoder.pair(query, document)
            if any(types) and case.config.get("type_vocab_size", 0) > 1:
                entry["token_type_ids"] = types
        found.append(entry)
    return found


HEADS = {"bge-m3": Lexical, "splade": Splade, "late": Late, "labels": Labels, "module-labels": ModuleLabels, "yes-no": YesNo}


def of(case: Case, folder: Path):
    return HEADS[case.kind](case, folder) if case.kind in HEADS else None
