"""What is compared: a model, and its peers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import check, encoders, peers, prepare
from .geometry import Geometry


@dataclass
class Lineup:
    """`peers` takes the checkpoint for mlx-embed and the threads; `cosine` a worker and the reference."""

    about: str
    model: Path
    shapes: str
    default: list
    peers: Callable
    prepare: Callable
    reference: Callable
    cosine: Callable
    geometry: Callable


def of(encoder: str | None) -> Lineup:
    if encoder is None:
        return Lineup(
            "Qwen3-Embedding-0.6B's geometry, 4 bits", peers.MODEL, peers.SHAPES, peers.DEFAULT, peers.peers,
            prepare.prepare, check.reference, check.cosine, partial(Geometry, peers.MODEL, bits=4.5, causal=True),
        )
    model = encoders.folder(encoder)
    return Lineup(
        f"{encoder}'s geometry, f32", model, encoders.SHAPES, encoders.default(encoder), partial(encoders.peers, encoder),
        partial(encoders.prepare, encoder), partial(encoders.reference, encoder), encoders.cosine,
        partial(Geometry, model, bits=32, causal=False),
    )
