"""Other runtimes on an NVIDIA GPU, one a process: workers.py KIND GEOMETRY DTYPE. Answers each line {"batch": B, "tokens": T} on
standard input with {"ms": ..}, the time from token ids on the host to normalised vectors on the host; sentence-transformers'
from texts of so many tokens."""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from geometries import QWEN3, Geometry


def torch_model(kind: str, geometry: Geometry):
    import torch
    from torch.nn import functional

    model, dense = (part.cuda() for part in geometry.build())
    if kind == "flash":
        model.set_attn_implementation("flash_attention_2")
    arguments = {"use_cache": False} if geometry.name == "qwen3-0.6b" else {}
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False) if kind == "compile" else model
    graphs = {}

    def forward(ids):
        hidden = compiled(ids, **arguments).last_hidden_state
        pooled = hidden.mean(1) if geometry.pooling == "mean" else hidden[:, -1]
        return functional.normalize(dense(pooled).float(), dim=-1)

    def graph(shape):
        if shape not in graphs:
            ids = torch.zeros(shape, dtype=torch.int64, device="cuda")
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    forward(ids)
            torch.cuda.current_stream().wait_stream(stream)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                out = forward(ids)
            graphs[shape] = (captured, ids, out)
        return graphs[shape]

    def embed(ids):
        with torch.no_grad():
            if kind == "graph":
                captured, place, out = graph(tuple(ids.shape))
                place.copy_(ids)
                captured.replay()
                return out.cpu()
            return forward(ids.cuda()).cpu()

    def random_ids(batch, tokens):
        return torch.randint(0, geometry.vocabulary, (batch, tokens))

    import transformers
    return embed, random_ids, f"torch {torch.__version__}, transformers {transformers.__version__}"


def sentence_transformers_model(_kind: str, geometry: Geometry):
    import sentence_transformers
    import torch

    with tempfile.TemporaryDirectory() as folder:
        geometry.write(Path(folder) / "model")
        options = {"dtype": getattr(torch, geometry.dtype), "attn_implementation": "sdpa"}
        model = sentence_transformers.SentenceTransformer(f"{folder}/model", device="cuda", model_kwargs=options)

    def embed(texts):
        return model.encode(texts, batch_size=len(texts), show_progress_bar=False)

    def random_texts(batch, tokens):
        return [" ".join(f"t{random.randrange(geometry.vocabulary)}" for _ in range(tokens)) for _ in range(batch)]

    return embed, random_texts, f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"


def mlx_model(kind: str, geometry: Geometry):
    if geometry.name != "qwen3-0.6b":
        raise SystemExit("mlx-lm has no encoders")
    import mlx.core as mx
    import numpy as np
    from mlx import nn
    from mlx_lm.models import qwen3

    mx.random.seed(0)
    args = dict(QWEN3, model_type="qwen3", rms_norm_eps=1e-6, max_position_embeddings=32768,
                tie_word_embeddings=True)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(args))
    model.set_dtype(getattr(mx, geometry.dtype))
    if kind == "4bit":
        nn.quantize(model, group_size=64, bits=4)
    mx.eval(model.parameters())

    def forward(ids):
        hidden = model.model(ids)[:, -1].astype(mx.float32)
        return hidden / mx.linalg.norm(hidden, axis=-1, keepdims=True)

    compiled = mx.compile(forward)

    def embed(ids):
        return np.array(compiled(mx.array(ids)))

    def random_ids(batch, tokens):
        return np.random.randint(0, geometry.vocabulary, (batch, tokens)).astype(np.uint32)

    return embed, random_ids, f"mlx {mx.__version__}"


MODELS = {"torch": torch_model, "sentence": sentence_transformers_model, "mlx": mlx_model}


def main() -> None:
    # What libraries print is not for whoever reads the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runtime, kind = sys.argv[1].split("-")
    embed, random_inputs, versions = MODELS[runtime](kind, Geometry(*sys.argv[2:]))
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        shape = json.loads(line)
        inputs = random_inputs(shape["batch"], shape["tokens"])
        start = time.perf_counter()
        embed(inputs)
        print(json.dumps({"ms": 1e3 * (time.perf_counter() - start)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
