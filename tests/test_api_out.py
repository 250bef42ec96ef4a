"""``out=``: its form, its overlap with inputs, and calls that leave it alone."""

import numpy as np
import pytest
from calls import FLOATING, FOLDS, MAPS, ONE_RESULT, ROWS, read_only, same_bits, sample

import softcore as sc


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


@pytest.mark.parametrize("name", [*MAPS, *ROWS])
def test_a_new_result_lies_as_its_input_does(name):
    call, x = {**MAPS, **ROWS}[name], sample((4, 5, 6), np.float32)
    for order in (x, np.asfortranarray(x), x.transpose(1, 2, 0), x[::2, ::-1], np.broadcast_to(x[:1], x.shape)):
        assert call(order).strides == np.negative(order).strides
        assert same_bits(call(order), call(order.copy()))


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


@pytest.mark.parametrize("name", ONE_RESULT)
@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (lambda y: y[:, None], ValueError, r"out has shape \(.*\), it must be \("),
        (lambda y: y[:1], ValueError, "out has shape"),
        (lambda y: y.astype(np.float16), TypeError, "out has dtype float16, it must be "),
        (lambda y: y.astype(complex), TypeError, "out has dtype complex128, it must be "),
        (lambda y: y.astype(y.dtype.newbyteorder()), TypeError, "out has dtype >"),
        (read_only, ValueError, "out is read-only, it must be writeable"),
        (lambda y: np.lib.stride_tricks.as_strided(y, y.shape, (0,) * y.ndim), ValueError, "out has several elements in one place"),
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


class Noted(np.ndarray):
    """An array of somebody else's."""


@pytest.mark.parametrize("kind", [np.matrix, Noted])
def test_out_may_be_of_a_subclass(kind):
    # A matrix stays two-dimensional whatever is asked of it: no result may land beside it.
    x = sample((6, 4), np.float64)
    for name, f in {
        "max": lambda out: sc.max(x, 1, keepdims=True, out=out),
        "argmax": lambda out: sc.argmax(x, 1, keepdims=True, out=out),
        "logsumexp": lambda out: sc.logsumexp(x, 1, keepdims=True, out=out),
        "maximum_backward": lambda out: sc.maximum_backward(x, x[:, :1], x, out=None if out is None else (out, None))[0],
        "softmax": lambda out: sc.softmax(x[:, :1], out=out),
    }.items():
        y = f(None)
        room = np.full(50, 7, y.dtype)
        out = room[:6].reshape(6, 1).view(kind)
        assert f(out) is out, name
        assert same_bits(np.asarray(out), y), name
        assert (room[6:] == 7).all(), name


SEVERAL = {
    "max_with_argmax": (1, (np.float32, np.intp)),
    "maximum_backward": (3, (np.float32,) * 2),
    "gate_backward": (4, (np.float32,) * 3),
    "glu_backward": (3, (np.float32,) * 2),
}


def with_results(name, arrays):
    if name == "glu_backward":
        return lambda out: sc.glu_backward(arrays[0], tuple(arrays[1:]), out=out)
    return lambda out: getattr(sc, name)(*arrays, out=out)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_results_given_together_or_in_part(name, rng):
    """All of them given take the short way, and the same bits come by the long one: in part, or with gaps."""
    count, dtypes = SEVERAL[name]
    arrays = [rng.standard_normal((5, 37)).astype(np.float32) for _ in range(count)]
    call = with_results(name, arrays)
    expected = call(None)
    out = tuple(np.full(e.shape, 7, d) for e, d in zip(expected, dtypes))
    results = call(out)
    assert all(r is o and same_bits(o, e) for r, o, e in zip(results, out, expected))
    for i in range(len(out)):
        given = tuple(np.full(e.shape, 7, d) if j == i else None for j, (e, d) in enumerate(zip(expected, dtypes)))
        results = call(given)
        assert results[i] is given[i] and all(same_bits(r, e) for r, e in zip(results, expected))
    gaps = tuple(np.full((*e.shape, 2), 7, d)[..., 0] for e, d in zip(expected, dtypes))
    assert all(r is o and same_bits(o, e) for r, o, e in zip(call(gaps), gaps, expected))


@pytest.mark.parametrize("name", SEVERAL)
def test_several_results_that_do_not_fit_are_left_alone(name, rng):
    count, dtypes = SEVERAL[name]
    arrays = [rng.standard_normal((5, 37)).astype(np.float32) for _ in range(count)]
    call = with_results(name, arrays)
    shape = call(None)[0].shape
    out = [np.full(shape, 7, d) for d in dtypes]
    one = np.full(2 * out[0].size, 7, np.float32)
    reversed_bytes = out[0].astype(out[0].dtype.newbyteorder())
    together = (one[: out[0].size].reshape(shape), one[2 : out[0].size + 2].reshape(shape))
    for wrong, error in [
        (out[0], TypeError),
        (list(out), TypeError),
        ((*out, out[0]), ValueError),
        (tuple(out[:1]), ValueError),
        ((*out[:-1], out[-1][:1]), ValueError),
        ((*out[:-1], out[-1].astype(np.float16)), TypeError),
        ((*out[:-1], reversed_bytes), TypeError),
        ((*out[:-1], list(out[-1])), TypeError),
        *([((*out[:-1], out[0]), ValueError), ((*together, *out[2:]), ValueError)] if dtypes[-1] is np.float32 else []),
    ]:
        with pytest.raises(error, match=name):
            call(wrong)
        assert all((a == 7).all() for a in (*out, one))
    out[-1].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        call(tuple(out))
    assert (out[0] == 7).all()
