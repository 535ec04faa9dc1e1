"""Makes the golden checkpoints of families/ and what transformers computes on them. See README.md.

families.py [CASE ...]   (re)makes these cases, or all of them and the tokenizers
families.py --check      makes everything again in a temporary folder and compares
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tools/golden"))

from compare import differences  # noqa: E402
from family import golden, tokenization  # noqa: E402
from family.case import Case, all_cases, root  # noqa: E402


def make(cases: list[Case], folder: Path) -> None:
    tokenization.write(folder)
    for case in cases:
        shutil.rmtree(folder / case.name, ignore_errors=True)
        golden.make(case, folder / case.name, f"python families.py {case.name}")
        files = [f for f in (folder / case.name).rglob("*") if f.is_file() and not f.is_symlink()]
        size = sum(f.stat().st_size for f in files)
        print(f"{case.name:46} {size / 1024:6.0f} KiB", flush=True)


def check(cases: list[Case]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary) / "families"
        shared = [HERE / name for name in ("tokenizer", "tokenizer-plain")]
        for source in shared:
            (Path(temporary) / source.name).symlink_to(source)
        make(cases, fresh)
        names = [case.name for case in cases] + [tokenization.FOLDER]
        found = [f"{name}/{line}" for name in names
                 for line in differences(root() / name, fresh / name)]
    committed = {path.name for path in root().iterdir()}
    found += [f"{name}: no such case" for name in sorted(committed - set(names))]
    print("\n".join(found) or f"{len(cases)} cases are as committed")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    torch.set_num_threads(1)  # so that sums have one order
    cases = all_cases()
    unknown = set(options.cases) - {case.name for case in cases}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if options.check:
        return check(cases)
    make([case for case in cases if not options.cases or case.name in options.cases], root())
    return 0


if __name__ == "__main__":
    sys.exit(main())
