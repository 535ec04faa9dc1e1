#!/usr/bin/env python3
"""How much of an NVIDIA GPU's memory mlx-embed takes, as nvidia-smi tells it, CUDA's own context included: memory.py
PROGRAM DIR [BATCHES]. The GPU has to be idle otherwise.

Prints it after single batches up to ten texts of 512 tokens, and in another process after every fifth of BATCHES (10,000)
batches of one to ten texts of up to 512 tokens each. Exits with 1 where it grows behind the first fifth, or is 1 GB."""

import json
import random
import subprocess
import sys

SHAPES = ((1, 4), (10, 16), (1, 512), (32, 128), (10, 512))
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
MOST_MIB = 10**9 / 2**20


def memory() -> int:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def command(program: str, model: str, *options: str, device: str = "gpu") -> list:
    """Answers a line {"batch": B, "tokens": T} with one of the time that it took."""
    return [program, "bench", "--stdin", "--quiet", "--model", model, "--device", device, *options]


class Model:
    def __init__(self, program: str, model: str, *options: str, device: str = "gpu"):
        arguments = command(program, model, *options, device=device)
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, batch: int, tokens: int) -> float:
        """Milliseconds."""
        print(json.dumps({"batch": batch, "tokens": tokens}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())["ms"]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> int:
    program, folder = sys.argv[1:3]
    batches = int(sys.argv[3]) if len(sys.argv) > 3 else 10000
    model, seen = Model(program, folder), []
    for batch, tokens in SHAPES:
        model.call(batch, tokens)
        seen.append(memory())
        print(f"after {batch}x{tokens}: {seen[-1]} MiB", flush=True)
    model.end()
    model, choose, later = Model(program, folder), random.Random(1), []
    for number in range(1, batches + 1):
        batch = choose.randint(1, 10)
        longest = min(choose.choice(LENGTHS), 4096 // batch)
        model.call(batch, max(1, longest - choose.randint(0, 7)))
        if number % (batches // 5) == 0:
            later.append(memory())
            print(f"after {number} batches: {later[-1]} MiB", flush=True)
    model.end()
    return int(later[-1] > later[0] or max(seen + later) >= MOST_MIB)


if __name__ == "__main__":
    sys.exit(main())
