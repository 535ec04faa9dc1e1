"""ONNX Runtime: onnxruntime_worker.py MODEL.onnx THREADS VOCAB HIDDEN

make_onnx.py writes the model of a decoder, encoder_onnx.py that of an encoder, which takes ids alone.
"""

import sys

import numpy as np
import onnxruntime as ort

from serve import reserve_stdout, serve


def session(path: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads spin while a call runs and stop with it, so that the next peer has the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    answers = reserve_stdout()
    running = session(sys.argv[1], int(sys.argv[2]))
    taken = {given.name for given in running.get_inputs()}

    def embed(ids):
        batch, tokens = ids.shape
        last_position = np.full(batch, tokens - 1, np.int32)
        feeds = {"ids": ids, "last_position": last_position, "tokens": np.array(tokens, np.int32)}
        return running.run(["vector"], {name: value for name, value in feeds.items() if name in taken})[0]

    facts = {
        "version": f"onnxruntime {ort.__version__}",
        "threads": running.get_session_options().intra_op_num_threads,
    }
    serve(answers, embed, int(sys.argv[3]), int(sys.argv[4]), facts)


if __name__ == "__main__":
    main()
