"""Writes an encoder as an OpenVINO model: encoder_openvino.py CHECKPOINT FILE.xml f32|int8

int8 keeps matrices as int8 with a scale an output; OpenVINO rounds what is multiplied with them at run time.
"""

import sys
from pathlib import Path

import openvino as ov

import bert_openvino
import gemma_openvino
from encoder import Checkpoint

GRAPHS = {"bert": bert_openvino.Graph, "gemma3_text": gemma_openvino.Graph}


def main() -> None:
    checkpoint, path, kind = Checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    partial = path.with_name("partial-" + path.name)
    graph = GRAPHS[checkpoint.config["model_type"]](checkpoint, kind)
    ov.save_model(graph.model(), partial, compress_to_fp16=False)
    partial.with_suffix(".bin").rename(path.with_suffix(".bin"))
    partial.rename(path)


if __name__ == "__main__":
    main()
