"""The exponential that all kernels share, against float64 over every float32.

Every one of the 2**32 bit patterns goes through the kernel of the default instruction set. What is compared with what:

- Where exp is neither 0, inf nor near 1, 2**-25 <= |x| with x between -104 and 89: NumPy's float64 exp, within 1 ulp.
- |x| < 2**-25: exp(x) is within 2**-25 of 1, so the result must be 1 or one of its neighbours.
- Beyond: the result must be 0 (or the smallest subnormal, within 1 ulp of it) below -104, inf above 89, and NaN for NaN.

The other instruction sets see every 257th pattern.
"""

import numpy as np
import pytest

from softcore import kernels
from softcore.testing import ulp_error

FLOAT = np.dtype(np.float32)
BLOCK = 1 << 18  # stays in the cache
NEAR_ONE = int(np.float32(2.0**-25).view(np.uint32))
HIGHEST = int(np.float32(89).view(np.uint32))
LOWEST = int(np.float32(104).view(np.uint32))
INF = int(np.float32(np.inf).view(np.uint32))
SIGN = 1 << 31
TOP = 1 << 32


def exp(x):
    y = np.empty_like(x)
    kernels.core.run("exp", x.dtype, (x,), (y,), 1)
    return y


def within_one_ulp(y, x):
    """Whether every y is within 1 float32 ulp of exp(x), subnormals and inf included."""
    expected = np.exp(x.astype(float))
    unit = np.spacing(expected.astype(np.float32)).astype(float)  # at the nearest float32: a quick answer, too strict at powers of 2
    if (np.abs(y - expected) <= 0.75 * unit).all():
        return True
    return bool((ulp_error(y, expected) <= 1).all())


def one_or_its_neighbour(y, x):
    one = np.float32(1)
    return bool(((y >= np.nextafter(one, np.float32(0))) & (y <= np.nextafter(one, np.float32(2)))).all())


def vanishes(y, x):
    return bool(((y >= 0) & (y <= np.float32(1e-45))).all())


RANGES = {  # of bit patterns
    "near_zero": (0, NEAR_ONE, one_or_its_neighbour),
    "rising": (NEAR_ONE, HIGHEST + 1, within_one_ulp),
    "overflow": (HIGHEST + 1, INF + 1, lambda y, x: bool((y == np.inf).all())),
    "nan": (INF + 1, SIGN, lambda y, x: bool(np.isnan(y).all())),
    "near_negative_zero": (SIGN, SIGN + NEAR_ONE, one_or_its_neighbour),
    "falling": (SIGN + NEAR_ONE, SIGN + LOWEST + 1, within_one_ulp),
    "underflow": (SIGN + LOWEST + 1, SIGN + INF + 1, vanishes),
    "negative_nan": (SIGN + INF + 1, TOP, lambda y, x: bool(np.isnan(y).all())),
}


def values(first, last, step):
    """The float32 of bit patterns first, first + step, ... below last, in blocks."""
    for start in range(first, last, BLOCK * step):
        yield np.arange(start, min(last, start + BLOCK * step), step, dtype=np.uint32).view(np.float32)


def sweep(name, step=1):
    first, last, right = RANGES[name]
    with np.errstate(all="ignore"):
        for x in values(first, last, step):
            y = exp(x)
            if not right(y, x):
                error = ulp_error(y, np.exp(x.astype(float)))
                worst = int(error.argmax())
                pytest.fail(f"exp({x[worst]!r}) is {y[worst]!r} on {kernels.core.isa}, wrong by {error[worst]:.4g} ulp")


def test_ranges_are_all_patterns():
    ranges = list(RANGES.values())
    assert ranges[0][0] == 0 and ranges[-1][1] == TOP
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:]))


def test_comparisons_fail_on_errors():
    x = np.array([-103.5, -90.0, -1.0, 0.3, 88.0], np.float32)
    with np.errstate(all="ignore"):
        right = np.exp(x.astype(float)).astype(np.float32)
    assert within_one_ulp(right, x)
    for i in range(len(x)):
        for wrong in (right[i] + 2 * np.spacing(right[i]), np.float32(np.nan), np.float32(np.inf)):
            y = right.copy()
            y[i] = wrong
            assert not within_one_ulp(y, x)
    flushed = right.copy()
    flushed[1] = 0
    assert not within_one_ulp(flushed, x)
    assert one_or_its_neighbour(np.ones(3, np.float32), x)
    assert not one_or_its_neighbour(np.array([1, 1 + 3e-7], np.float32), x)
    assert not one_or_its_neighbour(np.array([np.nan], np.float32), x)
    assert not vanishes(np.array([np.nan], np.float32), x) and not vanishes(np.array([3e-45], np.float32), x)


@pytest.mark.parametrize("name", RANGES)
def test_every_float32(name):
    sweep(name)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("isa", kernels.available())
def test_every_isa(isa, name):
    with kernels.use(isa):
        sweep(name, 257)


@pytest.mark.parametrize("isa", kernels.available())
def test_float64(isa, rng):
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 709.78, 709.79, -745.13, -745.14, -708.4, -1e300, 1e300, 5e-324])
    x = np.concatenate([edges, rng.uniform(-746, 710, 100_000), rng.standard_normal(100_000), np.ldexp(1.0, rng.integers(-1074, 10, 1000))])
    with kernels.use(isa), np.errstate(all="ignore"):
        error = ulp_error(exp(x), np.exp(x.astype(np.longdouble)))
    assert error.max() <= 1, f"exp({x[error.argmax()]!r}) is wrong by {error.max():.4g} ulp"
