"""Models with the geometry of published ones and random weights, by transformers.

`geometries.py FOLDER NAME DTYPE` writes one as sentence-transformers lays it out; DTYPE is torch's name. Its tokenizer knows the words t0, t1, ..
and adds nothing, so that a text has whichever token ids are wanted.
"""

import json
import shutil
import sys
from pathlib import Path

QWEN3 = dict(hidden_size=1024, num_hidden_layers=28, intermediate_size=3072, num_attention_heads=16,
             num_key_value_heads=8, head_dim=128, vocab_size=151669, rope_theta=1e6)
MINILM = dict(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_attention_heads=12, vocab_size=30522,
              max_position_embeddings=512)
GEMMA = dict(hidden_size=768, num_hidden_layers=24, intermediate_size=1152, num_attention_heads=3,
             num_key_value_heads=1, head_dim=256, vocab_size=262144, max_position_embeddings=2048,
             query_pre_attn_scalar=256, sliding_window=512, use_bidirectional_attention=True,
             layer_types=["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(24)])
# Of each: transformers' names of its configuration and model, what they are made of, the sizes of the Dense modules
# behind pooling, and which vector of a text is taken.
GEOMETRIES = {
    "qwen3-0.6b": ("Qwen3Config", "Qwen3Model", QWEN3, [], "lasttoken"),
    "minilm": ("BertConfig", "BertModel", MINILM, [], "mean"),
    "embeddinggemma-300m": ("Gemma3TextConfig", "Gemma3TextModel", GEMMA, [(768, 3072), (3072, 768)], "mean"),
}


class Geometry:
    def __init__(self, name: str, dtype: str):
        self.name, self.dtype = name, dtype
        self.config, self.model, self.fields, self.dense, self.pooling = GEOMETRIES[name]
        self.vocabulary = self.fields["vocab_size"]

    def build(self) -> tuple:
        """The transformer and the Dense modules behind it, on the CPU."""
        import torch
        import transformers

        torch.manual_seed(0)
        options = {"add_pooling_layer": False} if self.model == "BertModel" else {}
        transformer = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.fields), **options)
        dense = [torch.nn.Linear(inputs, outputs, bias=False) for inputs, outputs in self.dense]
        dtype = getattr(torch, self.dtype)
        return transformer.to(dtype).eval(), torch.nn.Sequential(*dense).to(dtype).eval()

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        transformer, dense = self.build()
        transformer.save_pretrained(partial)
        paths = [("", "Transformer"), ("1_Pooling", "Pooling")]
        modes = {f"pooling_mode_{mode}": mode == self.pooling for mode in ("lasttoken", "mean")}
        modes["pooling_mode_mean_tokens"] = modes.pop("pooling_mode_mean")
        files = {"1_Pooling/config": {"word_embedding_dimension": self.fields["hidden_size"], **modes}}
        for number, layer in enumerate(dense, 2):
            path = f"{number}_Dense"
            paths.append((path, "Dense"))
            files[f"{path}/config"] = {
                "in_features": layer.in_features, "out_features": layer.out_features, "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
            (partial / path).mkdir()
            save_file({"linear.weight": layer.weight.detach()}, partial / path / "model.safetensors")
        paths.append((f"{len(paths)}_Normalize", "Normalize"))
        files["modules"] = [{"idx": number, "name": str(number), "path": path,
                             "type": f"sentence_transformers.models.{kind}"} for number, (path, kind) in enumerate(paths)]
        files["tokenizer"] = {
            "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(self.vocabulary)}, "unk_token": "t0"},
        }
        # Else transformers would add tokens of its own.
        files["tokenizer_config"] = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "t0"}
        (partial / "1_Pooling").mkdir()
        for name, value in files.items():
            (partial / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
        partial.rename(folder)


def main() -> None:
    Geometry(*sys.argv[2:]).write(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
