"""The measurement: for one shape, every peer in turn, round after round."""

import random
import sys
import time

from .worker import Watch, WorkerError, machine_busy_seconds

# A visit to a peer begins with a call that is thrown away, so that each one is timed with its own
# weights in the caches, as in a row of calls; very long calls warm themselves.
WARM_BELOW_MS = 2000
REPEAT_BELOW_MS = 300
REPEATS = 3
SETTLE_SECONDS = 0.03


def median(values: list) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


class Series:
    """What one peer did for one shape."""

    def __init__(self):
        self.ms, self.shares, self.peak_memory = [], [], 0

    def summary(self) -> dict:
        shares = {
            key: median([share[key] for share in self.shares])
            for key in ("own", "idle_workers", "others")
        }
        return {
            "p50_ms": median(self.ms),
            "min_ms": min(self.ms),
            "max_ms": max(self.ms),
            "rounds": len(self.ms),
            "ms": self.ms,
            "busy_processors": shares,
            "peak_memory_bytes": self.peak_memory,
        }


def wait_for_quiet(patience: float, busy_below: float = 0.1) -> None:
    """Waits until other processes use less than a tenth of a processor, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before, began = machine_busy_seconds(), time.monotonic()
        time.sleep(0.2)
        if (machine_busy_seconds() - before) / (time.monotonic() - began) < busy_below:
            return


def visit(worker, shape, others: list, expected_ms: float) -> tuple:
    """The median of a few calls in a row, and who used the processors meanwhile."""
    if expected_ms < WARM_BELOW_MS:
        worker.milliseconds(shape)
    watch = Watch(worker, others)
    repeats = REPEATS if expected_ms < REPEAT_BELOW_MS else 1
    times = [worker.milliseconds(shape) for _ in range(repeats)]
    return median(times), watch.shares()


def measure(shape, workers: dict, rounds: int, seed: int, patience: float) -> tuple:
    """{name: Series} of every peer that takes the shape, and {name: why} of those that failed."""
    taking = {
        name: worker
        for name, worker in workers.items()
        if worker.peer.longest is None or shape.tokens <= worker.peer.longest
    }
    series, failed, expected = {}, {}, {}
    for name, worker in taking.items():
        try:
            expected[name] = worker.milliseconds(shape)  # plans, packs, allocates
            if expected[name] < 2 * WARM_BELOW_MS:
                expected[name] = worker.milliseconds(shape)
            series[name] = Series()
        except WorkerError as error:
            failed[name] = str(error)
    generator = random.Random(f"{seed} {shape}")
    for number in range(rounds):
        order = list(series)
        generator.shuffle(order)
        for name in order:
            others = [worker for other, worker in workers.items() if other != name]
            wait_for_quiet(patience)
            time.sleep(SETTLE_SECONDS)
            try:
                ms, shares = visit(taking[name], shape, others, expected[name])
            except WorkerError as error:
                failed[name] = str(error)
                del series[name]
                continue
            series[name].ms.append(ms)
            series[name].shares.append(shares)
            series[name].peak_memory = taking[name].peak_memory()
        done = " ".join(f"{name} {line.ms[-1]:.1f}" for name, line in series.items())
        print(f"{shape} round {number + 1}/{rounds}: {done}", file=sys.stderr)
    return series, failed
