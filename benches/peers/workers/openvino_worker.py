"""OpenVINO: openvino_worker.py MODEL.xml THREADS default|GROUP VOCAB HIDDEN

The model is make_openvino.py's or encoder_openvino.py's. The third argument is DYNAMIC_QUANTIZATION_GROUP_SIZE: `default`
leaves OpenVINO's own, which rounds activations to int8 at run time; 0 keeps them in f32.
"""

import sys

import openvino as ov

from serve import reserve_stdout, serve


def main() -> None:
    answers = reserve_stdout()
    path, threads, group = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if group != "default":
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = int(group)
    core = ov.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()

    def embed(ids):
        request.infer({0: ids})
        return request.get_output_tensor(0).data

    kinds = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        kinds[kind] = kinds.get(kind, 0) + 1
    facts = {
        "version": f"openvino {ov.__version__.split('-')[0]}",
        "group": str(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
        "nodes": kinds,
    }
    serve(answers, embed, int(sys.argv[4]), int(sys.argv[5]), facts)


if __name__ == "__main__":
    main()
