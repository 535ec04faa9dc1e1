#!/usr/bin/env python3
"""Chooses tiles of packed products by what a whole pass takes: in_a_pass.py [SHAPE..], shapes as 10x16. For a Hopper GPU.

A kernel begins while the one before it ends, where registers and shared memory suffice for both, so what it takes by itself
(each_kernel.py) says little where it is short. Here the 140 kernels of 28 layers run as a CUDA graph, with the tiles that
tiles.rs has for other chips' way, and then one product's tile after the other is replaced by each of `product_hopper.cu`'s,
twice in turn; the best stay. Needs nvcc and Python's torch. Exits with 1 where a product is off by more than 6e-3.
"""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

import each_kernel as of
from each_kernel import HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, LAYERS, PRODUCTS, QKV, Hopper, Packed, Product, up

SHAPES = ("1x16", "3x16", "10x16", "16x16")
# Of `product.cu`, by the highest number of tokens, as tiles.rs has them for Hopper.
NAMES = ("TOKENS", "OUTPUT_WARPS", "INPUT_GROUPS", "STAGES", "PREFETCH", "WGMMA", "BLOCKS")
ADD = ((24, (8, 1, 16, 4, 2, 0, 1)), (64, (16, 1, 8, 4, 2, 0, 1)), (256, (32, 4, 4, 4, 2, 1, 1)), (4096, (64, 4, 4, 6, 2, 1, 1)))
TILES = {
    "qkv": ((24, (8, 8, 2, 4, 2, 0, 1)), (64, (16, 8, 2, 4, 4, 1, 1)), (384, (64, 8, 2, 6, 2, 1, 1)), (4096, (128, 8, 1, 4, 2, 1, 1))),
    "o": ADD,
    "gate_up": ((24, (16, 4, 4, 4, 2, 1, 1)), (64, (64, 4, 4, 6, 2, 1, 1)), (320, (32, 8, 2, 4, 2, 1, 2)), (4096, (128, 16, 1, 4, 2, 1, 1))),
    "down": ADD,
}
MULTIPROCESSORS = 132


def before(name: str, tokens: int) -> Packed:
    found = next(tile for most, tile in TILES[name] if tokens <= most)
    return Packed(PRODUCTS[name][0], dict(zip(NAMES, found)))


def candidates(name: str, tokens: int) -> list:
    """Tiles worth a try: with about a block for each multiprocessor, and as many buffers as fit."""
    after, outputs, inputs = PRODUCTS[name]
    sizes = next(sizes for most, sizes in (
        (16, (16,)), (32, (32,)), (64, (32, 64)), (160, (40, 80)), (4096, (64, 80, 128))) if tokens <= most)
    found = []
    for size, out_groups, in_groups, splits in itertools.product(sizes, (1, 2, 3), (1, 2, 4), (1, 2, 4, 8)):
        blocks = outputs // (64 * out_groups) * up(tokens, size) * splits
        steps = up(up(inputs // 64, splits), in_groups)
        if outputs % (64 * out_groups) or size % splits or not 32 <= blocks <= 2 * MULTIPROCESSORS:
            continue
        most = 0
        for together in (2, 1):
            threads = 128 * out_groups * in_groups * together
            if threads > 1024 or size // 2 + 70 > 65536 // threads or blocks > together * MULTIPROCESSORS:
                continue
            for stages in range(min(steps, 12), most, -1):
                way = Hopper(after, dict(TOKENS=size, OUTPUT_GROUPS=out_groups, INPUT_GROUPS=in_groups, STAGES=stages,
                                         SPLITS=splits, BLOCKS=together))
                if way.fits():
                    found.append(way)
                    most = stages
                    break
    return found


class Pass:
    """Buffers of a batch, and its kernels in order."""

    def __init__(self, lengths: list, products: dict, attention):
        self.products, self.attention, self.tokens = products, attention, sum(lengths)

        def zeros(columns: int, dtype: torch.dtype = of.BF16) -> torch.Tensor:
            return torch.zeros(self.tokens, columns, dtype=dtype, device="cuda")

        self.first = torch.randn(self.tokens, HIDDEN, device="cuda").to(of.BF16)
        self.first_squares = self.first.float().pow(2).sum(-1, keepdim=True).contiguous()
        self.x, self.scaled, self.squares = ([zeros(*shape) for _ in range(2)]
                                             for shape in ((HIDDEN,), (HIDDEN,), (64, torch.float32)))
        self.qkv, self.mixed, self.gated = zeros(QKV), zeros(HEADS * HEAD_DIM), zeros(INTERMEDIATE)
        self.scale = 1 + 0.1 * torch.randn(HIDDEN, device="cuda")
        self.norms = 1 + 0.1 * torch.randn(2, HEAD_DIM, device="cuda")
        turns = torch.outer(torch.arange(self.tokens, device="cuda").float(),
                            1e6 ** (-torch.arange(0, HEAD_DIM, 2, device="cuda").float() / HEAD_DIM))
        self.angles = torch.cat([turns.cos(), turns.sin()], 1).contiguous()
        self.meta, self.none = of.parts(lengths, False), torch.empty(1, device="cuda")

    def run(self, ways: dict) -> None:
        def product(name: str, layer: int, a: torch.Tensor, **then) -> int:
            """In how many parts its outputs' squares are."""
            own = self.products[name]
            kernel, blocks, threads, weights = ways[name].launch(own, {"a": a}, layer)
            kernel(blocks, threads, **weights, **then, tokens=self.tokens, n=own.outputs, inputs=own.inputs)
            return blocks[0]

        x, scaled, squares, parts = self.first, self.first, self.first_squares, 1
        eps, heads = {"eps": of.EPS, "head_eps": of.EPS}, {"query_heads": HEADS, "rotated_heads": HEADS + KV_HEADS}
        for layer in range(LAYERS):
            product("qkv", layer, scaled, squares=squares, parts=parts, head_norm=self.norms, angles=self.angles,
                    out=self.qkv, width=QKV, **heads, **eps)
            self.attention((len(self.meta), HEADS, 1), 128, qkv=self.qkv, cached_keys=self.none, cached_values=self.none, distances=self.none,
                           tiles=self.meta, out=self.mixed, heads=HEADS, kv_heads=KV_HEADS, cached=0, before=1 << 28,
                           after=0, scale=HEAD_DIM**-0.5)
            parts = product("o", layer, self.mixed, x=x, scale=self.scale, scaled=self.scaled[0],
                            own_squares=self.squares[0], out=self.x[0], width=HIDDEN)
            product("gate_up", layer, self.scaled[0], squares=self.squares[0], parts=parts, out=self.gated,
                    width=INTERMEDIATE, **eps)
            parts = product("down", layer, self.gated, x=self.x[0], scale=self.scale, scaled=self.scaled[1],
                            own_squares=self.squares[1], out=self.x[1], width=HIDDEN)
            x, scaled, squares = self.x[1], self.scaled[1], self.squares[1]

    def microseconds(self, ways: dict) -> float:
        return of.microseconds(lambda: self.run(ways), 7)


def words(way) -> str:
    return ", ".join(f"{name.lower()} {value}" for name, value in way.tile.items())


def main() -> int:
    torch.manual_seed(0)
    torch.zeros(1, device="cuda")
    of.FOLDER.mkdir(exist_ok=True)
    pack, wrong = of.Kernel("pack", {}), 0
    products = {name: Product(name, pack) for name in PRODUCTS}
    attention = of.attention_kernel()
    for shape in sys.argv[1:] or SHAPES:
        batch, length = map(int, shape.split("x"))
        work = Pass([length] * batch, products, attention)
        ways = {name: before(name, work.tokens) for name in PRODUCTS}
        found = {name: candidates(name, work.tokens) for name in PRODUCTS}
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda way: of.build("product_hopper", {**way.tile, "AFTER": way.after}),
                          itertools.chain(*found.values())))
        for way in itertools.chain(ways.values(), *found.values()):
            way.load()
        for name, hows in found.items():
            for way, tokens in itertools.product(hows, (5, 77, work.tokens)):
                error = products[name].error(way, tokens)
                if not error <= of.MOST_ERROR:
                    wrong += 1
                    print(f"WRONG {name}, {tokens} tokens, {words(way)}: {error:.1e}")
        best = work.microseconds(ways)
        print(f"{shape}: {best:.1f} us with product.cu", flush=True)
        for turn, name in itertools.product(range(2), ("down", "gate_up", "qkv", "o")):
            times = [(work.microseconds({**ways, name: way}), number) for number, way in enumerate(found[name])]
            for time, number in sorted(times)[:4]:
                print(f"{shape}, turn {turn}, {name:8} {time:8.1f} us  {words(found[name][number])}", flush=True)
            if times and min(times)[0] < best:
                best, number = min(times)
                ways[name] = found[name][number]
        print(f"{shape}: {work.microseconds(ways):.1f} us with " + "; ".join(f"{name} {words(way)}" for name, way in ways.items()))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
