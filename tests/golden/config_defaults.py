"""What transformers takes where config.json lacks a key, into mlx-embed/src/checkpoint/defaults.json.

config_defaults.py --check compares instead. README.md says what to install.
"""

import json
import sys
from pathlib import Path

import transformers

FILE = Path(__file__).resolve().parents[2] / "mlx-embed/src/checkpoint/defaults.json"
KINDS = ("bert", "camembert", "distilbert", "electra", "eurobert", "gemma", "gemma3_text", "gte",
         "jina_embeddings_v3", "llama", "ministral3", "mistral", "modernbert", "mpnet", "nomic_bert", "qwen2",
         "qwen3", "roberta", "xlm-roberta")
KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_dim", "vocab_size",
        "max_position_embeddings", "type_vocab_size", "embedding_size", "num_key_value_heads", "rms_norm_eps")


def defaults(kind: str) -> dict:
    config = transformers.CONFIG_MAPPING[kind]()
    # As many key and value heads as others are no number of their own.
    given = {key: getattr(config, key) for key in KEYS if hasattr(config, key)}
    own = type(config).num_key_value_heads if "num_key_value_heads" in given else None
    return {key: value for key, value in given.items() if key != "num_key_value_heads" or own is not None}


def main() -> int:
    lines = ",\n".join(f'  "{kind}": {json.dumps(defaults(kind))}' for kind in KINDS)
    made = f"{{\n{lines}\n}}\n"
    if sys.argv[1:] == ["--check"]:
        same = FILE.read_text() == made
        print("as committed" if same else f"{FILE.name} differs")
        return 0 if same else 1
    FILE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
