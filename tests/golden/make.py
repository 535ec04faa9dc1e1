"""Makes the golden checkpoints and what mlx-lm computes on them. See README.md.

make.py [CASE ...]      (re)makes these cases, or all of them and the tokenizers
make.py --check         makes everything again in a temporary folder and compares
make.py --check-torch   compares the dense cases with transformers; writes torch.json
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tools/golden"))

import checkpoint  # noqa: E402
import golden_file  # noqa: E402
import reference  # noqa: E402
import tokenizer  # noqa: E402
from cases import CASES, TEXTS, Case  # noqa: E402
from compare import GOLDEN, differences  # noqa: E402

def prompted_texts(case: Case) -> list[dict]:
    """Every text without a prompt, then with each of the case's prompts."""
    names = [None, *case.prompts]
    return [
        {"text": text, "prompt_name": name, "prompt": case.prompts.get(name, "")}
        for name in names
        for text in TEXTS
    ]


def make_case(case: Case, root: Path) -> None:
    folder = root / case.name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.write(case, folder)
    if case.checkpoint:
        return  # its golden file is among the links
    model = checkpoint.load(case, folder)
    golden = golden_file.Golden((case.pooling,))
    for i, entry in enumerate(prompted_texts(case)):
        entry["ids"] = tokenizer.encode(root / case.tokenizer, entry["prompt"] + entry["text"])
        states = reference.hidden_states(model, entry["ids"])
        rows = list(range(len(entry["ids"]))) if i in case.hidden else []
        golden.add(entry, states, rows, sketched=False)
    source = {
        "about": case.about,
        "command": f"python make.py {case.name}",
        "reference": reference.ABOUT.format("f32"),
    }
    golden.write(folder / GOLDEN, folder, source, reference.PACKAGES)


def make(cases: list[Case], root: Path) -> None:
    tokenizer.write(root)
    for case in cases:
        make_case(case, root)
        size = sum(f.stat().st_size for f in (root / case.name).iterdir() if not f.is_symlink())
        print(f"{case.name:42} {size / 1024:7.0f} KiB", flush=True)


def check() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        make(CASES, Path(temporary))
        found = []
        for name in ["tokenizer", "tokenizer-plain", *(case.name for case in CASES)]:
            found += [f"{name}/{d}" for d in differences(HERE / name, Path(temporary) / name)]
    print("\n".join(found) or f"{len(CASES)} cases are as committed")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--check-torch", action="store_true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    if options.check:
        return check()
    if options.check_torch:
        import torch_check

        return torch_check.run(HERE)
    unknown = set(options.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    make([case for case in CASES if not options.cases or case.name in options.cases], HERE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
