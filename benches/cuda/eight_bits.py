#!/usr/bin/env python3
"""What 8-bit products could save on an NVIDIA GPU: eight_bits.py [TOKENS..]. Needs Python's torch.

Times NVIDIA's own products (cuBLASLt) of Qwen3-Embedding-0.6B's sizes in bf16, FP8 (E4M3) and int8, without anything that
rounds activations before or scales sums behind, which 8 bits need as well. The crate's own products in bf16, with all that
follows them in the layer, are `each_kernel.py dense`'s."""

import statistics
import sys

import torch

PRODUCTS = {"qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072), "square": (8192, 8192)}
ROUNDS = 20


def microseconds(run) -> float:
    times = []
    for number in range(ROUNDS + 5):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        if number >= 5:
            times.append(1e3 * start.elapsed_time(stop))
    return statistics.median(times)


def main() -> int:
    torch.manual_seed(0)
    one = torch.ones((), device="cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds, TFLOP/s")
    for tokens in [int(number) for number in sys.argv[1:]] or [4096, 16384]:
        for name, (outputs, inputs) in PRODUCTS.items():
            a, w = torch.randn(tokens, inputs, device="cuda"), 0.02 * torch.randn(outputs, inputs, device="cuda")
            wide = a.bfloat16(), w.bfloat16().T
            floats = a.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).T
            whole = (30 * a).clamp(-127, 127).to(torch.int8), (1000 * w).clamp(-127, 127).to(torch.int8).T
            ways = {
                "bf16": lambda: wide[0] @ wide[1],
                "fp8": lambda: torch._scaled_mm(*floats, scale_a=one, scale_b=one, out_dtype=torch.bfloat16),
                "int8": lambda: torch._int_mm(*whole),
            }
            times = {way: microseconds(run) for way, run in ways.items()}
            work = 2e-6 * tokens * outputs * inputs
            print(f"{tokens:6} {name:8}" + "".join(f"  {way} {time:7.1f} {work / time:5.0f}" for way, time in times.items()),
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
