"""Reads a program for macOS, and what it loads, without macOS: does the loader find every library and every symbol?

    macho.py PROGRAM

Follows load commands as dyld would: absolute paths, and @rpath by the run paths of whoever loads. Of the system's own
libraries only the names are known, and which symbols are left to them.
"""

import re
import struct
import sys
from pathlib import Path

MAGIC, ARM64 = 0xFEEDFACF, 0x0100000C
LC_SYMTAB, LC_ID_DYLIB, LC_RPATH, LC_BUILD_VERSION = 0x2, 0xD, 0x8000001C, 0x32
LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB = 0xC, 0x80000018, 0x8000001F
KINDS = {2: "program", 6: "library"}
# Values of n_desc's library: the image itself, and any image.
SELF, ANY = 0, 0xFE
SYSTEM = ("/usr/lib/", "/System/Library/")
# Who defines symbols that are looked up in every image.
LEFT_TO = {
    "/usr/lib/libc++.1.dylib": re.compile(
        r"___cxa_|___gxx_|___dynamic_cast|__Z[dn][alwv]|__ZTVN10__cxxabiv1|__Z(T[ISTV]|T[vh][0-9n_]+|GV)?N?K?S[a-z]"),
    "/System/Library/Frameworks/Security.framework/Versions/A/Security": re.compile(r"_k?Sec"),
    "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation": re.compile(r"_k?CF"),
}


class Fault(Exception):
    """What dyld would stop at."""


class Image:
    """A Mach-O file of 64 bits: what it loads, takes and gives."""

    def __init__(self, path: Path):
        self.path, data = path, path.read_bytes()
        magic, machine, _, kind, commands = struct.unpack_from("<5I", data)
        if magic != MAGIC or machine != ARM64:
            raise Fault(f"{path} is no Mach-O file for arm64")
        self.kind = KINDS.get(kind, str(kind))
        self.name, self.loads, self.run_paths, self.least = None, [], [], "?"
        self.defined, self.undefined = set(), {}
        offset = 32
        for _ in range(commands):
            command, size = struct.unpack_from("<2I", data, offset)
            text = lambda: data[offset + struct.unpack_from("<I", data, offset + 8)[0]:offset + size].split(b"\0")[0].decode()
            if command == LC_ID_DYLIB:
                self.name = text()
            elif command in (LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB):
                self.loads.append(text())
            elif command == LC_RPATH:
                self.run_paths.append(text())
            elif command == LC_BUILD_VERSION:
                version = struct.unpack_from("<I", data, offset + 12)[0]
                self.least = f"{version >> 16}.{version >> 8 & 255}"
            elif command == LC_SYMTAB:
                self.symbols(data, *struct.unpack_from("<4I", data, offset + 8))
            offset += size

    def symbols(self, data: bytes, table: int, count: int, names: int, size: int) -> None:
        for index in range(count):
            name, kind, _, description, _ = struct.unpack_from("<IBBHQ", data, table + 16 * index)
            if kind & 0xE0 or not kind & 1:
                continue  # for debuggers, or not external
            text = data[names + name:data.index(b"\0", names + name, names + size)].decode()
            if kind & 0xE:
                self.defined.add(text)
            else:
                self.undefined[text] = description >> 8


def resolve(load: str, run_paths: list) -> Path:
    if not load.startswith("@rpath/"):
        return Path(load)
    found = [Path(folder) / load.removeprefix("@rpath/") for folder in run_paths]
    for path in found:
        if path.is_file():
            return path
    raise Fault(f"{load} is in none of the run paths {run_paths}")


def load(path: Path, run_paths: list, images: dict) -> None:
    """Puts an image and all that it loads into `images`, by the names that they are loaded under."""
    image = Image(path)
    images[path] = image
    for name in image.loads:
        if not name.startswith(SYSTEM):
            library = resolve(name, run_paths + image.run_paths)
            if library not in images:
                load(library, run_paths + image.run_paths, images)
            if images[library].name != name:
                raise Fault(f"{path} loads {name}, and {library} calls itself {images[library].name}")


def check(image: Image, images: dict, run_paths: list) -> dict:
    """Counts an image's symbols by who defines them."""
    counts = {}
    given = {path: other.defined for path, other in images.items()}
    system = {name for other in images.values() for name in other.loads if name.startswith(SYSTEM)}
    for symbol, library in image.undefined.items():
        if library == ANY:
            owner = next((str(path) for path, symbols in given.items() if symbol in symbols), None)
            owner = owner or next((name for name, mine in LEFT_TO.items() if name in system and mine.match(symbol)), None)
        else:
            name = image.loads[library - 1]
            owner = name if name.startswith(SYSTEM) else str(resolve(name, run_paths + image.run_paths))
            if owner == str(image.path) or not name.startswith(SYSTEM) and symbol not in given[Path(owner)]:
                owner = None
        if owner is None:
            raise Fault(f"{image.path} needs {symbol}, which nothing that is loaded defines")
        counts[owner] = counts.get(owner, 0) + 1
    return counts


def main() -> int:
    program = Path(sys.argv[1])
    images = {}
    try:
        load(program, [], images)
        run_paths = [folder for image in images.values() for folder in image.run_paths]
        for path, image in images.items():
            counts = check(image, images, run_paths)
            print(f"{image.kind} {path}, macOS {image.least} or later" + "".join(
                f"\n  {count} symbols of {owner}" for owner, count in sorted(counts.items())))
    except Fault as fault:
        print(f"{program}: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
