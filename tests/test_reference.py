"""The definitions say what the contract says, agree with SciPy and PyTorch where those agree, and their backwards are gradients."""

import inspect

import numpy as np
import pytest

import softcore as sc
from softcore import reference as ref
from softcore.reference import OPS
from softcore.testing import check_grad

INF, NAN = np.inf, np.nan
AXES = [-1, 0, 1, None, (0, 2), (2, 0), ()]
assert_equal = np.testing.assert_array_equal


@pytest.fixture
def x(rng):
    return 3 * rng.normal(size=(3, 4, 5))


@pytest.fixture
def where(rng):
    where = rng.random((3, 4, 5)) < 0.6
    where[0, 0] = where[:, 1, 1] = True
    return where


# The edge table


@pytest.mark.parametrize(
    ("row", "where", "softmax", "log_softmax", "logsumexp"),
    [
        ([-INF, -INF], None, [NAN, NAN], [NAN, NAN], -INF),
        ([-INF, -INF, 1], [1, 1, 0], [NAN, NAN, 0], [NAN, NAN, -INF], -INF),
        ([1, NAN], [0, 0], [0, 0], [-INF, -INF], -INF),
        ([INF, 0, INF], None, [NAN] * 3, [NAN] * 3, INF),
        ([INF, 0], None, [NAN, NAN], [NAN, NAN], INF),
        ([INF, NAN], None, [NAN, NAN], [NAN, NAN], NAN),
        ([NAN, -INF], None, [NAN, NAN], [NAN, NAN], NAN),
        ([], None, [], [], -INF),
        ([0, -INF], None, [1, 0], [0, -INF], 0),
        ([NAN, 0, INF, 0], [0, 1, 0, 1], [0, 0.5, 0, 0.5], [-INF, -np.log(2), -INF, -np.log(2)], np.log(2)),
        ([0, -40], None, [1, 4.248354255291589e-18], [-4.248354255291589e-18, -40], 4.248354255291589e-18),
        ([1000, 1000], None, [0.5, 0.5], [-np.log(2), -np.log(2)], 1000 + np.log(2)),
        ([7], None, [1], [0], 7),
    ],
)
def test_edges_of_the_softmax_family(row, where, softmax, log_softmax, logsumexp):
    where = None if where is None else np.array(where, bool)
    np.testing.assert_allclose(ref.softmax(row, where=where), softmax, rtol=1e-15)
    np.testing.assert_allclose(ref.log_softmax(row, where=where), log_softmax, rtol=1e-15)
    np.testing.assert_allclose(ref.logsumexp(row, where=where), logsumexp, rtol=1e-15)


@pytest.mark.parametrize(
    ("row", "options", "value", "index", "last"),
    [
        ([1, 3, 3, 2], {}, 3, 1, 2),
        ([1, NAN, 5, NAN], {}, NAN, 1, 1),  # of NaNs the first, always
        ([NAN, 1, 2, 2], {"where": [0, 1, 1, 1]}, 2, 2, 3),
        ([5, -INF, -INF], {"where": [0, 1, 1]}, -INF, 1, 2),  # not the masked 5, and no -inf in its place
        ([-INF, -INF], {}, -INF, 0, 1),
        ([INF, 1, INF], {}, INF, 0, 2),
    ],
)
def test_edges_of_max(row, options, value, index, last):
    options = {name: np.array(mask, bool) for name, mask in options.items()}
    assert_equal(ref.max(row, **options), value)
    assert_equal(ref.max_with_argmax(row, **options), (value, index))
    assert ref.argmax(row, **options) == index
    assert ref.argmax(row, select_last=True, **options) == last
    assert_equal(ref.max_backward(6.0, row, **options), np.where(np.arange(len(row)) == index, 6.0, 0.0))
    assert_equal(ref.max_backward(6.0, row, ties="last", **options), np.where(np.arange(len(row)) == last, 6.0, 0.0))


def test_rows_without_a_maximum():
    for empty in (np.zeros((2, 0)), np.zeros((0, 0))):
        for f in (ref.max, ref.argmax, ref.max_with_argmax):
            with pytest.raises(ValueError, match="no element takes part"):
                f(empty)
    with pytest.raises(ValueError, match="no element takes part"):
        ref.max([[1.0, 2.0], [3.0, 4.0]], where=[[True, True], [False, False]])
    assert_equal(ref.max(np.zeros((2, 0)), initial=5), [5, 5])
    assert_equal(ref.max([[1.0, 9.0]], where=[[False, False]], initial=-2), [-2])
    assert_equal(ref.max([1.0, 2.0], initial=NAN), NAN)
    assert ref.hardmax(np.zeros((2, 0))).shape == (2, 0)
    assert ref.max(np.zeros((0, 3))).shape == (0,)
    assert_equal(ref.max_backward([1.0, 1.0], [[1.0, 2.0], [3.0, 4.0]], where=[[True, True], [False, False]]), [[0, 1], [0, 0]])


def test_of_zeros_the_value_is_the_one_at_the_index(rng):
    x = np.where(rng.random((40, 3, 6, 6)) < 0.5, -0.0, 0.0)
    for axis in (0, 1, -1, (1, 3), None):
        for last in (False, True):
            for f in (ref.max_with_argmax, sc.max_with_argmax):
                value, index = f(x, axis, select_last=last)
                axes = range(4) if axis is None else np.atleast_1d(axis) % 4
                rows = np.moveaxis(x, axes, range(-len(axes), 0)).reshape(*np.shape(value), -1)
                assert_equal(np.signbit(value), np.signbit(np.take_along_axis(rows, np.asarray(index)[..., None], -1)[..., 0]))
        assert_equal(np.signbit(sc.max(x, axis)), np.signbit(x).all(tuple(axes)))
    assert_equal(np.signbit(sc.maximum(x[0], x[1])), np.signbit(x[0]) & np.signbit(x[1]))
    for layout in ("channels_first", "channels_last"):
        for options in ({}, {"stride": 1}, {"stride": 1, "padding": 1}):
            y = sc.max_pool(x, (2, 3), layout=layout, **options)
            assert_equal(np.signbit(y), np.signbit(sc.max_pool(x, (2, 3), layout=layout, return_indices=True, **options)[0]))
            assert_equal(np.signbit(y), np.signbit(ref.max_pool(x, (2, 3), layout=layout, **options)))


def test_ties_of_max_backward():
    x = [2.0, 1.0, 2.0]
    for ties, dx in {"first": [6, 0, 0], "last": [0, 0, 6], "split": [3, 0, 3], "all": [6, 0, 6]}.items():
        assert_equal(ref.max_backward(6.0, x, ties=ties), dx)
    assert_equal(ref.max_backward(6.0, [NAN, 9.0, NAN], ties="split"), [3, 0, 3])
    with pytest.raises(ValueError, match="ties"):
        ref.max_backward(6.0, x, ties="any")


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_index_saves_the_search(axis, keepdims, x, rng):
    y, index = ref.max_with_argmax(x, axis, keepdims=keepdims)
    dy = rng.normal(size=y.shape)
    expected = ref.max_backward(dy, x, axis, keepdims=keepdims)
    assert_equal(ref.max_backward(dy, x, axis, keepdims=keepdims, index=index), expected)
    np.testing.assert_allclose(expected.sum(), dy.sum())
    for wrong in (-1, x.size):
        with pytest.raises(IndexError):
            ref.max_backward(dy, x, axis, keepdims=keepdims, index=np.full_like(index, wrong))
    with pytest.raises(TypeError):
        ref.max_backward(dy, x, axis, keepdims=keepdims, index=index * 1.0)


def test_of_nans_the_first_always_wins():
    for x, first in (([1.0, NAN, 2.0, NAN], 1), ([NAN, 3.0, 3.0], 0), ([3.0, 3.0, NAN], 2)):
        place = np.arange(len(x)) == first
        for last in (False, True):
            assert ref.argmax(x, select_last=last) == sc.argmax(x, select_last=last) == first
            assert ref.max_with_argmax(x, select_last=last)[1] == sc.max_with_argmax(x, select_last=last)[1] == first
        for ops in (ref, sc):
            assert_equal(ops.hardmax(x), place)
            for ties in ("first", "last"):
                assert_equal(ops.max_backward(2.0, x, ties=ties), 2.0 * place)
            assert_equal(ops.max_backward(2.0, x, ties="all"), 2.0 * np.isnan(x))
            assert_equal(ops.max_backward(2.0, x, ties="split"), 2.0 * np.isnan(x) / np.isnan(x).sum())
    x = np.array([[NAN, 1.0, NAN], [2.0, 2.0, 1.0]])  # rows with and without, masked and over both axes
    assert_equal(ref.argmax(x, select_last=True), [0, 1])
    assert_equal(ref.argmax(x, where=~np.isnan(x), select_last=True), [1, 1])
    assert_equal(ref.max_backward([1.0, 1.0], x, ties="last"), [[1, 0, 0], [0, 1, 0]])
    assert ref.argmax(x, None, select_last=True) == 0


def test_argmax_over_a_tuple_is_flat_in_the_order_of_the_array(x):
    assert_equal(ref.argmax(x, (2, 0)), x.transpose(1, 0, 2).reshape(4, -1).argmax(axis=1))
    assert_equal(ref.argmax(x, (0, 2)), ref.argmax(x, (2, 0)))
    assert ref.argmax(x, None) == x.argmax()


@pytest.mark.parametrize("axis", [-1, 0, None, ()])
def test_scalars_are_a_row_of_one(axis):
    assert ref.max(3.0, axis) == 3 and ref.argmax(3.0, axis) == 0 and ref.hardmax(3.0, axis) == 1
    assert ref.softmax(3.0, axis) == 1 and ref.log_softmax(3.0, axis) == 0 and ref.logsumexp(3.0, axis) == 3


def test_an_empty_tuple_of_axes_makes_each_element_a_row(x):
    assert_equal(ref.max(x, ()), x)
    assert_equal(ref.argmax(x, ()), 0)
    assert_equal(ref.softmax(x, ()), 1)
    np.testing.assert_allclose(ref.logsumexp(x, ()), x)


def test_bad_axes():
    for axis in (2, -3, (0, 5)):
        with pytest.raises(np.exceptions.AxisError):
            ref.softmax(np.zeros((2, 3)), axis)
    with pytest.raises(np.exceptions.AxisError):
        ref.max(1.0, 1)
    with pytest.raises(ValueError, match="duplicate"):
        ref.softmax(np.zeros((2, 3)), (1, -1))


def logsumexp_backward_of(x, **options):
    return ref.logsumexp_backward(1.0, x, ref.logsumexp(x, **options), **options)


def test_weights_of_logsumexp():
    logsumexp = ref.logsumexp
    assert logsumexp([NAN, 1.0, INF], b=[0, 1, 0]) == 1
    assert_equal(logsumexp([1.0, 1.0], b=[1, -1], return_sign=True), (-INF, 0))
    assert_equal(logsumexp([0.0, 0.0, 0.0], b=[1, 2, -3], return_sign=True), (-INF, 0))
    assert_equal(logsumexp([1.0, 2.0], b=[0, 0], return_sign=True), (-INF, 0))
    assert_equal(logsumexp([0.0, 0.0], b=[1, -3], return_sign=True), (np.log(2), -1))
    assert_equal(logsumexp([0.0, 0.0], b=[1, -3]), NAN)
    assert_equal(logsumexp([INF, 0.0], b=[-1, 1], return_sign=True), (INF, -1))
    assert_equal(logsumexp([INF, 800.0], b=[-1, 1], return_sign=True), (INF, -1))
    assert_equal(logsumexp([800.0, INF], b=[-INF, 1], return_sign=True), (NAN, NAN))
    assert_equal(logsumexp([INF, INF], b=[-1, 1], return_sign=True), (NAN, NAN))
    assert_equal(logsumexp_backward_of([NAN, 0.0], b=[0, 2]), [0, 1])


def test_edges_of_logsumexp_backward():
    assert_equal(logsumexp_backward_of([-INF, -INF]), [0, 0])
    assert_equal(logsumexp_backward_of([INF, 0.0]), [NAN, 0])
    assert_equal(logsumexp_backward_of([NAN, 0.0]), [NAN, NAN])
    assert_equal(logsumexp_backward_of([NAN, 0.0], where=np.array([False, True])), [0, 1])
    assert_equal(logsumexp_backward_of([NAN, INF], where=np.array([False, False])), [0, 0])


def test_what_is_masked_out_is_not_read(x, where, rng):
    dirty = np.where(where, x, rng.choice([NAN, INF, -INF], x.shape))
    for axis in AXES:
        for f in (ref.softmax, ref.log_softmax, ref.logsumexp):
            assert_equal(f(dirty, axis, where=where), f(x, axis, where=where))
        for f in (ref.softmax_backward, ref.log_softmax_backward):
            dx = f(dirty, np.where(where, 0.1, NAN), axis, where=where)
            assert_equal(dx, f(x, np.full(x.shape, 0.1), axis, where=where))
            assert not dx[~where].any()
        assert_equal(ref.max(dirty, axis, where=where, initial=-INF), ref.max(x, axis, where=where, initial=-INF))


def test_maps_at_the_edges():
    x = np.array([-INF, -744.0, -1.0, -0.0, 0.0, 2.0, INF, NAN])
    assert_equal(ref.relu(x), [0, 0, 0, 0, 0, 2, INF, NAN])
    assert not np.signbit(ref.relu(x)[:-1]).any()
    assert_equal(ref.relu_backward(np.full(8, 3.0), x), [0, 0, 0, 0, 0, 3, 3, NAN])
    assert_equal(ref.step(x), [0, 0, 0, 0, 0, 1, 1, NAN])
    assert_equal(ref.sigmoid(x)[[0, 3, 6, 7]], [0, 0.5, 1, NAN])
    assert 0 < ref.sigmoid(x)[1] < np.finfo(float).tiny
    assert_equal(ref.log_sigmoid(x)[[0, 1, 6, 7]], [-INF, -744, 0, NAN])
    assert_equal(ref.softplus(x)[[0, 6, 7]], [0, INF, NAN])
    assert ref.softplus(-40.0) == -ref.log_sigmoid(40.0) == 4.248354255291589e-18


def test_maximum_backward():
    da, db = ref.maximum_backward(np.full(6, 2.0), [1, 2, 3, NAN, 0, NAN], [2, 1, 3, 0, NAN, NAN])
    assert_equal(da, [0, 2, 1, 2, 0, 1])
    assert_equal(db, [2, 0, 1, 0, 2, 1])
    da, db = ref.maximum_backward(np.ones((2, 3)), np.array([[1.0], [3.0]]), np.array([0.0, 2.0, 4.0]))
    assert_equal(da, [[1], [2]])
    assert_equal(db, [0, 1, 2])
    assert_equal(ref.maximum_backward(np.ones(3), 1.0, [0.0, 1.0, 2.0])[0], 1.5)


# dtypes


def test_selections_keep_integers_and_everything_else_promotes(rng):
    for dtype in ("bool", "int8", "uint16", "int64"):
        x = rng.integers(0, 2, (3, 4)).astype(dtype)
        for op in OPS.values():
            result = op.reference(*op.inputs(x, rng))
            result = result[0] if isinstance(result, tuple) else result
            expected = np.intp if op.name == "argmax" else dtype if op.integers == "keep" else np.float64
            assert result.dtype == expected, op.name
    assert ref.max(np.array([2**53, 2**53 + 1])) == 2**53 + 1
    assert_equal(ref.max_backward(1.0, np.array([2**53, 2**53 + 1])), [0, 1])


def test_longdouble_stays(rng):
    x = rng.normal(size=(3, 4)).astype(np.longdouble)
    for op in OPS.values():
        result = op.reference(*op.inputs(x, rng))
        result = result[0] if isinstance(result, tuple) else result
        assert result.dtype == (np.intp if op.name == "argmax" else np.longdouble), op.name


def test_bfloat16(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    x = rng.normal(size=(3, 4)).astype(ml_dtypes.bfloat16)
    for op in OPS.values():
        arguments = op.inputs(x, rng)
        halves = [isinstance(a, np.ndarray) and a.dtype.kind != "i" for a in arguments]
        for name, a, half in zip(inspect.signature(op.reference).parameters, arguments, halves):
            assert not half or a.dtype == (np.float32 if name == "lse" else ml_dtypes.bfloat16), (op.name, name)
        wide = op.reference(*(a.astype(float) if half else a for a, half in zip(arguments, halves)))
        for result, same in zip(*(r if isinstance(r, tuple) else (r,) for r in (op.reference(*arguments), wide))):
            assert_equal(result, same)


@pytest.mark.parametrize("x", [np.zeros(3, complex), np.array(["a"]), np.array([None])])
def test_other_types_are_refused(x):
    for op in OPS.values():
        if op.direction == "forward":
            with pytest.raises(TypeError):
                given = {"maximum": (x, x), "gate": (x, x, x), "max_unpool": (x, np.zeros(3, int), (3,))}
                given |= {"softmax_gate": (x[:, None], x), "topk_gate": (x, 1), "attention": (x[None, None],) * 3}
                usual = (x, 1) if op.kind == "windows" else (x, x) if op.family == "losses" else (x,)
                op.reference(*given.get(op.name, usual))
    with pytest.raises(TypeError, match="where"):
        ref.softmax([1.0, 2.0], where=[1, 0])


def test_out(x):
    out = np.empty((3, 4, 5), np.float16)
    assert ref.softmax(x, out=out) is out
    assert_equal(out, ref.softmax(x).astype(np.float16))
    y, sign = np.empty((3, 4)), np.empty((3, 4))
    assert ref.logsumexp(x, return_sign=True, out=(y, sign))[1] is sign
    assert_equal(sign, 1)
    with pytest.raises(ValueError, match="out"):
        ref.softmax(x, out=np.empty((4, 5)))


# Peers


@pytest.mark.parametrize("axis", AXES[:-1])
def test_against_scipy(axis, x, rng):
    special = pytest.importorskip("scipy.special", reason="compared with SciPy")
    b = rng.normal(size=x.shape)
    for name in ("softmax", "log_softmax", "logsumexp"):
        np.testing.assert_allclose(getattr(ref, name)(x, axis), getattr(special, name)(x, axis), rtol=1e-13)
    ours, theirs = (f(x, axis=axis, b=b, return_sign=True, keepdims=True) for f in (ref.logsumexp, special.logsumexp))
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    np.testing.assert_allclose(ref.softmax(x, axis, scale=-0.5), special.softmax(-0.5 * x, axis), rtol=1e-13)
    np.testing.assert_allclose(ref.sigmoid(x), special.expit(x), rtol=1e-14)
    np.testing.assert_allclose(ref.log_sigmoid(x), special.log_expit(x), rtol=1e-14)
    np.testing.assert_allclose(ref.max(x, axis), np.max(x, axis))


def test_where_is_leaving_out(x, where):
    for i, j in np.ndindex(3, 4):
        row, taken = x[i, j], where[i, j]
        np.testing.assert_allclose(ref.logsumexp(x, where=where)[i, j], ref.logsumexp(row[taken]))
        np.testing.assert_allclose(ref.softmax(x, where=where)[i, j][taken], ref.softmax(row[taken]))
        np.testing.assert_allclose(ref.log_softmax(x, where=where)[i, j][taken], ref.log_softmax(row[taken]))


def test_backwards_against_torch(x, rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    functions = {
        "softmax": lambda t: torch.softmax(t, -1),
        "log_softmax": lambda t: torch.log_softmax(t, -1),
        "logsumexp": lambda t: torch.logsumexp(t, -1),
        "sigmoid": torch.sigmoid,
        "log_sigmoid": torch.nn.functional.logsigmoid,
        "softplus": lambda t: torch.nn.functional.softplus(t, threshold=1e9),
        "relu": torch.relu,
        "max": lambda t: torch.amax(t, -1),
    }
    tied = np.where(rng.random(x.shape) < 0.3, 9.0, x)
    for name, function in functions.items():
        t = torch.tensor(tied, requires_grad=True)
        y = function(t)
        dy = rng.normal(size=tuple(y.shape))
        y.backward(torch.tensor(dy))
        np.testing.assert_allclose(getattr(ref, name)(tied), y.detach().numpy(), rtol=1e-13)
        saved = {"y": y.detach().numpy(), "x": tied}
        backward = getattr(ref, f"{name}_backward")
        names = [n for n in inspect.signature(backward).parameters if n in saved]
        options = {"ties": "split"} if name == "max" else {}
        np.testing.assert_allclose(backward(dy, *(saved[n] for n in names), **options), t.grad.numpy(), rtol=1e-11, atol=1e-14)


# Gradients


def gradient_of(op, **options):
    """f and df of check_grad for the backward ``op``: what it saves is made from x."""
    forward = OPS[op.forward]
    ours = {name: value for name, value in options.items() if name in forward.options}
    saved = [name for name in ("x", "y") if name in inspect.signature(op.reference).parameters]

    def f(*x):
        return forward.reference(*x, **ours)

    def df(dy, *x):
        if len(x) > 1 or op.kind == "halves":
            return op.reference(dy, *x)
        arrays = {"x": x[0], "y": f(*x)}
        return op.reference(dy, *(arrays[name] for name in saved), **options)

    return f, df


# The tests of each family have the others.
BACKWARDS = [op.name for op in OPS.values() if op.direction == "backward" and op.family in ("max", "softmax", "gates")]


@pytest.mark.parametrize("name", BACKWARDS)
def test_backward_is_the_gradient(name, x, rng):
    arguments = {
        "maximum_backward": (x, rng.normal(size=(4, 1))),
        "gate_backward": (x, rng.normal(size=(4, 1)), rng.normal(size=5)),
        "glu_backward": (rng.normal(size=(3, 4, 6)),),
    }.get(name, (x,))
    assert check_grad(*gradient_of(OPS[name]), *arguments) < 1e-7


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", [name for name in BACKWARDS if "axis" in OPS[name].options and OPS[name].kind != "halves"])
def test_backward_is_the_gradient_along_any_axis_with_any_option(name, axis, x, rng):
    b = 0.5 + rng.random(x.shape)
    values = {"keepdims": [True], "scale": [-0.7], "b": [b], "ties": ["last", "split", "all"]}
    for option in OPS[name].options & values.keys():
        for value in values[option]:
            assert check_grad(*gradient_of(OPS[name], axis=axis, **{option: value}), x) < 1e-7


def test_a_weight_of_zero_has_no_gradient(x):
    f, df = gradient_of(OPS["logsumexp_backward"], b=np.where(x < x.max(axis=-1, keepdims=True), 1.0, 0.0))
    assert check_grad(f, df, x) < 1e-7


def test_a_negative_sum_takes_its_sign_from_the_caller(x):
    b = np.where(x < x.max(axis=-1, keepdims=True), 0.1, -2.0)
    sign = ref.logsumexp(x, b=b, return_sign=True)[1]
    assert (sign == -1).all()

    def f(x):
        return ref.logsumexp(x, b=b, return_sign=True)[0]

    assert check_grad(f, lambda dy, x: ref.logsumexp_backward(sign * dy, x, f(x), b=b), x) < 1e-7


@pytest.mark.parametrize("name", ["softmax_backward", "logsumexp_backward", "max_backward"])
def test_backward_is_the_gradient_under_a_mask(name, x, where):
    for axis in (-1, None, (0, 2)):
        f, df = gradient_of(OPS[name], axis=axis, where=where)
        assert check_grad(f, df, x) < 1e-7


def test_log_softmax_backward_is_the_gradient_under_a_mask(x, where):
    def f(x):
        return np.where(where, ref.log_softmax(x, where=where), 0.0)

    assert check_grad(f, lambda dy, x: ref.log_softmax_backward(dy, ref.log_softmax(x, where=where), where=where), x) < 1e-7


# The table


def test_every_definition_is_in_the_table_with_what_it_says():
    assert list(OPS) == [op.name for op in OPS.values()]
    assert set(OPS) == set(ref.__all__) - {"OPS", "Op", "merge_attention"}
    for op in OPS.values():
        assert op.family in ("max", "softmax", "pooling", "losses", "gates", "mixtures", "attention")
        assert op.kind in ("fold", "rows", "map", "windows", "halves", "mixture", "attention")
        assert op.integers in ("keep", "promote")
        assert op.reference is getattr(ref, op.name) and op.reference.__doc__
        assert (op.direction == "backward") == op.name.endswith("_backward") == (op.forward in OPS)
        assert ("axis" in op.options) == (op.kind in ("fold", "rows", "halves") or op.name.startswith("topk_gate"))
        assert op.default_axis == (-1 if "axis" in op.options else None)
        assert "out" in op.options


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", [op.name for op in OPS.values() if op.kind not in ("windows", "mixture", "attention")])
def test_inputs_fit_their_op(name, axis, rng):
    op = OPS[name]
    if op.kind == "halves" and type(axis) is not int:
        pytest.skip("halves lie along one axis")
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    available = {"scale": 2.0, "where": x > -1, "keepdims": True, "b": np.abs(x), "axis": axis}
    options = {key: value for key, value in available.items() if key in op.options} | op.apart
    if name in ("max", "argmax", "max_with_argmax"):
        options["where"] = x >= ref.max(x, axis, keepdims=True)
    arguments = op.inputs(x, rng, **{"axis": axis, **options})
    assert all(a.dtype == np.float32 or op.family == "losses" and a.dtype.kind == "i" for a in arguments)
    results = op.reference(*arguments, **options)
    every = results if isinstance(results, tuple) else (results,)
    reduced = np.shape(ref.max(x, axis, keepdims="keepdims" in op.options))
    full = arguments[-1].shape if name == "glu_backward" else x.shape
    shapes = [reduced, full] if op.name == "cross_entropy_with_grad" else [reduced if op.kind == "fold" else full] * len(every)
    for result, shape in zip(every, shapes):
        assert result.shape == shape
        assert not np.isnan(result).any()
    assert op.moved(arguments, results) == sum(a.nbytes for a in (*arguments, *every))


@pytest.mark.parametrize("name", OPS)
def test_signature_is_that_of_the_public_function(name):
    import softcore

    ours, public = (inspect.signature(f).parameters.values() for f in (OPS[name].reference, getattr(softcore, name)))
    assert [(p.name, p.kind, p.default) for p in public] == [(p.name, p.kind, p.default) for p in ours]
