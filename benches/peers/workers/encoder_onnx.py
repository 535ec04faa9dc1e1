"""Writes an encoder as an ONNX model: encoder_onnx.py CHECKPOINT FILE f32|int8|states

int8 is ONNX Runtime's dynamic quantisation of the f32 graph: weights once, activations at run time. `states` is the graph
with the inputs and the output that exporters name, which fastembed wants.
"""

import sys
from pathlib import Path

from onnx import TensorProto, save
from onnxruntime.quantization import QuantType, quantize_dynamic

import bert_onnx
import gemma_onnx
from encoder import Checkpoint

GRAPHS = {"bert": bert_onnx.Graph, "gemma3_text": gemma_onnx.Graph}


def main() -> None:
    checkpoint, path, kind = Checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    partial = path.with_name(path.name + ".partial")
    graph = GRAPHS[checkpoint.config["model_type"]](checkpoint)
    save(graph.states() if kind == "states" else graph.vectors(), partial)
    if kind == "int8":
        # Shapes behind ONNX Runtime's own operators are not inferred, so their outputs' type is named.
        options = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(partial, partial, weight_type=QuantType.QInt8, extra_options=options)
    partial.rename(path)


if __name__ == "__main__":
    main()
