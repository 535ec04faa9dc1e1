"""What one case is, as data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Tensors = dict  # name to array

# What no family changes; each case says the rest of its config.json.
DECODER = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=96, hidden_act="silu", rms_norm_eps=1e-6, vocab_size=300,
    max_position_embeddings=512, rope_theta=1e6, tie_word_embeddings=True, eos_token_id=285,
    use_cache=False,
)
QUERY = "How long do roses in the garden stay open?"
DOCUMENTS = (
    "Roses in the old garden open before the sun is over the wall, and by noon they fade.",
    "Crabs walk sideways.",
    "the other cat was sleeping in the sun, there is nothing better than reading in the morning",
)
PAIRS = (*((QUERY, document) for document in DOCUMENTS), ("a", "b"), ("cat", ""))


@dataclass(frozen=True)
class Module:
    """A module of sentence-transformers: its folder, class and config.json."""

    path: str
    kind: str
    config: dict | None = None
    namespace: str = "sentence_transformers.models"
    kwargs: tuple = ()


def pooling(*modes: str, width: int = 64, **more) -> Module:
    """A Pooling module as most checkpoints have it: a flag for each way, several may be set."""
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens",
             "weightedmean_tokens", "lasttoken")
    unknown = set(modes) - set(flags)
    if unknown:
        raise ValueError(f"no such pooling: {unknown}")
    config = {"word_embedding_dimension": width}
    config |= {f"pooling_mode_{flag}": flag in modes for flag in flags} | {"include_prompt": True}
    return Module("1_Pooling", "Pooling", config | more)


def dense(path: str, inputs: int, outputs: int, bias=False, activation="Identity", **more) -> Module:
    names = {"Identity": "linear.Identity", "Tanh": "activation.Tanh", "GELU": "activation.GELU",
             "ReLU": "activation.ReLU"}
    return Module(path, "Dense", dict(
        in_features=inputs, out_features=outputs, bias=bias,
        activation_function=f"torch.nn.modules.{names[activation]}", **more,
    ))


def layer_norm(path: str, width: int) -> Module:
    return Module(path, "LayerNorm", dict(dimension=width))


def normalize(path: str) -> Module:
    return Module(path, "Normalize")


def pipeline(*modules: Module) -> tuple[Module, ...]:
    """The modules behind the transformer."""
    return Module("", "Transformer"), *modules


CLS, MEAN, LAST = (pipeline(pooling(mode), normalize("2_Normalize"))
                   for mode in ("cls_token", "mean_tokens", "lasttoken"))


def affine(bits: int) -> dict:
    """MLX's quantisation in the groups that most checkpoints have."""
    return {"group_size": 64, "bits": bits, "mode": "affine"}


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    config: dict  # config.json, spelled as checkpoints of this family spell it
    # Laid over the config for transformers, where it spells or knows things differently; None removes.
    reference: dict = field(default_factory=dict)
    loads: bool = True  # transformers reads the folder as it stands; the reference is then what it read
    auto: str = "AutoModel"  # the class of transformers that has this model
    dtype: str = "float32"
    pickled: bool = False  # weights are a file of torch.save, as before safetensors
    quantization: dict | None = None  # MLX's: group_size, bits, mode
    keeps: tuple = ()  # parts of names of matrices that stay dense beside quantised ones
    drawn: Callable[[Tensors], Tensors] | None = None  # random weights to this case's
    stored: Callable[[Tensors], Tensors] | None = None  # transformers' tensors to the file's
    tokenizer: str = "byte-level-end"
    appended: str | None = None  # an end token that the tokenizer leaves to the program
    lengths: tuple = ()  # texts of exactly these many tokens, beside the common ones
    texts: tuple = ()  # further texts
    pooling: str = "mean"  # without modules
    modules: tuple = ()
    max_seq_length: int | None = None
    max_tokens: int | None = None  # of late interaction, where no limit of its own holds
    prompts: dict = field(default_factory=dict)
    kind: str = "vector"  # or a head's: bge-m3, splade, late, labels, yes-no
    pairs: tuple = PAIRS
    extra: Callable | None = None  # writes further files: (case, folder, draw)
    more: dict = field(default_factory=dict)  # shapes of matrices beside transformers' own
    projected: bool = False  # pooling sees what the model itself makes of the final states
    encodes: bool = True  # sentence-transformers reads the folder, where transformers does
    behind: Callable | None = None  # (final states, values of `more`) to the states that pooling sees
    finish: Callable | None = None  # the same to a vector, where no module does it
    unit: bool = False  # what `finish` gives is a unit vector
    weights_of: str | None = None  # a case whose weights this one links to, since they are the same
    files: dict = field(default_factory=dict)  # further JSON files of the folder

    def transformers_config(self) -> dict:
        merged = self.config | self.reference
        return {key: value for key, value in merged.items() if value is not None}


def all_cases() -> list[Case]:
    from family import (
        decoders, embedding_gemma2, encoders, gemma, gte, mistral, modernbert, rerankers, sentence, t5,
    )

    tables = (decoders, encoders, gemma, modernbert, gte, mistral, embedding_gemma2, sentence, rerankers,
              t5)
    cases = [case for table in tables for case in table.CASES]
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError("two cases of one name")
    return cases


def root() -> Path:
    """Where the cases are."""
    return Path(__file__).resolve().parents[1] / "families"
