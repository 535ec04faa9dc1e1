"""What rounding activations costs: simulates the CPU kernels' limbs on a checkpoint, in f32.

    python rounding.py DIR [RULE ...]

Activations that enter a linear layer are rounded a group of 64 at a time, for each row either to
one limb (int8, x = s q with s = max|x| / 127) or to two (x = s (256 hi + lo), s = max|x| / 32639).
A RULE says which; its parts are separated by commas and a later one wins:

    [LAYERS/][KIND:]SETTING       0-1/down:2   gateup:t8   t12,down:t6

KIND is all, qkv, o, gateup or down, LAYERS a range (negative ones count from the end). SETTING:

    x        unrounded
    1 or 2   that many limbs
    fN       floats of 8 bits (E4M3), groups of N; frow: a whole row
    tN       two limbs where the group's max|x| > N * rms(row), else one
    ..+pN    and two limbs for the first N tokens of each text

For each rule it prints 1e4 * (1 - cosine) to the unrounded vectors, the worst and the mean of
tools/golden/texts.py (last content token, <|endoftext|> behind the text, mean of the content), and the share
of groups with two limbs for each kind, in per cent: of (row, group)s and of (12 consecutive
rows, group)s that hold one. `work` is the number of limb products over that of one limb
everywhere, first by rows, then by tiles.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

from texts import TEXTS  # noqa: E402

GROUP, TILE = 64, 12
KINDS = ("qkv", "o", "gateup", "down")
PARTS = {"qkv": ("q_proj", "k_proj", "v_proj"), "o": ("o_proj",),
         "gateup": ("gate_proj", "up_proj"), "down": ("down_proj",)}
RULES = ["x", "2", "1"]


class Weights:
    """A checkpoint's tensors, dequantised to f32."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text("utf-8"))
        self.quantization = self.config.get("quantization", {})
        self.tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.tensors |= mx.load(str(file))

    def get(self, path: str) -> np.ndarray | None:
        """`path`.weight, or `path` itself."""
        scales = self.tensors.get(f"{path}.scales")
        weight = self.tensors.get(f"{path}.weight", self.tensors.get(path))
        if scales is not None:
            how = {key: self.quantization[key] for key in ("group_size", "bits")}
            biases = self.tensors[f"{path}.biases"].astype(mx.float32)
            weight = mx.dequantize(weight, scales.astype(mx.float32), biases, **how)
        return None if weight is None else np.array(weight.astype(mx.float32))


class Decoder:
    """Llama, Qwen2 or Qwen3 in numpy, several texts at once, their rows one behind another."""

    def __init__(self, folder: Path):
        weights = Weights(folder)
        config = weights.config
        if config.get("rope_scaling"):
            raise ValueError("rope_scaling is not simulated")
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.eps, self.theta = config["rms_norm_eps"], config["rope_theta"]
        self.embedding = weights.get("model.embed_tokens")
        self.norm = weights.get("model.norm")
        self.layers = [self.layer(weights, f"model.layers.{i}")
                       for i in range(config["num_hidden_layers"])]

    @staticmethod
    def layer(weights: Weights, path: str) -> dict:
        found = {}
        for kind, parts in PARTS.items():
            block = "self_attn" if kind in ("qkv", "o") else "mlp"
            names = [f"{path}.{block}.{part}" for part in parts]
            found[kind] = np.ascontiguousarray(np.concatenate([weights.get(n) for n in names]).T)
            biases = [weights.get(f"{name}.bias") for name in names]
            if biases[0] is not None:
                found[f"{kind}.bias"] = np.concatenate(biases)
        for name in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm",
                     "self_attn.k_norm"):
            found[name] = weights.get(f"{path}.{name}")
        return found

    def rms_norm(self, x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        if weight is None:
            return x
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * weight

    def rope(self, x: np.ndarray) -> np.ndarray:
        """x [heads, tokens, head_dim]"""
        half = self.head_dim // 2
        angles = np.arange(x.shape[1])[:, None] * self.theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def attention(self, qkv: np.ndarray, layer: dict) -> np.ndarray:
        """One text's rows."""
        tokens = len(qkv)
        sizes = np.cumsum([self.heads * self.head_dim, self.kv_heads * self.head_dim])
        q, k, v = (part.reshape(tokens, -1, self.head_dim).swapaxes(0, 1)
                   for part in np.split(qkv, sizes, axis=1))
        q = self.rope(self.rms_norm(q, layer["self_attn.q_norm"]))
        k = self.rope(self.rms_norm(k, layer["self_attn.k_norm"]))
        k, v = (np.repeat(part, self.heads // self.kv_heads, axis=0) for part in (k, v))
        scores = q @ k.swapaxes(1, 2) * np.float32(self.head_dim**-0.5)
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return (scores @ v).swapaxes(0, 1).reshape(tokens, -1)

    def final(self, texts: list[list[int]], rounding) -> list[np.ndarray]:
        """The final hidden states of each text. `rounding(x, layer number, kind)` rounds."""
        ends = np.cumsum([len(ids) for ids in texts])
        state = self.embedding[np.concatenate(texts)]

        def linear(x, i, kind):
            y = rounding(x, i, kind) @ self.layers[i][kind]
            return y + self.layers[i].get(f"{kind}.bias", np.float32(0))

        for i, layer in enumerate(self.layers):
            qkv = linear(self.rms_norm(state, layer["input_layernorm"]), i, "qkv")
            mixed = [self.attention(part, layer) for part in np.split(qkv, ends[:-1])]
            state = state + linear(np.concatenate(mixed), i, "o")
            x = self.rms_norm(state, layer["post_attention_layernorm"])
            gate, up = np.split(linear(x, i, "gateup"), 2, axis=1)
            state = state + linear(gate / (1 + np.exp(-gate)) * up, i, "down")
        return np.split(self.rms_norm(state, self.norm), ends[:-1])


def limbs(x: np.ndarray, steps: int, group: int) -> np.ndarray:
    """x [rows, inputs] rounded to multiples of max|x| / steps, a group at a time."""
    groups = x.reshape(len(x), -1, group)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(steps)
    scale[scale == 0] = 1
    return (np.rint(groups / scale) * scale).reshape(x.shape)


def e4m3(x: np.ndarray, group: int) -> np.ndarray:
    """x [rows, inputs] as floats of 8 bits, scaled a group at a time so that the largest is the format's."""
    groups = x.reshape(len(x), -1, group)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(448)
    scale[scale == 0] = 1
    scaled = groups / scale
    _, exponents = np.frexp(scaled)
    # Three bits behind the first, in steps of 2^-9 at the smallest.
    step = np.maximum(np.exp2(exponents.astype(np.float32) - 4), np.float32(2**-9))
    return (np.rint(scaled / step) * step * scale).reshape(x.shape)


@dataclass
class Rounding:
    rule: str
    layers: int
    positions: np.ndarray  # of each row in its text
    seen: dict = field(default_factory=dict)  # kind: [two-limb rows, rows, tiles, tiles], summed
    work: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def setting(self, layer: int, kind: str) -> str:
        found = None
        for part in self.rule.split(","):
            match = re.fullmatch(
                r"(?:(-?\d+)(?:-(-?\d+))?/)?(?:(\w+):)?([\w.+]+)", part)
            if not match:
                sys.exit(f"no such rule: {part}")
            first, last, kinds, setting = match.groups()
            if first:
                first, last = (int(n) % self.layers for n in (first, last or first))
                if not first <= layer <= last:
                    continue
            if kinds in (None, "all", kind):
                found = setting
        return found or "x"

    def __call__(self, x: np.ndarray, layer: int, kind: str) -> np.ndarray:
        setting = self.setting(layer, kind)
        if setting == "x":
            return x
        if setting.startswith("f"):
            return e4m3(x, x.shape[1] if setting == "frow" else int(setting[1:]))
        setting, _, start = setting.partition("+p")
        two = self.chosen(x, setting)
        if start:
            two |= (self.positions < int(start))[:, None]
        self.count(two, kind, x.shape[1])
        mask = np.repeat(two, GROUP, axis=1)
        return np.where(mask, limbs(x, 32639, GROUP), limbs(x, 127, GROUP))

    @staticmethod
    def chosen(x: np.ndarray, setting: str) -> np.ndarray:
        """[rows, groups]: which get two limbs."""
        largest = np.abs(x.reshape(len(x), -1, GROUP)).max(-1)
        if setting in ("1", "2"):
            return np.full(largest.shape, setting == "2")
        if setting[0] == "t":
            return largest > float(setting[1:]) * np.sqrt(np.mean(x * x, axis=1, keepdims=True))
        sys.exit(f"no such setting: {setting}")

    def count(self, two: np.ndarray, kind: str, inputs: int) -> None:
        starts = range(0, len(two), TILE)
        tiles = np.array([two[start:start + TILE].any(0) for start in starts])
        seen = np.array([two.sum(), two.size, tiles.sum(), tiles.size])
        self.seen[kind] = self.seen.get(kind, 0) + seen
        shares = np.array([1 + two.mean(), 1 + tiles.mean(), 1])
        self.work += shares * inputs * self.outputs[kind]

    outputs = dict.fromkeys(KINDS, 1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def pooled(state: np.ndarray) -> dict:
    """The text's rows and, behind them, the end token's."""
    return {"last": state[-2], "end": state[-1], "mean": state[:-1].mean(0)}


def table_line(rule: str, rounding: Rounding, wanted: list, found: list) -> str:
    pairs = [(pooled(a), pooled(b)) for a, b in zip(wanted, found, strict=True)]
    line = f"{rule:32}"
    for how in ("last", "end", "mean"):
        lost = [1e4 * (1 - cosine(a[how], b[how])) for a, b in pairs]
        line += f" {max(lost):8.3f} {np.mean(lost):6.3f}"
    for kind in KINDS:
        rows, of_rows, tiles, of_tiles = rounding.seen.get(kind, (0, 1, 0, 1))
        line += f"  {100 * rows / of_rows:6.2f} {100 * tiles / of_tiles:5.1f}"
    rows, tiles, all_rows = rounding.work
    return f"{line}  {rows / all_rows:6.3f} {tiles / all_rows:5.3f}" if all_rows else line


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", type=Path, help="the checkpoint")
    parser.add_argument("rules", nargs="*", metavar="RULE", default=RULES)
    parser.add_argument("--texts", type=Path, help="a JSON list of other texts")
    options = parser.parse_args()
    texts = json.loads(options.texts.read_text("utf-8")) if options.texts else TEXTS
    mx.set_default_device(mx.cpu)
    decoder = Decoder(options.dir)
    Rounding.outputs = {kind: decoder.layers[0][kind].shape[1] for kind in KINDS}
    tokenizer = Tokenizer.from_file(str(options.dir / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    ids = [tokenizer.encode(text, add_special_tokens=False).ids + [end] for text in texts]
    positions = np.concatenate([np.arange(len(text)) for text in ids])
    wanted = decoder.final(ids, lambda x, layer, kind: x)
    print("tokens of the texts:", *(len(text) - 1 for text in ids))
    print(f"{'':32} {'1e4 (1 - cosine), worst and mean':^47}  two limbs, % of rows and tiles")
    print(f"{'rule':32} {'last':^15} {'end':^15} {'mean':^15}"
          + "".join(f"  {kind:^12}" for kind in KINDS) + "   work")
    for rule in options.rules:
        rounding = Rounding(rule, len(decoder.layers), positions)
        found = decoder.final(ids, rounding)
        print(table_line(rule, rounding, wanted, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
