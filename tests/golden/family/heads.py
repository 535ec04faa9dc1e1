"""What stands in a vector's place: scores of pairs, vectors of tokens, sparse vectors."""

from pathlib import Path

import numpy as np
import torch

from family.case import Case


def tensors(inputs: dict) -> dict:
    """Lists to a batch of one; what is None is left out."""
    return {name: torch.tensor([value]) for name, value in inputs.items() if value is not None}


def pair_entries(case: Case, encoder) -> list[dict]:
    raise NotImplementedError


def of(case: Case, folder: Path):
    return None
