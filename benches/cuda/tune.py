#!/usr/bin/env python3
"""Checks the CUDA products against torch in f32 and times their tiles: what mlx-embed/src/mlx/cuda/tiles.rs was chosen by.

    benches/cuda/tune.py [--tokens 1,16,160,512] [--best 4]

Needs an NVIDIA GPU, nvcc, and Python's torch and cupy. Sizes are Qwen3-Embedding-0.6B's. A tile is timed in a CUDA graph of
28 products with weights of their own, so that caches don't flatter; the time is that of one, launch included, the median
of five replays. Exits with 1 where a tile's result is off by more than 6e-3 (bf16's last place is 4e-3).
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cupy
import torch
from torch.nn.functional import silu

SOURCE = Path(__file__).resolve().parents[2] / "mlx-embed/src/mlx/cuda/source"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS, GROUP = 1024, 16, 8, 128, 3072, 28, 64
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
EPS = 1e-6
# What follows the product, outputs, inputs.
PRODUCTS = {"qkv": (0, QKV, HIDDEN), "o": (1, HIDDEN, HEADS * HEAD_DIM), "gate_up": (2, 2 * INTERMEDIATE, HIDDEN),
            "down": (1, HIDDEN, INTERMEDIATE)}
DEFINES = {"HEAD_DIM": HEAD_DIM, "TRADITIONAL": 0, "HAS_BIAS": 0, "HAS_HEAD_NORMS": 1, "GROUP": GROUP}
FOLDER = Path(tempfile.gettempdir()) / "mlx-embed-tune"
BF16 = torch.bfloat16
MOST_ERROR = 6e-3


def shared_memory(tile: dict) -> int:
    buffers = tile["STAGES"] * tile["INPUT_GROUPS"] * tile["TOKENS"] * 128
    sums = tile["INPUT_GROUPS"] * tile["TOKENS"] * (16 * tile["OUTPUT_WARPS"] + 4) * 4
    return 1024 + max(buffers, sums)


def tiles() -> list:
    """Those worth a try."""
    found = []

    def add(tokens, output_warps, input_groups, stages, prefetch, wgmma, blocks=1):
        tile = dict(TOKENS=tokens, OUTPUT_WARPS=output_warps, INPUT_GROUPS=input_groups, STAGES=stages,
                    PREFETCH=prefetch, WGMMA=wgmma, BLOCKS=blocks)
        threads = 32 * output_warps * input_groups
        if threads <= 1024 and shared_memory(tile) <= (227 << 10) // blocks and threads * blocks <= 2048:
            found.append(tile)

    for tokens, (warps, groups), prefetch in itertools.product(
            (8, 16), ((1, 8), (1, 16), (2, 4), (2, 8), (4, 4), (8, 2), (8, 4)), (2, 4)):
        add(tokens, warps, groups, 4, prefetch, 0)
    for tokens, (warps, groups), (stages, prefetch), blocks in itertools.product(
            (16, 32, 64), ((4, 1), (4, 2), (4, 4), (8, 1), (8, 2)), ((4, 2), (4, 4), (6, 2)), (1, 2)):
        add(tokens, warps, groups, stages, prefetch, 1, blocks)
    for warps, blocks in itertools.product((4, 8, 16), (1, 2)):
        add(128, warps, 1, 4, 2, 1, blocks)
    return found


def build(name: str, defines: dict) -> Path:
    tag = "_".join([name, *(f"{key}{value}" for key, value in defines.items())])
    source, binary = FOLDER / f"{tag}.cu", FOLDER / f"{tag}.cubin"
    if not binary.exists():
        parts = ("common.cuh", "wgmma.cuh", f"{name}.cu")
        source.write_text("".join((SOURCE / part).read_text() for part in parts))
        macros = [f"-D{key}={value}" for key, value in {**DEFINES, **defines, "KERNEL": "kernel"}.items()]
        subprocess.run(["nvcc", "-cubin", "-gencode", "arch=compute_90a,code=sm_90a", *macros, "-o", str(binary),
                        str(source)], check=True, capture_output=True)
    return binary


class Kernel:
    def __init__(self, binary: Path, memory: int = 0):
        self.function, self.memory = cupy.RawModule(path=str(binary)).get_function("kernel"), memory
        if memory > 48000:
            self.function.max_dynamic_shared_size_bytes = memory

    def __call__(self, grid: tuple, threads: int, *arguments) -> None:
        kinds = {torch.Tensor: lambda x: cupy.uint64(x.data_ptr()), float: cupy.float32, int: cupy.int32}
        values = tuple(kinds[type(argument)](argument) for argument in arguments)
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            self.function(grid, (threads, 1, 1), values, shared_mem=self.memory)


def microseconds(run) -> float:
    """Of `run` in a CUDA graph, the median of five replays."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        graph.replay()
        times = []
        for _ in range(5):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            graph.replay()
            stop.record(stream)
            torch.cuda.synchronize()
            times.append(1e3 * start.elapsed_time(stop))
    return sorted(times)[2]


def quantised(outputs: int, inputs: int) -> tuple:
    """Packed words as a checkpoint has them, scales, biases, and what they stand for."""
    groups = 0.02 * torch.randn(outputs, inputs // GROUP, GROUP, device="cuda")
    least, most = groups.amin(-1), groups.amax(-1)
    scales, biases = ((most - least) / 15).to(BF16), least.to(BF16)
    q = ((groups - biases.float()[..., None]) / scales.float()[..., None]).round().clamp(0, 15)
    dense = (q * scales.float()[..., None] + biases.float()[..., None]).to(BF16).view(outputs, inputs)
    words = (q.to(torch.int64).view(outputs, -1, 8) << (4 * torch.arange(8, device="cuda"))).sum(-1)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    return words, scales, biases, dense


class Product:
    """One kind of product with the weights of all layers."""

    def __init__(self, name: str, pack: Kernel):
        self.after, self.outputs, self.inputs = PRODUCTS[name]
        words, scales, biases, self.dense = quantised(self.outputs, self.inputs)
        self.weights = []
        for layer in range(LAYERS):
            own = [torch.roll(part, 17 * layer, 0).contiguous() for part in (words, scales, biases)]
            packed = torch.empty_like(words)
            factors = torch.empty(self.outputs * self.inputs // GROUP, dtype=torch.int32, device="cuda")
            pack((-(-words.numel() // 256), 1, 1), 256, *own, packed, factors, self.outputs, self.inputs)
            torch.cuda.synchronize()
            self.weights.append((packed, factors))

    def arguments(self, tokens: int) -> dict:
        made = {"a": torch.randn(tokens, self.inputs, device="cuda").to(BF16),
                "x": torch.randn(tokens, HIDDEN, device="cuda").to(BF16),
                "scale": (1 + 0.1 * torch.randn(HIDDEN, device="cuda")).to(BF16),
                "norms": (1 + 0.1 * torch.randn(2, HEAD_DIM, device="cuda")).to(BF16)}
        made["squares"] = made["a"].float().view(tokens, 2, -1).pow(2).sum(-1).contiguous()
        turns = torch.outer(torch.arange(tokens, device="cuda").float(),
                            1e6 ** (-torch.arange(0, HEAD_DIM, 2, device="cuda").float() / HEAD_DIM))
        made["angles"] = torch.cat([turns.cos(), turns.sin()], 1).contiguous()
        width = {0: QKV, 1: HIDDEN, 2: INTERMEDIATE}[self.after]
        made["out"] = torch.full((tokens, width), float("nan"), dtype=BF16, device="cuda")
        made["scaled"] = torch.empty(tokens, HIDDEN, dtype=BF16, device="cuda")
        made["squares_out"] = torch.empty(tokens * 64, device="cuda")
        return made

    def run(self, kernel: Kernel, tile: dict, made: dict, layer: int) -> None:
        tokens, outputs = made["a"].shape[0], 16 * tile["OUTPUT_WARPS"]
        grid = (-(-self.outputs // outputs), -(-tokens // tile["TOKENS"]), 1)
        threads = 32 * tile["OUTPUT_WARPS"] * tile["INPUT_GROUPS"]
        of = (made["a"], *self.weights[layer])
        sizes = (tokens, self.outputs, self.inputs)
        if self.after == 0:
            kernel(grid, threads, *of, made["squares"], made["norms"], made["norms"], made["angles"], made["out"],
                   *sizes, 2, HEADS, HEADS + KV_HEADS, EPS, EPS)
        elif self.after == 1:
            kernel(grid, threads, *of, made["x"], made["scale"], made["out"], made["scaled"], made["squares_out"],
                   *sizes)
        else:
            kernel(grid, threads, *of, made["squares"], made["out"], *sizes, 2, EPS)

    def expected(self, made: dict) -> torch.Tensor:
        y = made["a"].float() @ self.dense.float().T
        if self.after == 1:
            return made["x"].float() + y
        y = y * torch.rsqrt(made["squares"].sum(1, keepdim=True) / self.inputs + EPS)
        if self.after == 2:
            eights = y.view(len(y), -1, 2, 8)
            return (silu(eights[:, :, 0]) * eights[:, :, 1]).reshape(len(y), -1)
        heads = y.view(len(y), -1, HEAD_DIM)
        turned = heads[:, :HEADS + KV_HEADS]
        weights = made["norms"].float().repeat_interleave(torch.tensor([HEADS, KV_HEADS], device="cuda"), 0)
        turned = turned * torch.rsqrt(turned.pow(2).mean(-1, keepdim=True) + EPS) * weights
        cosines, sines = made["angles"][:, None, :].split(HEAD_DIM // 2, -1)
        first, second = turned.split(HEAD_DIM // 2, -1)
        turned = torch.cat([first * cosines - second * sines, first * sines + second * cosines], -1)
        return torch.cat([turned, heads[:, HEADS + KV_HEADS:]], 1).reshape(len(y), -1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1,16,40,160,512", help="[default: %(default)s]")
    parser.add_argument("--best", type=int, default=4, help="tiles to print for each [default: 4]")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    jobs = [(tile, after) for tile in tiles() for after in (0, 1, 2)
            if after != 0 or 16 * tile["OUTPUT_WARPS"] >= HEAD_DIM]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: build("product", {**job[0], "AFTER": job[1]}), jobs))
    pack = Kernel(build("pack", {}))
    wrong = 0
    for name in PRODUCTS:
        product = Product(name, pack)
        kernels = [(tile, Kernel(build("product", {**tile, "AFTER": after}), shared_memory(tile)))
                   for tile, after in jobs if after == product.after]
        for tile, kernel in kernels:
            for tokens in (5, 77):
                made = product.arguments(tokens)
                product.run(kernel, tile, made, 0)
                expected = product.expected(made)
                error = ((made["out"].float() - expected).norm() / expected.norm()).item()
                if not error <= MOST_ERROR:
                    wrong += 1
                    print(f"WRONG {name}, {tokens} tokens, {tile}: {error:.1e}")
        for tokens in map(int, arguments.tokens.split(",")):
            times = []
            for tile, kernel in kernels:
                if tile["TOKENS"] > max(2 * tokens, 16) or tile["TOKENS"] * 10 < tokens:
                    continue
                made = product.arguments(tokens)

                def layers(kernel=kernel, tile=tile, made=made):
                    for layer in range(LAYERS):
                        product.run(kernel, tile, made, layer)

                times.append((microseconds(layers) / LAYERS, list(tile.values())))
            for time, tile in sorted(times)[:arguments.best]:
                print(f"{name:8} {tokens:5} tokens {time:8.2f} us  tokens, warps, groups, stages, prefetch, wgmma, "
                      f"blocks {tile}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
