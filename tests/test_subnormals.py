"""Importing and running softcore leaves subnormal numbers alone, and its own results keep them."""

import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

import softcore as sc
from softcore import kernels

ALIVE = """
import numpy as np

def alive():
    one = np.ones(1)
    return (
        1e-310 * float(one[0]) != 0
        and (np.array([1e-310]) * one != 0).all()
        and (np.array([2e-308]) / 16 != 0).all()
        and (np.array([1e-45], np.float32) * np.float32(1) != 0).all()
        and (np.array([1e-38], np.float32) / np.float32(16) != 0).all()
    )

assert alive(), "before softcore"
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", ALIVE + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_check_sees_flushed_subnormals():
    with pytest.raises(AssertionError, match="flushed"):
        run("np.ones = lambda n: np.zeros(n)\nassert alive(), 'flushed'")


@pytest.mark.parametrize("isa", kernels.available())
def test_import_keeps_them(isa):
    run(f"import softcore\nfrom softcore import kernels\nkernels.load({isa!r})\nassert alive(), 'flushed by the import'")


def test_threads_keep_them():
    run(
        """
import threading
import softcore as sc

x = np.random.default_rng(0).standard_normal((4, 300_000), np.float32)
tiny = np.full((300, 1000), 1e-42, np.float32)
for n in (1, 2, 3):
    with sc.num_threads(n):
        sc.softmax(x), sc.sigmoid(x)
        assert (sc.relu(tiny) == tiny).all(), f"flushed by a kernel on {n} threads"
        assert (sc.sigmoid_backward(tiny, np.full_like(tiny, 0.5)) > 0).all(), f"flushed by a kernel on {n} threads"
assert alive(), "flushed by running"
found = []
thread = threading.Thread(target=lambda: found.append(alive()))
thread.start(), thread.join()
assert found == [True], "flushed in a new thread"
"""
    )


@pytest.mark.parametrize("isa", kernels.available())
def test_results_keep_them(isa):
    single = np.array([-88, -95, -100, -103], np.float32)
    double = np.array([-709.0, -720, -744])
    with kernels.use(isa):
        for x in (single, double, np.tile(single, 5000)):
            y = sc.sigmoid(x)
            assert (y > 0).all() and (y < np.finfo(x.dtype).tiny).any()
            assert np.allclose(y.astype(float), np.exp(x.astype(float)), rtol=1e-3, atol=np.finfo(x.dtype).smallest_subnormal)
            assert (sc.softplus(x) > 0).all()
            assert (sc.log_sigmoid(-x) < 0).all()
            assert (sc.log_sigmoid_backward(np.ones_like(x), -x) > 0).all()
            rows = np.stack([np.zeros_like(x), x], axis=-1)
            for y in (sc.softmax(rows)[..., 1], sc.softmax(np.ascontiguousarray(rows.T), axis=0)[1]):
                assert np.allclose(y.astype(float), np.exp(x.astype(float)), rtol=1e-3, atol=np.finfo(x.dtype).smallest_subnormal)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_around_the_smallest_normal_are_exact(isa, dtype, rng):
    # There the parts of a product taken in two are subnormal themselves.
    finfo = np.finfo(dtype)
    x = np.zeros((20_000, 3), dtype)
    x[:, 1] = -3 * rng.random(len(x))
    x[:, 2] = np.log(finfo.tiny) + 4 * rng.random(len(x)) - 1
    wide = x.astype(np.longdouble)
    e = np.exp(wide - wide.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True)
    with kernels.use(isa):
        for y in (sc.softmax(x), sc.softmax(np.ascontiguousarray(x.T), 0).T, np.stack([sc.softmax(np.append(r, np.full(100, -np.inf, dtype)))[:3] for r in x[:2000]])):
            assert (abs(y - expected[: len(y)]) / np.spacing(expected[: len(y)].astype(dtype))).max() < (2 if dtype == np.float32 else 4)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_subnormal_inputs_are_told_apart(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    for length in (3, 40, 2000):
        x = np.zeros((2, length), dtype)
        x[:, 1] = tiny
        with kernels.use(isa):
            assert (sc.max(x) == tiny).all()
            assert (sc.argmax(x) == 1).all()
            assert (sc.argmax(np.ascontiguousarray(x.T), axis=0) == 1).all()
            assert (sc.step(x)[:, 1] == 1).all()
            assert (sc.maximum(x, -x)[:, 1] == tiny).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, -1])
def test_gradients_of_any_size(axis, dtype):
    # The sum of small gradients has a product with each share, which must not vanish before it is subtracted.
    y = np.log(np.full((40, 40), 1 / 40)).astype(dtype)
    finfo = np.finfo(dtype)
    for exponent in range(finfo.minexp + 10, finfo.maxexp - 20, 16):
        dy = np.full((40, 40), 2.0**exponent).astype(dtype)
        dy[::7] *= 2
        expected = sc.reference.log_softmax_backward(dy, y, axis)
        np.testing.assert_allclose(sc.log_softmax_backward(dy, y, axis), expected, rtol=0, atol=20 * finfo.eps * abs(dy).max())


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("top", [290, 310, 700, 720, 740])
def test_log_softmax_beside_a_spike(isa, top):
    x = np.zeros((5000, 3))
    x[-1] = top
    exact = float(-4999 * Decimal(-top).exp())
    with kernels.use(isa):
        for found in (sc.log_softmax(x, 0)[-1], sc.log_softmax(np.ascontiguousarray(x.T))[:, -1]):
            np.testing.assert_allclose(found, exact, rtol=4e-16, atol=5e-324)
