"""llama.cpp: llama_cpp_worker.py GGUF THREADS

One context a shape, as long as the shape is asked for: every text is a sequence with a stream of
its own, the whole batch one decode call, so nothing is computed over another text's tokens.
"""

import ctypes
import sys

import llama_cpp as llama
import numpy as np

from serve import reserve_stdout, serve

MICRO_BATCH = 512


class Model:
    def __init__(self, path: str, threads: int):
        llama.llama_backend_init()
        settings = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.threads = threads
        self.hidden = llama.llama_model_n_embd(self.model)
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.shape, self.context, self.batch = None, None, None

    def open_context(self, texts: int, tokens: int) -> None:
        if self.context:
            llama.llama_free(self.context)
            llama.llama_batch_free(self.batch)
        settings = llama.llama_context_default_params()
        settings.n_seq_max = texts
        settings.n_ctx = texts * (-(-tokens // 256) * 256)
        settings.n_batch = texts * tokens
        settings.n_ubatch = min(texts * tokens, max(MICRO_BATCH, tokens))
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.pooling_type = llama.LLAMA_POOLING_TYPE_LAST
        settings.embeddings = True
        settings.kv_unified = False
        self.context = llama.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.shape = (texts, tokens)
        count = texts * tokens
        batch = self.batch = llama.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        fill(batch.pos, ctypes.c_int32, np.tile(np.arange(tokens), texts))
        fill(batch.n_seq_id, ctypes.c_int32, np.ones(count))
        fill(batch.logits, ctypes.c_int8, np.ones(count))
        for i in range(count):
            batch.seq_id[i][0] = i // tokens

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """f32 [batch, hidden]."""
        texts, tokens = ids.shape
        if self.shape != ids.shape:
            self.open_context(texts, tokens)
        llama.llama_memory_clear(llama.llama_get_memory(self.context), False)
        fill(self.batch.token, ctypes.c_int32, ids.reshape(-1))
        if llama.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        return np.stack([
            np.ctypeslib.as_array(llama.llama_get_embeddings_seq(self.context, text), (self.hidden,))
            for text in range(texts)
        ])


def fill(pointer, kind, values: np.ndarray) -> None:
    target = ctypes.cast(pointer, ctypes.POINTER(kind))
    np.ctypeslib.as_array(target, (len(values),))[:] = values


def main() -> None:
    answers = reserve_stdout()
    model = Model(sys.argv[1], int(sys.argv[2]))
    facts = {
        "version": f"llama-cpp-python {llama.__version__}",
        "system": llama.llama_print_system_info().decode().strip(),
        "threads": model.threads,
    }
    serve(answers, model.embed, model.vocab, model.hidden, facts)


if __name__ == "__main__":
    main()
