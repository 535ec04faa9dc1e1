"""Writes Debian packages, without Debian's tools: an `ar` archive of two tar files."""

import gzip
import hashlib
import io
import re
import tarfile
from pathlib import Path

# The packages that bring a system's libraries.
OF = {"libc.so.6": "libc6", "libm.so.6": "libc6", "libpthread.so.0": "libc6", "libdl.so.2": "libc6", "librt.so.1": "libc6",
      "ld-linux-x86-64.so.2": "libc6", "ld-linux-aarch64.so.1": "libc6", "libstdc++.so.6": "libstdc++6",
      "libgcc_s.so.1": "libgcc-s1"}

# The version of libstdc++6, which is GCC's, that first has GLIBCXX_3.4.N.
FIRST_GCC = {26: "9", 27: "9", 28: "9", 29: "11", 30: "12", 31: "13.1", 32: "13.2", 33: "14", 34: "15"}


class DebianError(Exception):
    """Why there is no package."""


def newest(prefix: str, files: list) -> tuple:
    """The highest version of a library's symbols that files ask for, by the names of versions that they hold."""
    pattern = re.compile(rb"\0" + prefix.encode() + rb"_([0-9.]+)(?=\0)")
    found = [tuple(map(int, each.decode().split("."))) for file in files for each in pattern.findall(file.read_bytes())]
    return max(found, default=())


def depends(system: set, files: list) -> str:
    """The field Depends: for names of a system's libraries, and the files that need them."""
    unknown = sorted(system - OF.keys())
    if unknown:
        raise DebianError(f"no package is known to bring {', '.join(unknown)}")
    least = {"libc6": ".".join(map(str, newest("GLIBC", files)))}
    cxx = newest("GLIBCXX", files)
    if cxx and max(cxx[2], min(FIRST_GCC)) not in FIRST_GCC:
        raise DebianError(f"it is not known which libstdc++6 first has GLIBCXX_{'.'.join(map(str, cxx))}")
    if cxx:
        least["libstdc++6"] = FIRST_GCC[max(cxx[2], min(FIRST_GCC))]
    packages = sorted({OF[name] for name in system})
    return ", ".join(f"{name} (>= {least[name]})" if least.get(name) else name for name in packages)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


def tree(tar: tarfile.TarFile, root: Path) -> None:
    """All below a folder, as root's and without times, so that the same files give the same archive."""
    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = "root"
        info.mode = 0o777 if info.issym() else 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    for path in sorted(root.rglob("*")):
        tar.add(path, arcname=f"./{path.relative_to(root)}", recursive=False, filter=plain)


def packed(fill) -> bytes:
    content = io.BytesIO()
    with (gzip.GzipFile(fileobj=content, mode="wb", compresslevel=6, mtime=0) as packer,
          tarfile.open(fileobj=packer, mode="w", format=tarfile.GNU_FORMAT) as tar):
        fill(tar)
    return content.getvalue()


def write(to: Path, root: Path, fields: dict) -> None:
    """The package of all below a folder; `fields` are those of its control file."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    fields["Installed-Size"] = str(sum(path.stat().st_size // 1024 + 1 for path in files))
    control = "".join(f"{name}: {value}\n" for name, value in fields.items())
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)

    def about(tar: tarfile.TarFile) -> None:
        add(tar, "./control", control.encode())
        add(tar, "./md5sums", sums.encode())

    members = (("debian-binary", b"2.0\n"), ("control.tar.gz", packed(about)),
               ("data.tar.gz", packed(lambda tar: tree(tar, root))))
    with to.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members:
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
