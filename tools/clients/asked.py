"""What every client is asked with, and how answers are looked at."""

import math

CAT, FELINE, MARKET = "The cat sat on the mat", "A feline rested on the rug", "The stock market crashed today"


def check_order(cat, feline, market):
    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)

    assert len(cat) == 384, len(cat)
    assert cosine(cat, feline) > 0.5 > 0.3 > cosine(cat, market)


def refused(call, kind, part):
    try:
        call()
    except kind as error:
        assert part in str(error), error
        return error
    raise AssertionError(f"no {kind.__name__}")
