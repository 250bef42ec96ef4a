"""Which dtypes and which kinds of objects the public functions take, and what they give back."""

import ml_dtypes
import numpy as np
import pytest
from calls import BFLOAT16, FLOATING, INTEGERS, ONE_RESULT, ROWS, operands, same_bits, sample

import softcore as sc


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


@pytest.mark.parametrize("ties", ["first", "last", "split", "all"])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATING, np.dtype(">i8"), np.dtype(">f8")], ids=str)
def test_the_gradient_of_a_scalar(dtype, ties):
    one = np.array(1).astype(dtype)
    for x in (one, one[()]):
        for axis in (-1, 0, None, ()):
            assert sc.max_backward(1.0, x, axis, ties=ties) == 1
            assert sc.max_backward(1.0, x, axis, ties=ties, where=False) == 0


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9, 15, 31, 33, 100])
def test_large_integers_are_not_rounded(dtype, length):
    limits, rng = np.iinfo(dtype), np.random.default_rng(length)
    x = rng.integers(limits.min, limits.max, (40, length), dtype=dtype, endpoint=True)
    for axis, a in ((1, x), (0, x.T), (0, np.ascontiguousarray(x.T)), (1, x[:, ::-1])):
        value, index = sc.max_with_argmax(a, axis=axis)
        assert (value == a.max(axis)).all() and (index == a.argmax(axis)).all()
        assert (sc.max(a, axis=axis) == a.max(axis)).all() and (sc.argmax(a, axis=axis) == a.argmax(axis)).all()


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
        getattr(sc, name)(*[x] * operands(name))


@pytest.mark.parametrize("x", [None, "text", {}, {1, 2}, object, 1j, [None], 10**40], ids=repr)
def test_things_that_are_not_arrays(x):
    for name in sc.reference.OPS:
        with pytest.raises(TypeError, match=f"^{name}: "):
            getattr(sc, name)(*[x] * operands(name))


def test_ragged_lists():
    with pytest.raises(ValueError, match="^softmax: x must be an array"):
        sc.softmax([[1.0], [2.0, 3.0]])


class Array:  # what a pyopencl array looks like from here
    __module__ = "pyopencl.array"


def test_opencl_arrays():
    with pytest.raises(TypeError, match="relu_backward: dy is a pyopencl array and x is not"):
        sc.relu_backward(Array(), np.zeros(3))
    with pytest.raises(TypeError, match="where is a pyopencl array"):
        sc.softmax(np.zeros(3), where=Array())
    with pytest.raises(TypeError, match="out is a Array, it must be a numpy.ndarray"):
        sc.softmax(np.zeros(3), out=Array())


def test_masked_arrays():
    # np.asarray drops the mask: what it hides would take part.
    x = np.ma.masked_invalid([[1.0, np.nan, 2.0]])
    for name in sc.reference.OPS:
        with pytest.raises(TypeError, match=rf"^{name}: \w+ is a masked array, it must be a plain one; what `where` is False for is masked"):
            getattr(sc, name)(*[x] * operands(name))
    plain = np.ones((1, 3))
    for options in ({"where": x > 0}, {"out": x}):
        (name,) = options
        with pytest.raises(TypeError, match=f"^softmax: {name} is a masked array"):
            sc.softmax(plain, **options)
    np.testing.assert_array_equal(sc.max(x.data, where=~np.ma.getmaskarray(x)), [2])


def test_what_is_true_is_one():
    # The bytes of a bool array need not be 0 and 1: an 8-bit mask that is viewed as bool has 255.
    mask = np.array([[0, 255, 2], [1, 0, 3]], np.uint8).view(bool)
    plain = mask.copy() | False
    plain = plain.astype(np.uint8).astype(bool)
    for name, f in {
        **{name: call for name, call in ONE_RESULT.items()},
        "logsumexp b": lambda x: sc.logsumexp(np.zeros((2, 3)), b=x),
        "binary_cross_entropy": lambda x: sc.binary_cross_entropy(np.ones((2, 3)), x, reduction="none"),
        "maximum": lambda x: sc.maximum(x, 0.0),
        "max_backward": lambda x: sc.max_backward(np.ones(2), x, ties="split"),
        "relu_backward": lambda x: sc.relu_backward(x, np.ones((2, 3))),
        "topk_gate": lambda x: sc.topk_gate(x, 3)[1],
        "avg_pool": lambda x: sc.avg_pool(x, 3),
        "not in order": lambda x: sc.softmax(x[:, ::-2].T),
    }.items():
        assert same_bits(f(mask), f(plain)), name


def test_more_axes_than_numpy_broadcasts():
    # np.broadcast_shapes stops at 32, arrays at 64.
    x = np.ones((1,) * 40 + (3,))
    assert sc.gate(x, np.zeros(3), 0.0).shape == sc.maximum(x, np.zeros(3)).shape == x.shape
    assert [a.shape for a in sc.maximum_backward(x, x, np.zeros(3))] == [x.shape, (3,)]
    assert sc.softmax_gate(np.ones((1,) * 40 + (3, 2)), np.zeros(3)).shape == (1,) * 40 + (2,)
    with pytest.raises(ValueError, match="gate: the shapes must broadcast together"):
        sc.gate(x, np.zeros(4), 0.0)
