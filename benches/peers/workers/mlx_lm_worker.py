"""Python mlx-lm on MLX's own CPU kernels, in f32: mlx_lm_worker.py CHECKPOINT THREADS

MLX's CPU backend takes no number of threads; its quantised product runs on one.
"""

import sys
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.utils import load_model

from serve import reserve_stdout, serve


def last_hidden(model, ids: np.ndarray) -> np.ndarray:
    """f32 [batch, hidden]."""
    return np.array(model.model(mx.array(ids))[:, -1].astype(mx.float32))


def load(folder: Path):
    mx.set_default_device(mx.cpu)
    model, config = load_model(folder)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, config


def main() -> None:
    answers = reserve_stdout()
    model, config = load(Path(sys.argv[1]))
    facts = {"version": f"mlx {mx.__version__}, mlx-lm {mlx_lm.__version__}", "dtype": "f32"}
    serve(answers, lambda ids: last_hidden(model, ids), config["vocab_size"],
          config["hidden_size"], facts)


if __name__ == "__main__":
    main()
