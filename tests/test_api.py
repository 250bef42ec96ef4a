"""The public functions at their edge: signatures, forms of axis, dtypes, scalars, ``where=``, ``out=``, and errors that leave it alone."""

import doctest
import importlib
import inspect
import os
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from numpy.exceptions import AxisError

import softcore as sc
from softcore import kernels
from softcore.ops import maxima, softmax
from softcore.testing import ulp_error

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATING = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(t) for t in "?bBhHiIlLqQ"]

# How to call each function on an x of any shape and floating dtype: all that a form of x or out must not change.
ROWS = {  # functions with an axis, whose result has x's shape
    "hardmax": lambda x, **k: sc.hardmax(x, **k),
    "softmax": lambda x, **k: sc.softmax(x, **k),
    "log_softmax": lambda x, **k: sc.log_softmax(x, **k),
    "softmax_backward": lambda x, **k: sc.softmax_backward(np.ones_like(x), x, **k),
    "log_softmax_backward": lambda x, **k: sc.log_softmax_backward(np.ones_like(x), x, **k),
    "max_backward": lambda x, **k: sc.max_backward(x.dtype.type(1), x, **k),
    "logsumexp_backward": lambda x, **k: sc.logsumexp_backward(
        x.dtype.type(1), x, sc.logsumexp(x, **{n: v for n, v in k.items() if n != "out"}), **k
    ),
}
FOLDS = {  # functions with an axis, whose result has one value per row
    "max": sc.max,
    "argmax": sc.argmax,
    "logsumexp": sc.logsumexp,
}
MAPS = {  # element by element
    "relu": sc.relu,
    "step": sc.step,
    "sigmoid": sc.sigmoid,
    "log_sigmoid": sc.log_sigmoid,
    "softplus": sc.softplus,
    "maximum": lambda x, **k: sc.maximum(x, np.ones_like(x), **k),
    "relu_backward": lambda x, **k: sc.relu_backward(np.ones_like(x), x, **k),
    "sigmoid_backward": lambda x, **k: sc.sigmoid_backward(np.ones_like(x), x, **k),
    "log_sigmoid_backward": lambda x, **k: sc.log_sigmoid_backward(np.ones_like(x), x, **k),
    "softplus_backward": lambda x, **k: sc.softplus_backward(np.ones_like(x), x, **k),
}
ONE_RESULT = {**ROWS, **FOLDS, **MAPS}
MASKED = [name for name in (*ROWS, *FOLDS) if name != "hardmax"]


def sample(shape, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.permutation(np.linspace(-3, 3, int(np.prod(shape)))).reshape(shape).astype(dtype)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------------------------------- the surface

SIGNATURES = """
max(x, axis=-1, *, keepdims=False, where=None, initial=None, out=None)
argmax(x, axis=-1, *, keepdims=False, where=None, select_last=False, out=None)
max_with_argmax(x, axis=-1, *, keepdims=False, where=None, select_last=False, out=None)
hardmax(x, axis=-1, *, out=None)
max_backward(dy, x, axis=-1, *, index=None, ties='first', keepdims=False, where=None, out=None)
maximum(a, b, *, out=None)
maximum_backward(dy, a, b, *, out=None)
relu(x, *, out=None)
relu_backward(dy, x, *, out=None)
step(x, *, out=None)
softmax(x, axis=-1, *, scale=1.0, where=None, out=None)
softmax_backward(dy, y, axis=-1, *, scale=1.0, where=None, out=None)
log_softmax(x, axis=-1, *, scale=1.0, where=None, out=None)
log_softmax_backward(dy, y, axis=-1, *, scale=1.0, where=None, out=None)
logsumexp(x, axis=-1, *, b=None, where=None, keepdims=False, return_sign=False, out=None)
logsumexp_backward(dy, x, y, axis=-1, *, b=None, where=None, keepdims=False, out=None)
sigmoid(x, *, out=None)
sigmoid_backward(dy, y, *, out=None)
log_sigmoid(x, *, out=None)
log_sigmoid_backward(dy, x, *, out=None)
softplus(x, *, out=None)
softplus_backward(dy, x, *, out=None)
""".strip().splitlines()
FUNCTIONS = [line.partition("(")[0] for line in SIGNATURES]


@pytest.mark.parametrize("line", SIGNATURES)
def test_signature(line):
    name = line.partition("(")[0]
    signature = inspect.signature(getattr(sc, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert name + str(inspect.Signature(bare)) == line


def test_every_function_is_listed_once():
    assert len(sc.__all__) == len(set(sc.__all__))
    assert set(dir(sc)) == set(sc.__all__)
    public = {
        n for module in (maxima, softmax) for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
    }
    assert {n for n in public if not n.startswith("_")} == set(FUNCTIONS)
    for name in FUNCTIONS:
        assert name in sc.__all__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_has_what_a_reader_looks_for(name):
    doc = inspect.getdoc(getattr(sc, name))
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in doc


@pytest.mark.parametrize("module", ["softcore.ops.maxima", "softcore.ops.softmax", "softcore.threads", "softcore.about"])
def test_examples_in_docstrings(module):
    tested = doctest.testmod(importlib.import_module(module))
    assert tested.attempted and not tested.failed


def test_functions_can_be_pickled():
    for name in FUNCTIONS:
        assert pickle.loads(pickle.dumps(getattr(sc, name))) is getattr(sc, name)


def test_import_brings_nothing_that_an_op_does_not_need():
    heavy = ("scipy", "ml_dtypes", "threadpoolctl", "pyopencl", "matplotlib", "softcore.reference", "softcore.testing", "softcore.compat")
    code = f"import sys, softcore; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'softcore' has no attribute 'sofmax'"):
        sc.sofmax  # noqa: B018


def test_info():
    info = sc.info()
    assert info["version"] == sc.__version__
    assert info["isa"] in info["isa_available"]
    assert info["threads"] == sc.get_num_threads()


# ------------------------------------------------------------------------------------------------------------------- isas


def test_isas_run_side_by_side():
    x = sample((5, 7))
    for isa in sc.info()["isa_available"]:
        with kernels.use(isa) as core:
            assert core.isa == sc.info()["isa"] == isa
            np.testing.assert_allclose(sc.softmax(x).sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("isa", ["mmx", "AVX2", "no such"])
def test_isa_that_does_not_exist(isa):
    run = subprocess.run(
        [sys.executable, "-c", "import softcore"], env={**os.environ, "SOFTCORE_ISA": isa}, capture_output=True, text=True, check=False
    )
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: softcore: ") and repr(isa) in last and "SOFTCORE_ISA" in last
    for available in sc.info()["isa_available"]:
        assert available in last


@pytest.mark.parametrize("isa", sc.info()["isa_available"])
def test_isa_can_be_forced(isa):
    code = "import softcore; print(softcore.info()['isa'])"
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "SOFTCORE_ISA": isa}, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == isa


# ------------------------------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize("name", [*ROWS, *FOLDS])
@pytest.mark.parametrize(
    ("axis", "same"),
    [(-1, 2), (np.int8(1), 1), (-3, 0), ((1,), 1), ((2, 0), (0, 2)), ((-1, -3), (0, 2)), (None, (0, 1, 2)), ((0, 1, 2), None)],
)
def test_forms_of_axis(name, axis, same):
    x = sample((2, 3, 4))
    assert same_bits(ONE_RESULT[name](x, axis=axis), ONE_RESULT[name](x, axis=same))


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None, ()])
def test_keepdims(name, axis):
    x = sample((2, 3, 4))
    kept = FOLDS[name](x, axis, keepdims=True)
    assert kept.shape == np.max(x, axis=axis, keepdims=True).shape
    assert same_bits(np.squeeze(kept), np.squeeze(FOLDS[name](x, axis)))


def test_several_axes_are_one_row_in_the_arrays_own_order():
    x = sample((2, 3, 4))
    rows = np.ascontiguousarray(x.transpose(1, 0, 2).reshape(3, 8))
    assert same_bits(sc.argmax(x, (2, 0)), sc.argmax(rows))
    assert same_bits(sc.softmax(x, (2, 0)).transpose(1, 0, 2).reshape(3, 8), sc.softmax(rows))
    assert sc.argmax(x, None) == np.argmax(x)


def test_no_axes_make_each_element_its_own_row():
    x = sample((2, 3))
    assert same_bits(sc.max(x, ()), x)
    assert same_bits(sc.logsumexp(x, ()), x)
    assert same_bits(sc.argmax(x, ()), np.zeros((2, 3), np.intp))
    assert same_bits(sc.softmax(x, ()), np.ones_like(x))
    assert same_bits(sc.max_backward(x, x, ()), x)


@pytest.mark.parametrize("axis", [-1, 0, None, ()])
@pytest.mark.parametrize("x", [3.0, np.float32(3), np.array(3.0)])
def test_a_scalar_is_one_row(x, axis):
    dtype = np.asarray(x).dtype
    for name, expected in [("max", 3), ("logsumexp", 3), ("softmax", 1), ("log_softmax", 0), ("hardmax", 1)]:
        y = getattr(sc, name)(x, axis)
        assert type(y) is dtype.type and y == expected
    assert type(sc.argmax(x, axis)) is np.intp


@pytest.mark.parametrize("name", [*ROWS, *FOLDS])
@pytest.mark.parametrize(
    ("axis", "error", "text"),
    [
        (3, AxisError, "axis 3 is out of bounds for an array of 2 dimensions"),
        (-3, AxisError, "axis -3 is out of bounds for an array of 2 dimensions"),
        ((0, 2), AxisError, "axis 2 is out of bounds for an array of 2 dimensions"),
        (10**30, AxisError, "is out of bounds"),
        ((0, -2), ValueError, "axis is \\(0, -2\\), it must not name the same axis twice"),
        (1.0, TypeError, "axis is a float, it must be an int, a tuple of ints or None"),
        ("0", TypeError, "axis is a str"),
        (True, TypeError, "axis is a bool"),
        ([0], TypeError, "axis is a list"),
        ((0, None), TypeError, "axis is a tuple holding NoneType"),
        (np.array([0, 1]), TypeError, "axis is an array"),
        ({}, TypeError, "axis is a dict"),
    ],
)
def test_bad_axis(name, axis, error, text):
    with pytest.raises(error, match=text):
        ONE_RESULT[name](sample((2, 3)), axis=axis)


def test_axis_of_a_scalar_out_of_bounds():
    with pytest.raises(AxisError, match="softmax: axis 1 is out of bounds for an array of 0 dimensions"):
        sc.softmax(3.0, 1)


# ------------------------------------------------------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("name", ONE_RESULT)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_floating_dtypes_stay(name, dtype):
    y = ONE_RESULT[name](sample((3, 4), dtype))
    assert y.dtype == (np.intp if name == "argmax" else dtype)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda t: t.char)
def test_integers_stay_in_selections_and_become_float64_elsewhere(dtype):
    x = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    for name in ("max", "hardmax", "relu"):
        assert getattr(sc, name)(x).dtype == dtype
    assert sc.maximum(x, x).dtype == dtype
    assert sc.max_with_argmax(x)[0].dtype == dtype
    for name in ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid", "softplus", "step"):
        y = getattr(sc, name)(x)
        assert same_bits(y, getattr(sc, name)(x.astype(np.float64)))
    assert sc.max_backward(1, x).dtype == np.float64
    assert sc.relu_backward(x, x).dtype == np.float64
    assert [g.dtype for g in sc.maximum_backward(1, x, x)] == [np.float64, np.float64]


@pytest.mark.parametrize("big", [np.int64(2**62), np.uint64(2**63)])
def test_neighbouring_integers_do_not_tie(big):
    x = np.array([big, big + type(big)(1), big], big.dtype)
    assert sc.max(x) == big + type(big)(1)
    assert sc.argmax(x) == 1
    for ties in ("first", "last", "split", "all"):
        np.testing.assert_array_equal(sc.max_backward(1.0, x, ties=ties), [0, 1, 0])
    np.testing.assert_array_equal(sc.max_backward(1.0, x, ties="last", where=[True, False, True]), [0, 0, 1])


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (np.float32, np.float64, np.float64),
        (np.float16, np.float32, np.float32),
        (np.float16, BFLOAT16, np.float32),
        (BFLOAT16, np.float32, np.float32),
        (np.int8, np.int32, np.int32),
        (np.uint8, np.int8, np.int16),
        (np.uint64, np.int64, np.float64),
        (np.bool_, np.int16, np.int16),
        (np.int8, np.float32, np.float64),
    ],
)
def test_dtypes_of_two_operands(a, b, result):
    x, y = np.array([0, 1], a), np.array([1, 0], b)
    for pair in ((x, y), (y, x)):
        z = sc.maximum(*pair)
        assert z.dtype == result
        np.testing.assert_array_equal(z.astype(np.float64), [1, 1])
    da, db = sc.maximum_backward(np.ones(2, np.float32), x, y)
    assert da.dtype == (a if np.dtype(a) in FLOATING else np.float64)
    assert db.dtype == (b if np.dtype(b) in FLOATING else np.float64)


def test_python_numbers_take_the_dtype_beside_them():
    assert sc.maximum(np.zeros(2, np.float32), 1.5).dtype == np.float32
    assert sc.maximum(1, np.zeros(2, BFLOAT16)).dtype == BFLOAT16
    assert sc.maximum(np.zeros(2, np.int8), 1).dtype == np.int8
    assert sc.maximum(np.zeros(2, np.int8), 1.5).dtype == np.float64
    assert sc.maximum(np.zeros(2, bool), 2).dtype == np.int64
    assert sc.maximum(1, 2).dtype == np.int64
    assert sc.logsumexp(np.zeros(2, np.float32), b=2).dtype == np.float32
    with pytest.raises(ValueError, match="maximum: b is 300, which int8 cannot hold"):
        sc.maximum(np.zeros(2, np.int8), 300)


def test_gradient_has_the_dtype_of_its_input():
    x = sample((3, 4), np.float16)
    dy = sample((3, 4), np.float32)
    y = sc.softmax(x)
    wide = sc.softmax_backward(dy, y.astype(np.float32))
    assert same_bits(sc.softmax_backward(dy, y), wide.astype(np.float16))
    assert sc.logsumexp_backward(np.ones(3), x, sc.logsumexp(x)).dtype == np.float16


def test_byte_order_and_alignment_do_not_matter():
    x = sample((3, 4))
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(3, 4)
    odd[...] = x
    out = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(3, 4)
    assert not odd.flags.aligned and not out.flags.aligned
    for function in ROWS.values():
        y = function(x)
        assert same_bits(function(x.astype(">f4")), y)
        assert same_bits(function(odd), y)
        assert same_bits(function(x, out=out), y)


@pytest.mark.parametrize("name", ONE_RESULT)
@pytest.mark.parametrize(
    "x",
    [
        np.zeros(3, complex),
        np.zeros(3, object),
        np.array(["a", "b"]),
        np.zeros(3, "datetime64[s]"),
        np.zeros(3, "i4,f4"),
        np.zeros(3, np.longdouble),
        np.zeros(3, ml_dtypes.float8_e4m3fn),
    ],
    ids=lambda x: str(x.dtype),
)
def test_dtypes_that_are_not_taken(name, x):
    with pytest.raises(TypeError, match=rf"^{name}: \w+ has dtype .*, it must be bool, an integer, float16, bfloat16, float32 or float64$"):
        getattr(sc, name)(*[x] * _operands(name))


def _operands(name):
    parameters = inspect.signature(getattr(sc, name)).parameters.values()
    return sum(p.default is p.empty for p in parameters)


@pytest.mark.parametrize("x", [None, "text", {}, {1, 2}, object(), 1j, [None], 10**40], ids=repr)
def test_things_that_are_not_arrays(x):
    for name in FUNCTIONS:
        with pytest.raises(TypeError, match=f"^{name}: "):
            getattr(sc, name)(*[x] * _operands(name))


def test_ragged_lists():
    with pytest.raises(ValueError, match="^softmax: x must be an array"):
        sc.softmax([[1.0], [2.0, 3.0]])


class Array:  # what a pyopencl array looks like from here
    __module__ = "pyopencl.array"


def test_opencl_arrays():
    with pytest.raises(TypeError, match="no OpenCL core"):
        sc.softmax(Array())
    with pytest.raises(TypeError, match="relu_backward: dy is a pyopencl array and x is not"):
        sc.relu_backward(Array(), np.zeros(3))
    with pytest.raises(TypeError, match="where is a pyopencl array"):
        sc.softmax(np.zeros(3), where=Array())
    with pytest.raises(TypeError, match="out is a Array, it must be a numpy.ndarray"):
        sc.softmax(np.zeros(3), out=Array())


# ------------------------------------------------------------------------------------------------------------------ where


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 1, 4), (2, 3, 4)])
def test_where_broadcasts_to_x(name, shape):
    x = sample((2, 3, 4))
    where = np.ones(shape, bool)
    if shape and shape[-1] == 4:
        where[..., 1] = False
    full = np.ascontiguousarray(np.broadcast_to(where, x.shape))
    assert same_bits(ONE_RESULT[name](x, where=where), ONE_RESULT[name](x, where=full))
    assert same_bits(ONE_RESULT[name](x, where=where.tolist()), ONE_RESULT[name](x, where=full))


@pytest.mark.parametrize("name", MASKED)
def test_where_true_is_no_mask(name):
    x = sample((3, 4))
    assert same_bits(ONE_RESULT[name](x, where=True), ONE_RESULT[name](x))


def test_what_is_masked_out_cannot_leak():
    x = np.array([[1.0, np.nan, 2.0], [np.inf, 3.0, 4.0]])
    where = np.array([[True, False, True], [False, True, True]])
    few = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(sc.max(x, where=where), [2, 4])
    np.testing.assert_array_equal(sc.argmax(x, where=where), [2, 2])
    np.testing.assert_allclose(sc.logsumexp(x, where=where), sc.logsumexp(few), rtol=1e-15)
    np.testing.assert_allclose(sc.softmax(x, where=where)[where], sc.softmax(few).ravel(), rtol=1e-15)
    assert (sc.softmax(x, where=where)[~where] == 0).all()
    assert (sc.log_softmax(x, where=where)[~where] == -np.inf).all()
    dx = sc.softmax_backward(x, np.where(where, 0.5, np.nan), where=where)
    assert np.isfinite(dx).all() and (dx[~where] == 0).all()


@pytest.mark.parametrize("scale", [2.0, 0.0, -0.0, -1.0])
def test_a_mask_hides_under_any_scale(scale):
    x = np.array([[1.0, 2.0, np.nan], [3.0, -1.0, np.inf]])
    where = np.array([True, True, False])
    for function, hidden in ((sc.softmax, 0), (sc.log_softmax, -np.inf)):
        y = function(x, scale=scale, where=where)
        np.testing.assert_allclose(y[:, :2], function(x[:, :2], scale=scale), rtol=1e-14)
        assert (y[:, 2] == hidden).all()


def test_rows_in_which_nothing_takes_part():
    x = sample((2, 3))
    where = np.array([[True, True, False], [False, False, False]])
    out = np.full(2, 7, np.float32)
    with pytest.raises(ValueError, match="max: where masks out every element of a row"):
        sc.max(x, where=where, out=out)
    assert (out == 7).all()
    for function in (sc.argmax, sc.max_with_argmax):
        with pytest.raises(ValueError, match="where masks out every element of a row"):
            function(x, where=where)
    assert sc.max(x, where=where, initial=-9)[1] == -9
    assert (sc.softmax(x, where=where)[1] == 0).all()
    assert (sc.log_softmax(x, where=where)[1] == -np.inf).all()
    assert sc.logsumexp(x, where=where)[1] == -np.inf
    for ties in ("first", "last", "split", "all"):
        assert (sc.max_backward(1.0, x, where=where, ties=ties)[1] == 0).all()
    assert (sc.logsumexp_backward(1.0, x, sc.logsumexp(x, where=where), where=where)[1] == 0).all()


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        (np.ones((2, 3)), TypeError, "where has dtype float64, it must be bool"),
        (np.ones((2, 3), np.int8), TypeError, "where has dtype int8, it must be bool"),
        (1, TypeError, "where has dtype"),
        ("yes", TypeError, "where has dtype"),
        (object(), TypeError, "where has dtype object"),
        (np.ones((3, 2), bool), ValueError, r"where has shape \(3, 2\), it must broadcast to \(2, 3\)"),
        (np.ones((1, 2, 3), bool), ValueError, "where has shape"),
        ([[True], [True, False]], ValueError, "where must be a boolean array"),
    ],
    ids=str,
)
def test_bad_where(name, where, error, text):
    with pytest.raises(error, match=f"{name}: {text}"):
        getattr(sc, name)(*_arguments(name, sample((2, 3))), where=where)


def _arguments(name, x):
    """Valid required arguments of a function, for the default axis."""
    y = np.zeros(x.shape[:-1], x.dtype)
    return {"max_backward": (y, x), "logsumexp_backward": (y, x, y)}.get(name, (x,) * _operands(name))


# ------------------------------------------------------------------------------------------------------------- empty arrays


def test_empty_rows():
    x = np.empty((2, 0), np.float32)
    for function in ROWS.values():
        assert function(x).shape == (2, 0)
    assert same_bits(sc.logsumexp(x), np.full(2, -np.inf, np.float32))
    y, sign = sc.logsumexp(x, return_sign=True)
    assert (y == -np.inf).all() and (sign == 0).all()
    assert same_bits(sc.max(x, initial=2), np.full(2, 2, np.float32))
    with pytest.raises(ValueError, match=r"max: x is empty along axis 1 \(its shape is \(2, 0\)\)"):
        sc.max(x)
    for function in (sc.argmax, sc.max_with_argmax):
        with pytest.raises(ValueError, match="is empty along axis 1"):
            function(x)
    assert sc.max_backward(np.ones(2), x).shape == (2, 0)


def test_no_rows():
    x = np.empty((0, 3), np.float32)
    for name in (*ROWS, *FOLDS, *MAPS):
        assert ONE_RESULT[name](x).shape == ((0,) if name in FOLDS else (0, 3))


def test_gradient_of_a_broadcast_over_nothing():
    da, db = sc.maximum_backward(np.empty((0, 3)), np.ones((1, 3)), np.empty((0, 3)))
    np.testing.assert_array_equal(da, np.zeros((1, 3)))
    assert db.shape == (0, 3)


# --------------------------------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("name", ONE_RESULT)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_out_is_written_and_returned(name, dtype):
    x = sample((3, 4), dtype)
    y = ONE_RESULT[name](x)
    out = np.zeros_like(y)
    assert ONE_RESULT[name](x, out=out) is out
    assert same_bits(out, y)
    wide = np.zeros((2 * y.shape[0], *y.shape[1:]), y.dtype)[::-2]
    assert ONE_RESULT[name](x, out=wide) is wide
    assert same_bits(wide, y)


@pytest.mark.parametrize("name", ONE_RESULT)
def test_out_of_a_scalar_stays_an_array(name):
    if name in FOLDS:
        y = FOLDS[name](np.float32([1, 2]))
        out = np.zeros((), y.dtype)
        assert FOLDS[name](np.float32([1, 2]), out=out) is out and out == y


@pytest.mark.parametrize("name", [*ROWS, *MAPS])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_in_place(name, step):
    x = sample((6, 5))[::step]
    y = ONE_RESULT[name](x.copy())
    assert ONE_RESULT[name](x, out=x) is x
    assert same_bits(x, y)


@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward", "sigmoid_backward", "relu_backward", "maximum"])
def test_in_place_of_either_operand(name):
    function, a, b = getattr(sc, name), sample((4, 5)), sample((5, 4)).T.copy()
    y = function(a, b)
    for i in (0, 1):
        pair = [a.copy(), b.copy()]
        assert same_bits(function(*pair, out=pair[i]), y)
    both = a.copy()
    assert same_bits(function(both, both, out=both), function(a, a))


def overlapping(shape, shift):
    """An x, and an out that shares all but `shift` of its memory."""
    n = int(np.prod(shape))
    memory = np.zeros(n + abs(shift), np.float32)
    x, out = memory[abs(shift) :][:n], memory[:n]
    if shift < 0:
        x, out = out, x
    x, out = x.reshape(shape), out.reshape(shape)
    x[...] = sample(shape)
    return x, out


@pytest.mark.parametrize("name", [*ROWS, *MAPS])
@pytest.mark.parametrize("shift", [1, -1, 7, -7])
def test_partial_overlap(name, shift):
    x, out = overlapping((6, 5), shift)
    y = ONE_RESULT[name](x.copy())
    assert same_bits(ONE_RESULT[name](x, out=out), y)
    assert same_bits(out, y)


@pytest.mark.parametrize("name", [*ROWS, *MAPS])
def test_overlap_of_one_memory_in_another_order(name):
    square = sample((5, 5))
    for out in (lambda x: x.T, lambda x: x[::-1], lambda x: x[:, ::-1]):
        x = square.copy()
        assert same_bits(ONE_RESULT[name](x, out=out(x)), ONE_RESULT[name](square))


def test_overlap_of_a_result_per_row():
    for name in ("max", "logsumexp"):
        x = sample((4, 5))
        y = FOLDS[name](x.copy())
        for out in (x[:, 0], x[0, :4], x[::-1, 2]):
            copy = x.copy()
            view = np.ndarray(out.shape, out.dtype, copy, (out.__array_interface__["data"][0] - x.ctypes.data), out.strides)
            assert same_bits(FOLDS[name](copy, out=view), y)
    memory = np.zeros(20)
    index = memory[:4].view(np.intp)
    memory[...] = sample(20, np.float64)
    expected = sc.argmax(memory.reshape(4, 5).copy())
    assert same_bits(sc.argmax(memory.reshape(4, 5), out=index), expected)


def test_where_may_share_memory_with_out():
    memory = np.ones(12, np.uint8)
    memory[::3] = 0
    where = memory.view(bool)
    x = where.copy()
    y = sc.max(x, (), where=where.copy(), initial=False)
    assert same_bits(sc.max(x, (), where=where, initial=False, out=where), y)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((4,), (3, 4)), ((), (3, 4)), ((1, 4), (3, 4))])
def test_maximum_backward_out(shapes):
    a, b = (sample(shape) for shape in shapes)
    dy = sample(np.broadcast_shapes(*shapes))
    da, db = sc.maximum_backward(dy, a, b)
    assert np.shape(da) == a.shape and np.shape(db) == b.shape
    total = np.asarray(da, np.float64).sum() + np.asarray(db, np.float64).sum()
    np.testing.assert_allclose(total, dy.astype(np.float64).sum(), atol=1e-5)
    out = (np.zeros_like(a), np.zeros_like(b))
    ea, eb = sc.maximum_backward(dy, a, b, out=out)
    assert ea is out[0] and eb is out[1]
    assert same_bits(ea, da) and same_bits(eb, db)
    first = np.zeros_like(a)
    ea, eb = sc.maximum_backward(dy, a, b, out=(first, None))
    assert ea is first and same_bits(eb, db)
    a, b = a.copy(), b.copy()
    ea, eb = sc.maximum_backward(dy, a, b, out=(a, b))
    assert same_bits(ea, da) and same_bits(eb, db)
    a, b = (sample(shape) for shape in shapes)
    if dy.shape == b.shape:
        ea, eb = sc.maximum_backward(dy, a, b, out=(None, dy))
        assert same_bits(ea, da) and same_bits(eb, db)


def test_several_results_take_a_tuple():
    x = sample((3, 4))
    for call, results in [
        (lambda out: sc.max_with_argmax(x, out=out), sc.max_with_argmax(x)),
        (lambda out: sc.logsumexp(x, b=-1, return_sign=True, out=out), sc.logsumexp(x, b=-1, return_sign=True)),
        (lambda out: sc.maximum_backward(x, x, x, out=out), sc.maximum_backward(x, x, x)),
    ]:
        out = tuple(np.zeros_like(r) for r in results)
        for given, returned, expected in zip(out, call(out), results):
            assert returned is given and same_bits(given, expected)
        with pytest.raises(TypeError, match="out is a ndarray, it must be a tuple of 2 arrays"):
            call(out[0])
        with pytest.raises(TypeError, match="out is a list, it must be a tuple of 2 arrays"):
            call(list(out))
        with pytest.raises(ValueError, match="out holds 3 arrays, it must hold 2"):
            call((*out, None))
        with pytest.raises(TypeError, match=r"out\[1\] has dtype complex128"):
            call((out[0], out[1].astype(complex)))
        with pytest.raises(ValueError, match=r"out\[0\] and out\[1\] share memory"):
            call((out[0], out[0]))


def _read_only(y):
    y = y.copy()
    y.flags.writeable = False
    return y


@pytest.mark.parametrize("name", ONE_RESULT)
@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (lambda y: y[:, None], ValueError, r"out has shape \(.*\), it must be \("),
        (lambda y: y[:1], ValueError, "out has shape"),
        (lambda y: y.astype(np.float16), TypeError, "out has dtype float16, it must be "),
        (lambda y: y.astype(complex), TypeError, "out has dtype complex128, it must be "),
        (lambda y: y.astype(y.dtype.newbyteorder()), TypeError, "out has dtype >"),
        (_read_only, ValueError, "out is read-only, it must be writeable"),
        (lambda y: y.tolist(), TypeError, "out is a list, it must be a numpy.ndarray"),
        (lambda y: (y,), TypeError, "out is a tuple, it must be a numpy.ndarray"),
        (lambda y: {}, TypeError, "out is a dict"),
    ],
)
def test_bad_out(name, bad, error, text):
    x = sample((3, 4))
    out = bad(np.full_like(ONE_RESULT[name](x), 7))
    with pytest.raises(error, match=f"^{name}: {text}"):
        ONE_RESULT[name](x, out=out)
    if isinstance(out, np.ndarray):
        assert (out == 7).all()


# ---------------------------------------------------------------------------------------------------------------- options

BAD_CALLS = [
    ("softmax", {"scale": "2"}, TypeError, "scale is a str, it must be a real number"),
    ("softmax", {"scale": True}, TypeError, "scale is a bool, it must be a real number"),
    ("softmax", {"scale": None}, TypeError, "scale is a NoneType"),
    ("softmax", {"scale": 1j}, TypeError, "scale is a complex"),
    ("softmax", {"scale": np.ones(2)}, TypeError, "scale is a ndarray"),
    ("softmax", {"scale": 10**400}, ValueError, "scale is 1000.*, which float64 cannot hold"),
    ("log_softmax", {"scale": {}}, TypeError, "scale is a dict"),
    ("softmax_backward", {"scale": "2"}, TypeError, "scale is a str"),
    ("log_softmax_backward", {"scale": [1.0]}, TypeError, "scale is a list"),
    ("max", {"keepdims": "yes"}, TypeError, "keepdims is a str, it must be a bool"),
    ("max", {"initial": "0"}, TypeError, "initial is a str, it must be a real number"),
    ("max", {"initial": 1j}, TypeError, "initial is a complex"),
    ("max", {"initial": np.zeros(2)}, TypeError, "initial is a ndarray"),
    ("max", {"initial": 10**400}, ValueError, "initial is 1000"),
    ("argmax", {"select_last": None}, TypeError, "select_last is a NoneType, it must be a bool"),
    ("argmax", {"keepdims": []}, TypeError, "keepdims is a list"),
    ("logsumexp", {"keepdims": 1.0}, TypeError, "keepdims is a float"),
    ("logsumexp", {"return_sign": "no"}, TypeError, "return_sign is a str"),
    ("logsumexp", {"b": np.ones((3, 2))}, ValueError, r"b has shape \(3, 2\), it must broadcast to \(2, 3\)"),
    ("logsumexp", {"b": "w"}, TypeError, "b has dtype"),
    ("logsumexp", {"b": 1j}, TypeError, "b has dtype complex128"),
    ("logsumexp_backward", {"b": np.ones(4)}, ValueError, "b has shape"),
    ("logsumexp_backward", {"y": np.zeros(3)}, ValueError, r"y has shape \(3,\), it must be \(2,\)"),
    ("logsumexp_backward", {"dy": np.zeros((2, 1))}, ValueError, "dy has shape"),
    ("max_backward", {"ties": "any"}, ValueError, "ties is 'any', it must be one of 'first', 'last', 'split', 'all'"),
    ("max_backward", {"ties": 0}, TypeError, "ties is a int, it must be a str"),
    ("max_backward", {"ties": ["first"]}, TypeError, "ties is a list"),
    ("max_backward", {"dy": np.zeros((2, 1))}, ValueError, r"dy has shape \(2, 1\), it must broadcast to \(2,\)"),
    ("max_backward", {"index": np.zeros(3, int)}, ValueError, r"index has shape \(3,\), it must be \(2,\)"),
    ("max_backward", {"index": [0.0, 1.0]}, TypeError, "index has dtype float64, it must be an integer dtype"),
    ("max_backward", {"index": [True, False]}, TypeError, "index has dtype bool"),
    ("max_backward", {"index": [0, 3]}, IndexError, "index holds 3, it must be from 0 to 2"),
    ("max_backward", {"index": [-1, 0]}, IndexError, "index holds -1"),
    ("max_backward", {"index": np.array([0, 2**64 - 1], np.uint64)}, IndexError, "index holds 18446744073709551615"),
    ("softmax_backward", {"dy": np.zeros((3, 2))}, ValueError, r"dy has shape \(3, 2\), it must broadcast to \(2, 3\)"),
    ("relu_backward", {"dy": np.zeros((2, 2, 3))}, ValueError, "dy has shape"),
    ("sigmoid_backward", {"dy": "x"}, TypeError, "dy has dtype"),
    ("maximum", {"b": np.zeros((4, 5))}, ValueError, r"the shapes must broadcast together, they are a \(2, 3\), b \(4, 5\)"),
]


@pytest.mark.parametrize(("name", "options", "error", "text"), BAD_CALLS, ids=lambda v: v if isinstance(v, str) else None)
def test_bad_options_leave_out_alone(name, options, error, text):
    x = sample((2, 3))
    function = getattr(sc, name)
    required = [p for p, v in inspect.signature(function).parameters.items() if v.default is v.empty]
    arguments = {**dict(zip(required, _arguments(name, x))), **options}
    folds = name in FOLDS
    out = np.full((2,) if folds else (2, 3), 7, np.intp if name == "argmax" else np.float32)
    with pytest.raises(error, match=f"^{name}: {text}"):
        function(**arguments, out=out)
    assert (out == 7).all()


def test_bad_maximum_backward_leaves_out_alone():
    x, out = sample((2, 3)), (np.full((2, 3), 7, np.float32), np.full((2, 3), 7, np.float32))
    for dy, a, b, error in [(x[:, :2], x, x, ValueError), (x, x, x[:, :2], ValueError), (x, x, "b", TypeError)]:
        with pytest.raises(error, match="^maximum_backward: "):
            sc.maximum_backward(dy, a, b, out=out)
    with pytest.raises(ValueError, match=r"out\[1\] is read-only"):
        sc.maximum_backward(x, x, x, out=(out[0], _read_only(out[1])))
    assert (out[0] == 7).all() and (out[1] == 7).all()


def test_initial_must_fit_an_integer_dtype():
    x = np.array([1, 2], np.int8)
    assert sc.max(x, initial=5).dtype == np.int8 and sc.max(x, initial=5) == 5
    assert sc.max(x, initial=3.0) == 3
    for initial in (300, 2.5, -np.inf, np.nan):
        with pytest.raises(ValueError, match=f"max: initial is {initial}, which int8 cannot hold"):
            sc.max(x, initial=initial)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_initial_takes_part_as_one_more_element(dtype):
    x = np.array([[1, 2], [3, -4]], dtype)
    np.testing.assert_array_equal(sc.max(x, initial=2.5).astype(float), [2.5, 3])
    assert np.isnan(sc.max(x, initial=np.nan).astype(float)).all()
    x[0, 0] = np.nan
    assert np.isnan(float(sc.max(x, initial=np.inf)[0]))


@pytest.mark.parametrize("scale", [2, np.float32(2), np.int16(2), np.array(2.0), BFLOAT16.type(2)], ids=lambda s: type(s).__name__)
def test_any_real_number_is_a_scale(scale):
    x = sample((2, 3))
    assert same_bits(sc.softmax(x, scale=scale), sc.softmax(x, scale=2.0))


def test_dy_broadcasts_to_the_result():
    x = sample((2, 3))
    assert same_bits(sc.max_backward(1.0, x), sc.max_backward(np.ones(2, np.float32), x))
    assert same_bits(sc.max_backward(1.0, x, keepdims=True), sc.max_backward(np.ones((2, 1), np.float32), x, keepdims=True))
    assert same_bits(sc.relu_backward(1, x), sc.relu_backward(np.ones_like(x), x))
    y = sc.logsumexp(x, None)
    assert same_bits(sc.logsumexp_backward(1.0, x, y, None), sc.logsumexp_backward(np.float32(1), x, y, None))


def test_inputs_are_not_changed():
    x = _read_only(sample((2, 3)))
    before = x.copy()
    for function in ONE_RESULT.values():
        function(x)
    assert same_bits(x, before)


def test_no_floating_point_warnings():
    x = np.array([[np.nan, np.inf, -np.inf, 0], [-1e38, 1e38, 3e38, 1e-45]], np.float32)
    with np.errstate(all="raise"):
        for function in ONE_RESULT.values():
            function(x)
        sc.softmax_backward(np.full((2, 4), 1e300), x)  # narrows to float32


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-300, -1e-50, 1e-44, 1e-38, 1e31, -1e39, 1e300])
def test_a_scale_that_float32_cannot_hold(scale, dtype):
    x = np.array([[1, 2, 0.5], [0, 0, 0], [-3, 1, 1]]).astype(dtype)
    for name in ("softmax", "log_softmax"):
        expected = getattr(sc.reference, name)(x.astype(np.longdouble), scale=scale)
        for y in (getattr(sc, name)(x, scale=scale), np.stack([getattr(sc, name)(row, scale=scale) for row in x])):
            assert y.dtype == dtype and ulp_error(y, expected).max() <= 2, (name, y, expected)
    zero = np.zeros((1, 2), dtype)
    assert (sc.softmax_backward(zero, np.full((1, 2), 0.5, dtype), scale=scale) == 0).all()
