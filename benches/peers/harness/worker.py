"""A peer's process: started once, asked with JSON lines, watched through /proc."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class WorkerError(Exception):
    """A worker that could not be started, ended early or answered something else."""


class Worker:
    """An answer that takes over `limit` seconds ends the worker."""

    def __init__(self, name: str, peer, log_folder: Path, nice: int, limit: float):
        self.name, self.peer, self.limit = name, peer, limit
        self.log = log_folder / f"{name}.log"
        try:
            self.process = subprocess.Popen(
                [str(part) for part in peer.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=open(self.log, "w"),
                text=True,
                bufsize=1,
                env={**os.environ, **peer.environment},
                start_new_session=True,
            )
            if nice:
                set_niceness(self.process.pid, nice)
        except OSError as error:
            raise WorkerError(f"{name} does not start: {error}") from error
        self.facts = {}

    def wait_until_ready(self) -> None:
        """Waits for the line with the worker's versions and settings. Ours has none: it just answers."""
        if "--stdin" not in self.peer.command:
            self.facts = self._read()["ready"]

    def ask(self, request: dict) -> dict:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return self._read()

    def milliseconds(self, shape) -> float:
        answer = self.ask({"batch": shape.batch, "tokens": shape.tokens})
        if (answer.get("batch"), answer.get("tokens")) != (shape.batch, shape.tokens):
            raise WorkerError(f"{self.name} answered {answer} when asked for {shape}")
        return answer["ms"]

    def _read(self) -> dict:
        timer = threading.Timer(self.limit, self.process.kill)
        began = time.monotonic()
        timer.start()
        line = self.process.stdout.readline()
        late = time.monotonic() - began >= self.limit
        timer.cancel()
        if not line:
            raise WorkerError(f"{self.name} took over {self.limit:.0f} s") if late else self._ended()
        try:
            return json.loads(line)
        except ValueError as error:
            raise WorkerError(f"{self.name} printed {line[:200]!r}, which is not JSON") from error

    def _ended(self) -> WorkerError:
        code = self.process.wait()
        lines = self.log.read_text(errors="replace").strip().splitlines() or [f"see {self.log}"]
        return WorkerError(f"{self.name} ended with {code}: {lines[-1][:300]}")

    def cpu_seconds(self) -> float:
        """Processor time used so far, all threads."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak_memory(self) -> int:
        """Largest resident size so far (VmHWM), in bytes; 0 where /proc does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0

    def stop(self) -> None:
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def set_niceness(pid: int, nice: int) -> None:
    """Of the process and, where the kernel schedules by session (autogroup), of its session."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text(str(nice))


def machine_busy_seconds() -> float:
    """Processor time that all processes together used so far, and what the host took away."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft_irq, steal = map(int, fields[:8])
    return (user + nice + system + irq + soft_irq + steal) / TICK


class Watch:
    """Who used the processors between two moments: the worker, the idle workers, everyone else."""

    def __init__(self, worker: Worker, others: list):
        self.worker, self.others = worker, others
        self.begin = self._read()

    def _read(self) -> tuple:
        idle = sum(other.cpu_seconds() for other in self.others)
        return time.perf_counter(), self.worker.cpu_seconds(), idle, machine_busy_seconds()

    def shares(self) -> dict:
        """In processors: 2.0 is two of them busy all the time."""
        elapsed, own, idle, busy = (b - a for a, b in zip(self.begin, self._read()))
        elapsed = max(elapsed, 1e-9)
        rest = max(busy - own - idle, 0.0)
        return {"own": own / elapsed, "idle_workers": idle / elapsed, "others": rest / elapsed}
