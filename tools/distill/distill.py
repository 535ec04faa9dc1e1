"""Distils the default model. See README.md.

distill.py [--work DIR] [STAGE ...]     without stages: all that are not done yet
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MODEL = REPOSITORY / "mlx-embed/models/default"
CUTS, MADE = 11_000_000, 2_000_000  # texts cut from running text, and invented ones
# Measured on one H100: 41 steps a second, 40 with 4 bits in the loop.
STEPS = {"stable": 22_500, "dense": 5200, "4bit": 9000}
PREPARED = ("fetch", "corpus", "tokenizer")  # stages whose results a tiny run shares
TINY = {"stable": 4, "dense": 2, "4bit": 2}


def settings(options):
    from student import Config
    from train import Settings

    small = {"rows": 8, "compiled": False} if options.tiny else {}
    return Config(), Settings(**small)


def stage_fetch(options):
    import fetch

    fetch.fetch(options.work)


def stage_corpus(options):
    import corpus

    corpus.build(options.work)


def stage_tokenizer(options):
    import bpe

    bpe.build(options.work, settings(options)[0].vocab_size)


def stage_pool(options):
    import pool

    cuts, made, whole = (3000, 160, 3000) if options.tiny else (CUTS, MADE, None)
    pool.build(options.work, cuts, made, whole)


def stage_train(options):
    from batches import Pool
    from train import train

    steps = TINY if options.tiny else STEPS
    if not all((options.work / f"runs/default-{end}.pt").exists() for end in ("dense", "4bit")):
        train(options.work, Pool(options.work, options.device), *settings(options), steps, "default")


def stage_export(options):
    import export

    runs, tokenizer = options.work / "runs", options.work / "tokenizer.json"
    export.export(runs / "default-4bit.pt", tokenizer, options.work / "4bit" if options.tiny else MODEL, quantised=True)
    export.export(runs / "default-dense.pt", tokenizer, options.work / "dense", quantised=False)


STAGES = {name.removeprefix("stage_"): function for name, function in list(globals().items()) if name.startswith("stage_")}


def tiny(work: Path) -> Path:
    """A folder for tiny results that starts from the same corpus, so that none of them is taken for the real thing."""
    folder = work / "tiny"
    folder.mkdir(exist_ok=True)
    for name in ("sources", "corpus", "tokenizer.json"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(work / name)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/distill")
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a few texts and steps: shows on a CPU that all stages run")
    options = parser.parse_args()
    unknown = set(options.stages) - STAGES.keys()
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    if options.device is None:
        import torch

        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work
    for name in options.stages or STAGES:
        options.work = tiny(work) if options.tiny and name not in PREPARED else work
        print(json.dumps({"stage": name}), flush=True)
        STAGES[name](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
