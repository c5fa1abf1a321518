"""Sobol's sequence: points that fill a cube evenly, one after the other.

Direction numbers: the first 21 dimensions of Joe and Kuo, "Constructing Sobol sequences with better
two-dimensional projections" (2008), new-joe-kuo-6.
"""

from __future__ import annotations

from functools import cache

BITS = 32

# degree, coefficients of the polynomial, first direction numbers; the first dimension has none
_TABLE = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
    (5, 4, (1, 1, 5, 5, 5)),
    (5, 7, (1, 1, 7, 11, 19)),
    (5, 11, (1, 1, 5, 1, 1)),
    (5, 13, (1, 1, 1, 3, 11)),
    (5, 14, (1, 3, 5, 5, 31)),
    (6, 1, (1, 3, 3, 9, 7, 49)),
    (6, 13, (1, 1, 1, 15, 21, 21)),
    (6, 16, (1, 3, 1, 13, 27, 49)),
    (6, 19, (1, 1, 1, 15, 7, 5)),
    (6, 22, (1, 3, 1, 15, 13, 25)),
    (6, 25, (1, 1, 5, 5, 19, 61)),
    (7, 1, (1, 3, 7, 11, 23, 15, 103)),
    (7, 4, (1, 3, 7, 13, 13, 15, 69)),
)
MOST = len(_TABLE) + 1  # dimensions


def sobol(number: int, dimensions: int) -> tuple[float, ...]:
    """Point `number` (from 0, the origin) in [0, 1)^dimensions, at most MOST of them."""
    gray = number ^ (number >> 1)
    return tuple(_coordinate(gray, dimension) / (1 << BITS) for dimension in range(dimensions))


def _coordinate(gray: int, dimension: int) -> int:
    directions = _directions(dimension)
    total = 0
    for bit in range(gray.bit_length()):
        if gray >> bit & 1:
            total ^= directions[bit]
    return total


@cache
def _directions(dimension: int) -> list[int]:
    if dimension == 0:
        return [1 << (BITS - 1 - bit) for bit in range(BITS)]
    degree, coefficients, first = _TABLE[dimension - 1]
    found = [m << (BITS - 1 - bit) for bit, m in enumerate(first)]
    for bit in range(degree, BITS):
        value = found[bit - degree] ^ (found[bit - degree] >> degree)
        for k in range(1, degree):
            if coefficients >> (degree - 1 - k) & 1:
                value ^= found[bit - k]
        found.append(value)
    return found
