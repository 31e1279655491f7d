"""Softmax in float32 with the same bits on every machine: the twin of the kernels `cap_logits` and `sum_exps`.

exp and tanh of libm and of NumPy differ between releases and CPUs in the last bit, which would be enough to change a
ranking. So both are written out in float32 with +, -, *, / alone, which IEEE 754 rounds to one result everywhere, and
are good to about one unit in the last place. log, needed once per softmax, is the same in float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Floats

LANES = 16
SMALLEST = np.float32(-86)
"""Below, exp is 0: what float32 holds there is no longer normal, and no sum of probabilities would notice."""
LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # high times a whole number is exact
ROUND = np.float32(12582912)
"""1.5 * 2^23: added to a small number, it leaves the nearest whole one in the last bits."""
TERMS = [np.float32(term) for term in (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2)]  # of e^r, r <= ln(2) / 2
LN2 = 0.6931471805599453
SERIES = [1 / n for n in range(21, 0, -2)]  # of atanh, in float64


def capped(logits: Floats, cap: float | None) -> Floats:
    """cap tanh(logits / cap), element by element; None: the logits themselves."""
    if cap is None:
        return logits
    size = np.abs(logits) / np.float32(cap)
    power, rest = _exp_parts(np.maximum(np.float32(-2) * size, SMALLEST))
    below_one = (power - np.float32(1)) + power * rest  # e^(-2 size) - 1
    return np.copysign(np.float32(cap) * (-below_one / (np.float32(2) + below_one)), logits)


def log_sum_exp(logits_UN: Floats) -> Floats:
    """(U,) log sum_n exp(logits), never below the largest of them; -inf counts as nothing. N >= 1.

    Exponents are taken off the largest logit. Lane j adds elements j, j + 16, ... in order; then halves are folded.
    """
    rows, count = logits_UN.shape
    largest_U = logits_UN.max(axis=1)
    shifted_UN = np.pad(logits_UN - largest_U[:, None], ((0, 0), (0, -count % LANES)), constant_values=-np.inf)
    lanes_UL = np.add.accumulate(_exp(shifted_UN).reshape(rows, -1, LANES), axis=1)[:, -1]
    while lanes_UL.shape[1] > 1:
        left, right = np.split(lanes_UL, 2, axis=1)
        lanes_UL = left + right
    sums: Floats = largest_U + _log(lanes_UL[:, 0])
    return sums


def _exp(x: Floats) -> Floats:
    """e^x for x <= 0."""
    power, rest = _exp_parts(np.maximum(x, SMALLEST))
    return np.where(x < SMALLEST, np.float32(0), power + power * rest)


def _exp_parts(x: Floats) -> tuple[Floats, Floats]:
    """(2^n, e^r - 1) with e^x = 2^n e^r, |r| <= ln(2) / 2."""
    rounded = x * LOG2_E + ROUND
    whole = rounded - ROUND
    r = (x - whole * LN2_HIGH) - whole * LN2_LOW
    polynomial = TERMS[0]
    for term in TERMS[1:]:
        polynomial = polynomial * r + term
    exponent = rounded.view(np.int32) - ROUND.view(np.int32) + 127
    return (exponent << 23).view(np.float32), r + r * r * polynomial


def _log(x: Floats) -> Floats:
    """log x for x >= 1, from 2 atanh(f) = log((1 + f) / (1 - f))."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    small = mantissa < 0.7071067811865476
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), exponent - small
    f = (mantissa - 1) / (mantissa + 1)
    square = f * f
    series: NDArray[Any] = np.zeros_like(f)
    for term in SERIES:
        series = series * square + term
    out: Floats = (exponent * LN2 + 2 * (f * series)).astype(np.float32)
    return out
