"""Texts by number of tokens."""

from collections.abc import Callable

from cases import TEXTS

PROSE = (
    "By the time the lamps were lit the harbour had gone quiet, and the last of the boats lay "
    "against the wall with its nets drying over the rail. A dog crossed the square and looked into "
    "each doorway as if it had lost someone. In the kitchen of the inn they were cutting bread and "
    "talking about the weather, about the price of salt, and about the road over the hill, which had "
    "been closed since the rain began. Nobody had come that way for nine days. On the tenth a man "
    "with a lantern knocked at the door and asked for a room, and because he had wet shoes and a "
    "pleasant voice they gave him the one above the stable, where it is always warm. "
)
LINES = "; ".join(f"{i} times {i} is {i * i}" for i in range(7, 60))


def of_length(encode: Callable[[str], list[int]], tokens: int) -> str:
    """A beginning of the prose that has exactly so many tokens."""
    source = PROSE + LINES
    low = 0
    for end in range(low, len(source) + 1):
        if len(encode(source[:end])) == tokens:
            return source[:end]
    raise ValueError(f"no text of {tokens} tokens")


def texts(encode: Callable[[str], list[int]], lengths: tuple, more: tuple) -> list[str]:
    return [*TEXTS, *more, *(of_length(encode, tokens) for tokens in lengths)]


def rows(index: int, tokens: int) -> list[int]:
    """Tokens whose states are kept: all of two short texts, the ends and the middle of the texts
    that are here for their length, none of the others."""
    if index in (0, 2):
        return list(range(min(tokens, 12)))
    if index < len(TEXTS):
        return []
    return sorted({0, tokens // 2, tokens - 1})
