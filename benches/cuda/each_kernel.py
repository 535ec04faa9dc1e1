#!/usr/bin/env python3
"""Checks the CUDA kernels for products and attention against torch in f32, and times them: what the tiles in
mlx-embed/src/mlx/cuda/tiles.rs were chosen by. For a Hopper GPU.

    benches/cuda/each_kernel.py [packed|dense|attention].. [--bits 4] [--tokens 1,16,160,512,4096] [--best 4]

Needs nvcc and Python's torch. Sizes are Qwen3-Embedding-0.6B's. Products are timed in a CUDA graph of 28 with weights of
their own, so that caches don't flatter; the time is that of one, the median of five replays, launched as the crate does.
Exits with 1 where a result is off by more than 6e-3 (bf16's last place is 4e-3).
"""

import argparse
import ctypes
import hashlib
import itertools
import math
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention, silu

SOURCE = Path(__file__).resolve().parents[2] / "mlx-embed/src/mlx/cuda/source"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS, GROUP = 1024, 16, 8, 128, 3072, 28, 64
SHARING = HEADS // KV_HEADS
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
EPS = 1e-6
# What follows the product, outputs, inputs.
PRODUCTS = {"qkv": (0, QKV, HIDDEN), "o": (1, HIDDEN, HEADS * HEAD_DIM), "gate_up": (2, 2 * INTERMEDIATE, HIDDEN),
            "down": (1, HIDDEN, INTERMEDIATE)}
PARTS = {"product": ("common", "wgmma", "formats", "after", "end"),
         "product_hopper": ("common", "wgmma", "tma", "formats", "after", "end"), "dense": ("common", "wgmma", "tma", "after"),
         "attention": ("common",), "attention_hopper": ("common", "wgmma", "tma"), "pack": ("common", "formats")}
DEFINES = {"HEAD_DIM": HEAD_DIM, "OF_F32": 0, "TRADITIONAL": 0, "HAS_BIAS": 0, "HAS_HEAD_NORMS": 1, "ACTIVATION": 0, "GATED": 1,
           "BITS": 4, "CODE": 0, "SCALES": 0, "GROUP": GROUP}
FOLDER = Path(tempfile.gettempdir()) / "mlx-embed-kernels"
BF16 = torch.bfloat16
MOST_ERROR = 6e-3
TEXTS = ([16], [16] * 10, [5, 64, 65, 127, 128, 129, 200, 1], [512], [128] * 32, [2048] * 8)
cuda = ctypes.CDLL("libcuda.so.1")


def up(count: int, each: int) -> int:
    return -(-count // each)


def check(code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(text.value.decode() if text.value else f"CUDA error {code}")


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int * 16)]


class Config(ctypes.Structure):
    _fields_ = [("blocks", ctypes.c_uint * 3), ("threads", ctypes.c_uint * 3), ("shared_memory", ctypes.c_uint),
                ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("n_attributes", ctypes.c_uint)]


class Tiles(ctypes.Structure):
    """A CUtensorMap of a matrix in tiles of `rows` by 64."""

    _fields_ = [("words", ctypes.c_uint64 * 16)]

    def __init__(self, matrix: torch.Tensor, rows: int):
        super().__init__()
        room = (ctypes.c_uint64 * 32)()
        place = up(ctypes.addressof(room), 64) * 64
        sizes = (ctypes.c_uint64 * 2)(matrix.shape[1], matrix.shape[0])
        strides = (ctypes.c_uint64 * 1)(2 * matrix.shape[1])
        check(cuda.cuTensorMapEncodeTiled(
            ctypes.c_void_p(place), 9, 2, ctypes.c_void_p(matrix.data_ptr()), sizes, strides,
            (ctypes.c_uint32 * 2)(64, rows), (ctypes.c_uint32 * 2)(1, 1), 0, 3, 3, 0))
        ctypes.memmove(ctypes.byref(self), place, 128)


def text(name: str) -> str:
    return "".join((SOURCE / f"{part}.cuh").read_text() for part in PARTS[name] if (SOURCE / f"{part}.cuh").exists()) + (SOURCE / f"{name}.cu").read_text()


def structure(source: str, name: str) -> type:
    """A struct of a source."""
    body = re.search(rf"struct {name} {{\n(.*?)\n}};", source, re.DOTALL).group(1)
    fields = []
    for declaration in re.sub("//.*", "", body).split(";"):
        first, *others = (part.strip() for part in declaration.split(","))
        if not first:
            continue
        kind, own = re.fullmatch(r"(.*?)\s*(\w+)", first, re.DOTALL).groups()
        known = {"int": ctypes.c_int, "float": ctypes.c_float, "Map": Tiles}
        of = ctypes.c_uint64 if "*" in first else known.get(kind) or structure(source, kind)
        fields += [(field, of) for field in (own, *others)]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def build(name: str, defines: dict) -> Path:
    digest = hashlib.sha256(f"{text(name)} {DEFINES}".encode()).hexdigest()[:12]
    tag = "_".join([name, *(f"{key}{value}" for key, value in defines.items()), digest])
    source, binary = FOLDER / f"{tag}.cu", FOLDER / f"{tag}.cubin"
    if binary.exists():
        return binary
    source.write_text(text(name))
    macros = [f"-D{key}={value}" for key, value in {**DEFINES, **defines, "KERNEL": "kernel"}.items()]
    subprocess.run(["nvcc", "-cubin", "-std=c++20", "-gencode", "arch=compute_90a,code=sm_90a", *macros, "-o",
                    str(binary), str(source)], check=True)
    return binary


class Kernel:
    def __init__(self, name: str, defines: dict, memory: int = 0):
        module, self.function, self.memory = ctypes.c_void_p(), ctypes.c_void_p(), memory
        check(cuda.cuModuleLoad(ctypes.byref(module), str(build(name, defines)).encode()))
        check(cuda.cuModuleGetFunction(ctypes.byref(self.function), module, b"kernel"))
        if memory > 48000:
            check(cuda.cuFuncSetAttribute(self.function, 8, memory))
        self.arguments = structure(text(name), "Arguments")

    def __call__(self, blocks: tuple, threads: int, **arguments) -> None:
        """`arguments` are the fields of its struct, those of `after` among them."""
        own = self.arguments()
        for field, value in arguments.items():
            of = own if hasattr(own, field) else own.after
            setattr(of, field, value.data_ptr() if isinstance(value, torch.Tensor) else value)
        room = (ctypes.c_uint64 * (ctypes.sizeof(own) // 8 + 16))()  # the compiler's struct may be padded
        ctypes.memmove(room, ctypes.byref(own), ctypes.sizeof(own))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(room))
        early = Attribute(6, 0, (ctypes.c_int * 16)(1))
        config = Config(blocks, (threads, 1, 1), self.memory, torch.cuda.current_stream().cuda_stream,
                        ctypes.addressof(early), 1)
        check(cuda.cuLaunchKernelEx(ctypes.byref(config), self.function, pointers, None))


def microseconds(run, replays: int = 5) -> float:
    """Of `run` in a CUDA graph, the median of some replays."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        graph.replay()
        times = []
        for _ in range(replays):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            graph.replay()
            stop.record(stream)
            torch.cuda.synchronize()
            times.append(1e3 * start.elapsed_time(stop))
    return statistics.median(times)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


def kept_bytes() -> int:
    """Of 16 outputs and 64 inputs."""
    return 128 * DEFINES["BITS"] + max(64 // GROUP, 1) * 64


class Packed:
    """product.cu with one tile."""

    def __init__(self, after: int, tile: dict):
        self.after, self.tile = after, tile
        buffers = tile["STAGES"] * tile["INPUT_GROUPS"] * tile["TOKENS"] * 128
        sums = tile["INPUT_GROUPS"] * tile["TOKENS"] * (16 * tile["OUTPUT_WARPS"] + 4) * 4
        self.memory, self.threads = 1024 + max(buffers, sums), 32 * tile["OUTPUT_WARPS"] * tile["INPUT_GROUPS"]
        self.outputs = 16 * tile["OUTPUT_WARPS"]

    def fits(self) -> bool:
        blocks = self.tile["BLOCKS"]
        return (self.threads <= 1024 and self.memory * blocks <= 227 << 10 and self.threads * blocks <= 2048
                and (self.after != 0 or self.outputs >= HEAD_DIM))

    def suits(self, tokens: int) -> bool:
        return self.tile["TOKENS"] <= max(2 * tokens, 16) and self.tile["TOKENS"] * 10 >= tokens

    def load(self) -> None:
        self.kernel = Kernel("product", {**self.tile, "AFTER": self.after}, self.memory)

    def launch(self, product, made: dict, layer: int) -> tuple:
        blocks = (up(product.outputs, self.outputs), up(made["a"].shape[0], self.tile["TOKENS"]), 1)
        weight, factors = product.packed[layer]
        return self.kernel, blocks, self.threads, {"a": made["a"], "weight": weight, "factors": factors}


class Hopper:
    """product_hopper.cu with one tile."""

    def __init__(self, after: int, tile: dict):
        self.after, self.tile, self.outputs = after, tile, 64 * tile["OUTPUT_GROUPS"]
        groups, tokens, row = tile["INPUT_GROUPS"], tile["TOKENS"], 4 * (self.outputs + 4)
        buffers = tile["STAGES"] * groups * (tokens * 128 + tile["OUTPUT_GROUPS"] * 4 * kept_bytes())
        received = (tile["SPLITS"] - 1) * tokens // tile["SPLITS"] * row
        self.memory = 1024 + max(buffers, groups * tokens * row) + received + 16 + 16 * tile["STAGES"]
        self.threads = 128 * tile["OUTPUT_GROUPS"] * groups

    def fits(self) -> bool:
        blocks = self.tile["BLOCKS"]
        return (self.threads <= 1024 and self.memory * blocks <= (227 if blocks == 1 else 226) << 10
                and self.threads * blocks <= 2048 and (self.after != 0 or self.outputs % HEAD_DIM == 0))

    def load(self) -> None:
        self.kernel = Kernel("product_hopper", {**self.tile, "AFTER": self.after}, self.memory)

    def launch(self, product, made: dict, layer: int) -> tuple:
        tokens = self.tile["TOKENS"]
        blocks = (up(product.outputs, self.outputs), up(made["a"].shape[0], tokens), self.tile["SPLITS"])
        weight, factors = product.packed[layer]
        return self.kernel, blocks, self.threads, {"a_map": Tiles(made["a"], tokens), "weight": weight, "factors": factors}


class Dense:
    """dense.cu with one tile."""

    def __init__(self, after: int, tile: dict):
        self.after, self.tile = after, tile
        results = tile["OUTPUTS"] // 8 // (2 if after == 2 else 1)
        self.memory = (1024 + tile["STAGES"] * (tile["ROWS"] + tile["OUTPUTS"]) * 128 + 8 * 256 * min(results, 8)
                       + 16 * tile["STAGES"] + 16)

    def fits(self) -> bool:
        return self.memory <= 227 << 10 and (self.after != 0 or self.tile["OUTPUTS"] >= HEAD_DIM)

    def suits(self, tokens: int) -> bool:
        return tokens >= 16

    def load(self) -> None:
        self.kernel = Kernel("dense", {**self.tile, "AFTER": self.after}, self.memory)

    def launch(self, product, made: dict, layer: int) -> tuple:
        rows, outputs = self.tile["ROWS"], self.tile["OUTPUTS"]
        tiles = up(product.outputs, outputs) * up(made["a"].shape[0], rows)
        most = torch.cuda.get_device_properties(0).multi_processor_count
        maps = {"a_map": Tiles(made["a"], rows), "w_map": Tiles(product.dense[layer], outputs)}
        return self.kernel, (min(tiles, most), 1, 1), 384, maps


def candidates(kind: str, after: int) -> list:
    """Tiles worth a try."""
    found = []
    if kind == "dense":
        for rows, outputs, stages in ((128, 128, 6), (64, 128, 8), (64, 64, 12)):
            found.append(Dense(after, dict(ROWS=rows, OUTPUTS=outputs, STAGES=stages)))
    else:
        def add(tokens, output_warps, input_groups, stages, prefetch, wgmma, blocks=1):
            found.append(Packed(after, dict(
                TOKENS=tokens, OUTPUT_WARPS=output_warps, INPUT_GROUPS=input_groups, STAGES=stages, PREFETCH=prefetch,
                WGMMA=wgmma, BLOCKS=blocks)))

        for tokens, (warps, groups), prefetch in itertools.product(
                (8, 16), ((1, 8), (1, 16), (2, 4), (2, 8), (4, 4), (8, 2), (8, 4)), (2, 4)):
            add(tokens, warps, groups, 4, prefetch, 0)
        for tokens, (warps, groups), (stages, prefetch), blocks in itertools.product(
                (16, 32, 64), ((4, 1), (4, 2), (4, 4), (8, 1), (8, 2)), ((4, 2), (4, 4), (6, 2)), (1, 2)):
            add(tokens, warps, groups, stages, prefetch, 1, blocks)
        for warps, blocks in itertools.product((4, 8, 16), (1, 2)):
            add(128, warps, 1, 4, 2, 1, blocks)
    rows = DEFINES["BITS"] == 16  # which products of four warps can't take from memory
    return [one for one in found if one.fits() and not (kind == "packed" and rows and one.tile["WGMMA"])]


def quantised(outputs: int, inputs: int) -> tuple:
    """Packed words as a checkpoint has them, scales, biases, and what they stand for."""
    bits = DEFINES["BITS"]
    groups = 0.02 * torch.randn(outputs, inputs // GROUP, GROUP, device="cuda")
    least, most = groups.amin(-1), groups.amax(-1)
    scales, biases = ((most - least) / (2**bits - 1)).to(BF16), least.to(BF16)
    q = ((groups - biases.float()[..., None]) / scales.float()[..., None]).round().clamp(0, 2**bits - 1)
    dense = (q * scales.float()[..., None] + biases.float()[..., None]).to(BF16).view(outputs, inputs)
    shifts = bits * torch.arange(32 // bits, device="cuda")
    words = (q.to(torch.int64).view(outputs, -1, 32 // bits) << shifts).sum(-1)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    return words, scales, biases, dense


class Product:
    """One kind of product with the weights of all layers."""

    def __init__(self, name: str, pack: Kernel):
        self.after, self.outputs, self.inputs = PRODUCTS[name]
        self.packed, self.dense = [], []
        if DEFINES["BITS"] == 16:
            dense = (0.02 * torch.randn(self.outputs, self.inputs, device="cuda")).to(BF16)
            self.dense = [torch.roll(dense, 17 * layer, 0).contiguous() for layer in range(LAYERS)]
            self.packed = [(rows, 0) for rows in self.dense]
            return
        parts = quantised(self.outputs, self.inputs)
        for layer in range(LAYERS):
            words, scales, biases, dense = (torch.roll(part, 17 * layer, 0).contiguous() for part in parts)
            packed = torch.empty_like(words)
            factors = torch.empty(self.outputs * self.inputs // GROUP, dtype=torch.int32, device="cuda")
            pack((self.inputs // 64, up(self.outputs, 64), 1), 128, weight=words, scales=scales, biases=biases,
                 packed=packed, factors=factors, n=self.outputs, inputs=self.inputs)
            torch.cuda.synchronize()
            self.packed.append((packed, factors))
            self.dense.append(dense)

    def arguments(self, tokens: int) -> dict:
        made = {"a": torch.randn(tokens, self.inputs, device="cuda").to(BF16),
                "x": torch.randn(tokens, HIDDEN, device="cuda").to(BF16),
                "scale": 1 + 0.1 * torch.randn(HIDDEN, device="cuda"),
                "norms": 1 + 0.1 * torch.randn(2, HEAD_DIM, device="cuda")}
        made["squares"] = made["a"].float().view(tokens, 2, -1).pow(2).sum(-1).contiguous()
        turns = torch.outer(torch.arange(tokens, device="cuda").float(),
                            1e6 ** (-torch.arange(0, HEAD_DIM, 2, device="cuda").float() / HEAD_DIM))
        made["angles"] = torch.cat([turns.cos(), turns.sin()], 1).contiguous()
        width = {0: QKV, 1: HIDDEN, 2: INTERMEDIATE}[self.after]
        made["out"] = torch.full((tokens, width), float("nan"), dtype=BF16, device="cuda")
        made["scaled"] = torch.empty(tokens, HIDDEN, dtype=BF16, device="cuda")
        made["squares_out"] = torch.empty(tokens * 64, device="cuda")
        return made

    def run(self, how, made: dict, layer: int) -> None:
        kernel, blocks, threads, of = how.launch(self, made, layer)
        tokens, width = made["out"].shape
        then = {0: {"squares": made["squares"], "head_norm": made["norms"], "angles": made["angles"], "parts": 2,
                    "query_heads": HEADS, "rotated_heads": HEADS + KV_HEADS, "eps": EPS, "head_eps": EPS},
                1: {"x": made["x"], "scale": made["scale"], "scaled": made["scaled"],
                    "own_squares": made["squares_out"]},
                2: {"squares": made["squares"], "parts": 2, "eps": EPS}}[self.after]
        kernel(blocks, threads, **of, **then, out=made["out"], width=width, tokens=tokens, n=self.outputs,
               inputs=self.inputs)

    def error(self, how, tokens: int) -> float:
        made = self.arguments(tokens)
        self.run(how, made, 0)
        torch.cuda.synchronize()
        error = off(made["out"], self.expected(made))
        if self.after == 1:
            error = max(error, off(made["scaled"], made["out"].float() * made["scale"].float()))
            parts = self.outputs // (how.outputs if hasattr(how, "outputs") else how.tile["OUTPUTS"])
            squares = made["squares_out"][:tokens * parts].view(tokens, parts).sum(1)
            error = max(error, off(squares, made["out"].float().pow(2).sum(1)))
        return error

    def expected(self, made: dict) -> torch.Tensor:
        y = made["a"].float() @ self.dense[0].float().T
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


def products(kind: str, tokens_list: list, best: int) -> int:
    ways = {name: candidates(kind, after) for name, (after, _, _) in PRODUCTS.items()}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda how: build(
            "product" if kind == "packed" else "dense", {**how.tile, "AFTER": how.after}), itertools.chain(*ways.values())))
    pack, wrong = None if DEFINES["BITS"] == 16 else Kernel("pack", {}), 0
    for name, hows in ways.items():
        product = Product(name, pack)
        for how in hows:
            how.load()
            for tokens in (5, 77, 1000):
                error = product.error(how, tokens)
                if not error <= MOST_ERROR:
                    wrong += 1
                    print(f"WRONG {kind} {name}, {tokens} tokens, {how.tile}: {error:.1e}")
        for tokens in tokens_list:
            made, times = product.arguments(tokens), []
            for how in filter(lambda how: how.suits(tokens), hows):
                def layers(how=how):
                    for layer in range(LAYERS):
                        product.run(how, made, layer)

                times.append((microseconds(layers) / LAYERS, list(how.tile.items())))
            for time, tile in sorted(times)[:best]:
                work = 2e-6 * tokens * product.outputs * product.inputs / time
                print(f"{kind:6} {name:8} {tokens:5} tokens {time:8.2f} us {work:4.0f} TFLOP/s  "
                      + ", ".join(f"{key.lower()} {value}" for key, value in tile), flush=True)
    return wrong


def parts(lengths: list, pairs: bool) -> torch.Tensor:
    """As plan.rs makes them."""
    found, start = [], 0
    for length in lengths:
        if pairs:
            found += [(-min((item + 1) // SHARING * 64 + 64, length), start, length, item)
                      for item in range(0, up(length, 64) * SHARING, 2)]
        else:
            found += [(-min(query + 64, length), start, length, query) for query in range(0, length, 64)]
        start += length
    return torch.tensor([[*part[1:], part[2]] for part in sorted(found)], dtype=torch.int32, device="cuda")


def attention_kernel() -> Kernel:
    tile = {"QUERIES": 64, "KEYS": 64, "SHARING": 1, "FAR": 0, "TERMS": 1}
    return Kernel("attention", tile, 5 * 64 * (HEAD_DIM * 2 + 16))


def attention() -> int:
    wrong, none, scale = 0, torch.empty(1, device="cuda"), 1 / math.sqrt(HEAD_DIM)
    single = attention_kernel()
    hopper = Kernel("attention_hopper", {}, 1024 + 8 * 64 * HEAD_DIM * 2 + 7 * 16)
    most = torch.cuda.get_device_properties(0).multi_processor_count
    for lengths in TEXTS:
        tokens = sum(lengths)
        qkv = torch.randn(tokens, QKV, device="cuda").to(BF16)
        expected = []
        for text in qkv.float().split(lengths):
            heads = text.view(len(text), -1, HEAD_DIM).transpose(0, 1)
            q, k, v = heads.split([HEADS, KV_HEADS, KV_HEADS])
            k, v = (part.repeat_interleave(SHARING, 0) for part in (k, v))
            mixed = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
            expected.append(mixed.transpose(0, 1).reshape(len(text), -1))
        expected, work = torch.cat(expected), sum(2e-6 * length**2 * HEADS * HEAD_DIM for length in lengths)
        for name in ("attention", "attention_hopper"):
            out = torch.full((tokens, HEADS * HEAD_DIM), float("nan"), dtype=BF16, device="cuda")
            meta = parts(lengths, name == "attention_hopper")
            of = {"qkv": qkv, "cached_keys": none, "cached_values": none, "tiles": meta, "out": out, "heads": HEADS,
                  "kv_heads": KV_HEADS, "cached": 0, "scale": scale}
            if name == "attention":
                def run():
                    single((len(meta), HEADS, 1), 128, **of, distances=none, before=1 << 28, after=0)
            else:
                def run():
                    hopper((min(len(meta) * KV_HEADS, most), 1, 1), 384, **of, number=len(meta) * KV_HEADS)
            time = microseconds(lambda: [run() for _ in range(8)]) / 8
            error = off(out, expected)
            if not error <= MOST_ERROR:
                wrong += 1
                print(f"WRONG {name}, texts of {lengths}: {error:.1e}")
            print(f"{name:16} {len(lengths):3} texts, {tokens:5} tokens {time:8.2f} us {work / time:4.0f} TFLOP/s",
                  flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["packed", "dense", "attention"], metavar="KIND",
                        help="packed, dense or attention [default: all]")
    parser.add_argument("--tokens", default="1,16,40,160,512,4096", help="[default: %(default)s]")
    parser.add_argument("--best", type=int, default=4, help="tiles to print for each [default: 4]")
    parser.add_argument("--bits", type=int, choices=(2, 4, 8, 16), default=4,
                        help="of packed weights; 16 is rows of bf16 [default: 4]")
    arguments = parser.parse_args()
    DEFINES.update(BITS=arguments.bits, CODE=3 if arguments.bits == 16 else 0)
    torch.manual_seed(0)
    torch.zeros(1, device="cuda")
    FOLDER.mkdir(exist_ok=True)
    tokens = [int(number) for number in arguments.tokens.split(",")]
    wrong = 0
    for kind in arguments.kinds:
        wrong += attention() if kind == "attention" else products(kind, tokens, arguments.best)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
