"""Cross-entropy and binary cross-entropy: every option against the definition and PyTorch, the named edges, errors before writes."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from calls import FLOATING, INTEGERS, read_only, same_bits
from test_kernels import ISAS, batch, compare

import softcore as sc
from softcore import kernels, planner, reference
from softcore.reference import OPS
from softcore.reference._common import _axes
from softcore.testing import check_grad, ulp_error

INF, NAN = np.inf, np.nan
CROSS = [name for name in OPS if name.startswith("cross_entropy")]
BINARY = [name for name in OPS if name.startswith("binary")]
WEIGHTED = {  # options of cross-entropy, for a number of classes
    "weight": lambda n, rng: {"weight": rng.uniform(0.5, 2, n)},
    "smoothing": lambda n, rng: {"label_smoothing": 0.1},
    "all smoothing": lambda n, rng: {"label_smoothing": 1.0},
    "z_loss": lambda n, rng: {"z_loss": 1e-2},
    "all": lambda n, rng: {"weight": rng.uniform(0.5, 2, n), "label_smoothing": 0.2, "z_loss": 1e-3, "ignore_index": 0},
    "no weight": lambda n, rng: {"weight": np.arange(n) % 2},
}


def assert_equal(actual, expected):
    """Also of bfloat16, whose NaN NumPy's own does not know."""
    np.testing.assert_array_equal(np.asarray(actual).astype(float), expected)


def targets(x, rng, soft, axis=-1, ignored=-100):
    if soft:
        t = rng.random(x.shape) * (rng.random(x.shape) < 0.7)
        return (t / np.maximum(t.sum(axis, keepdims=True), 1e-3)).astype(x.dtype)
    shape = np.delete(x.shape, axis)
    return np.where(rng.random(shape) < 0.2, ignored, rng.integers(0, x.shape[axis], shape))


def of_one_nan(a):
    """The array with one kind of NaN, whose signs differ between the walks."""
    return np.where(a == a, a, a.dtype.type(NAN))


def tolerant(actual, expected, ulps, at):
    """The largest error is a few ulp of the largest terms."""
    assert actual.shape == np.shape(expected)
    assert ulp_error(actual, expected, at).max(initial=0) <= ulps


# ------------------------------------------------------------------------------------------------------- the definition


@pytest.mark.parametrize("options", WEIGHTED)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_options_against_the_definition(dtype, soft, options, rng):
    for length in (1, 7, 16, 130, 1025, 4097, 17000):
        x = (3 * rng.standard_normal((6, length))).astype(dtype)
        x[1] += dtype.type(100)
        x[2, ::3] = -200
        given = {"reduction": "none", **WEIGHTED[options](length, rng)}
        t = targets(x, rng, soft, ignored=given.get("ignore_index", -100))
        if soft:
            given.pop("ignore_index", None)
        if "weight" in given:
            given["weight"] = given["weight"].astype(dtype)
        wide = [a.astype(np.longdouble) if a.dtype == np.float64 else a for a in (x, t)]
        loss, dx = reference.cross_entropy_with_grad(*wide, **given)
        lse = np.abs(reference.logsumexp(x, keepdims=True))
        at = np.max(np.abs(np.where(np.isfinite(x.astype(float)), x.astype(float), 0)), -1) + lse[:, 0]
        p = np.max(np.abs(dx), -1, keepdims=True) + 0.05
        for isa in ISAS:
            with kernels.use(isa):
                actual, slope = sc.cross_entropy_with_grad(x, t, **given)
                assert actual.dtype == (np.float32 if dtype.itemsize == 2 else dtype) and slope.dtype == dtype
                tolerant(actual, loss, 8, at * np.maximum(1, np.abs(loss) / np.maximum(at, 1)))
                tolerant(slope, dx, 8, p)
                assert same_bits(sc.cross_entropy(x, t, **given), actual)
                assert same_bits(sc.cross_entropy_backward(1.0, x, t, **given), slope)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_weights_of_binary_cross_entropy(name, dtype, rng):
    for length in (1, 17, 130, 1025):
        for weight, pos_weight in itertools.product([None, (1, length), (30, 1)], [None, (length,), ()]):
            x = batch(dtype, length)[:30]
            given = {"weight": weight, "pos_weight": pos_weight}
            given = {k: rng.uniform(0.5, 2, v).astype(dtype) for k, v in given.items() if v is not None}
            if "weight" in given and given["weight"].shape[0] != 1:
                given["weight"] = given["weight"][: len(x)]
            compare(OPS[name], x, given, rng) if dtype.itemsize > 2 else None
            arguments = OPS[name].inputs(x, rng, reduction="none")
            full = {k: np.ascontiguousarray(np.broadcast_to(v, x.shape)) for k, v in given.items()}
            results = [getattr(sc, name)(*arguments, **options, reduction="none") for options in (given, full)]
            assert all(same_bits(*pair) for pair in zip(*(r if isinstance(r, tuple) else (r,) for r in results)))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", [(1, 5), (40, 7), (3, 4, 1100), (2, 70001)])
def test_means_and_sums(shape, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    t = targets(x, rng, False)
    t.flat[0] = 1
    y = targets(x, rng, True)
    for name, target in (("cross_entropy", t), ("cross_entropy", y), ("binary_cross_entropy", y)):
        for reduction in ("mean", "sum"):
            expected, dx = getattr(reference, f"{name}_with_grad")(x, target, reduction=reduction)
            actual, slope = getattr(sc, f"{name}_with_grad")(x, target, reduction=reduction)
            assert type(actual) is np.asarray(actual).dtype.type
            assert ulp_error(actual, expected) <= 4
            tolerant(slope, dx, 4, np.max(np.abs(dx)))
            assert same_bits(getattr(sc, name)(x, target, reduction=reduction), actual)
            for dloss in (1.0, np.float64(-3.0)):
                slope = getattr(sc, f"{name}_backward")(dloss, x, target, reduction=reduction)
                tolerant(slope, dloss * dx, 4, 3 * np.max(np.abs(dx)))


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (2, 1), None, ()])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_any_axis(axis, soft, rng):
    x = rng.standard_normal((3, 4, 5))
    axes = _axes(axis, 3)
    classes = int(np.prod([x.shape[i] for i in axes]))
    t = rng.random(x.shape) if soft else rng.integers(0, classes, [n for i, n in enumerate(x.shape) if i not in axes])
    for options in ({}, {"weight": rng.random(classes), "label_smoothing": 0.1, "reduction": "none"}):
        expected = reference.cross_entropy_with_grad(x, t, axis, **options)
        for a, e in zip(sc.cross_entropy_with_grad(x, t, axis, **options), expected):
            np.testing.assert_allclose(a, e, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [d for d in INTEGERS if d.kind != "b"], ids=str)
def test_labels_of_any_integer_dtype(dtype, rng):
    x = rng.standard_normal((50, 9), np.float32)
    t = rng.integers(0, 9, 50)
    expected = sc.cross_entropy_with_grad(x, t)
    for label in (t.astype(dtype), t.astype(dtype)[::-1].copy()[::-1], t.astype(dtype.newbyteorder()), np.repeat(t, 2).astype(dtype)[::2]):
        assert all(map(same_bits, sc.cross_entropy_with_grad(x, label), expected))
    assert all(map(same_bits, sc.cross_entropy_with_grad(x, t.tolist()), expected))
    ignored = int(np.iinfo(dtype).max)
    t = np.where(t == 3, np.array(ignored, dtype), t.astype(dtype))
    if ignored < 2**63:
        loss, dx = sc.cross_entropy_with_grad(x, t, ignore_index=ignored, reduction="none")
        assert (loss[t == ignored] == 0).all() and not dx[t == ignored].any() and dx[t != ignored].all()


def test_a_label_that_int64_cannot_hold_is_not_ignored():
    with pytest.raises(IndexError, match="target holds 18446744073709551516, it must be from 0 to 2"):
        sc.cross_entropy(np.zeros((1, 3)), np.array([2**64 - 100], np.uint64))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}], ids=str)
def test_logits_near_the_limit_cost_the_same_in_every_layout(options):
    # Where a difference from the maximum is infinite, what has no share of it has no share of the loss.
    m = np.finfo(float).max
    rows = [[-m, m], [-m, m / 2], [m, -m], [-m, -m], [0.0, m], [-m, m / 2]]
    targets = [[0, 0.5], [0, 0], [0.5, 0], [0, 1], [0, 1], [0.25, 0]]
    for row, target in zip(rows, targets):
        x, t = np.array([row] * 2), np.array([target] * 2, float)
        expected = sc.cross_entropy_with_grad(x, t, reduction="none", **options)
        for a, b in ((np.asfortranarray(x), np.asfortranarray(t)), (x, np.asfortranarray(t)), (x[:, ::-1].copy()[:, ::-1], t)):
            assert all(map(same_bits, sc.cross_entropy_with_grad(a, b, reduction="none", **options), expected))
        alone = sc.cross_entropy_with_grad(x[0], t[0], reduction="none", **options)
        assert all(map(same_bits, alone, (expected[0][0], expected[1][0])))
    x, t = np.array([[-m, m]] * 2), np.array([[0, 0.5]] * 2)
    assert (sc.cross_entropy(x, t, reduction="none") == 0).all()


def test_a_label_where_there_are_no_classes():
    with pytest.raises(IndexError, match="^cross_entropy: target holds 0, it must be -100, to be ignored, since logits have no classes$"):
        sc.cross_entropy(np.zeros((2, 0)), [0, 0])


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_logits_and_targets(dtype, rng):
    x = rng.integers(0, 2, (5, 6)).astype(dtype)
    t = rng.integers(0, 6, 5)
    assert all(map(same_bits, sc.cross_entropy_with_grad(x, t), sc.cross_entropy_with_grad(x.astype(float), t)))
    logits = rng.standard_normal((5, 6), np.float32)
    results = sc.binary_cross_entropy_with_grad(logits, x)
    assert all(map(same_bits, results, sc.binary_cross_entropy_with_grad(logits, x.astype(np.float32))))
    assert results[0].dtype == np.float32


def test_mixed_dtypes_are_promoted(rng):
    x = rng.standard_normal((5, 6), np.float32)
    t, y = rng.integers(0, 6, 5), rng.random((5, 6))
    loss, dx = sc.cross_entropy_with_grad(x, t, weight=np.ones(6))
    assert loss.dtype == np.float64 and dx.dtype == np.float32
    loss, dx = sc.cross_entropy_with_grad(x.astype(np.float16), y.astype(ml_dtypes.bfloat16))
    assert loss.dtype == np.float32 and dx.dtype == np.float16
    loss, dx = sc.cross_entropy_with_grad(x, y)
    expected = reference.cross_entropy_with_grad(x, y)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-14)
    assert same_bits(dx, expected[1].astype(np.float32))
    assert sc.cross_entropy_backward(np.float64(1), x, t).dtype == np.float32
    assert sc.binary_cross_entropy(x, y > 0.5, weight=2, pos_weight=3.0).dtype == np.float32


# ------------------------------------------------------------------------------------------------------------- PyTorch


def torch_of(function, x, target, **options):
    """The value and the gradient by autograd."""
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    options = {k: torch.from_numpy(np.asarray(v)) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    x = torch.tensor(x, requires_grad=True)
    loss = getattr(torch.nn.functional, function)(x, torch.from_numpy(target), **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["labels", "ignored", "ignored 2", "probabilities"])
def test_cross_entropy_against_torch(kind, weighted, smoothing, reduction, rng):
    for shape in ((9, 5), (4, 6, 3), (2, 300, 2, 2)):
        x = 3 * rng.standard_normal(shape)
        options = {"label_smoothing": smoothing, "reduction": reduction}
        if weighted:
            options["weight"] = rng.uniform(0.1, 3, shape[1])
        if kind == "probabilities":
            target = rng.dirichlet(np.ones(shape[1]), (shape[0], *shape[2:]))
            target = np.ascontiguousarray(np.moveaxis(target, -1, 1))
        else:
            target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        if kind.startswith("ignored"):
            options["ignore_index"] = 2 if kind.endswith("2") else -100
            target.flat[::3] = options["ignore_index"]
        loss, dx = torch_of("cross_entropy", x, target, **options)
        for actual, expected in zip(sc.cross_entropy_with_grad(x, target, 1, **options), (loss, dx)):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
        for actual, expected in zip(reference.cross_entropy_with_grad(x, target, 1, **options), (loss, dx)):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [(), ("weight",), ("pos_weight",), ("weight", "pos_weight")], ids="+".join)
def test_binary_cross_entropy_against_torch(options, reduction, rng):
    x, target = 3 * rng.standard_normal((7, 5)), rng.random((7, 5))
    given = {name: rng.uniform(0.1, 3, 5) for name in options}
    expected = torch_of("binary_cross_entropy_with_logits", x, target, reduction=reduction, **given)
    for module in (sc, reference):
        for a, e in zip(module.binary_cross_entropy_with_grad(x, target, reduction=reduction, **given), expected):
            np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-15)


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("options", WEIGHTED)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("module", [sc, reference], ids=["softcore", "reference"])
def test_backward_is_the_gradient(module, reduction, options, rng):
    x = rng.standard_normal((4, 6))
    options = {"reduction": reduction, **WEIGHTED[options](6, rng)}
    for target in (np.array([1, 5, options.get("ignore_index", -100), 3]), rng.random((4, 6))):
        if target.ndim == 2:
            options.pop("ignore_index", None)
        f, df = module.cross_entropy, module.cross_entropy_backward
        assert check_grad(lambda x: f(x, target, **options), lambda d, x: df(d, x, target, **options), x) < 1e-7  # noqa: B023
    weights = {"weight": rng.random((4, 1)), "pos_weight": rng.random(6), "reduction": reduction}
    f, df = module.binary_cross_entropy, module.binary_cross_entropy_backward
    assert check_grad(lambda x: f(x, target, **weights), lambda d, x: df(d, x, target, **weights), x) < 1e-7


# --------------------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": np.ones(3)}], ids=str)
def test_all_targets_ignored(dtype, options):
    x = np.array([[NAN, 1, INF], [0, 1, 2]], dtype)
    options = {k: v.astype(dtype) if k == "weight" else v for k, v in options.items()}
    for reduction, loss in (("mean", NAN), ("sum", 0), ("none", [0, 0])):
        value, dx = sc.cross_entropy_with_grad(x, [-100, -100], reduction=reduction, **options)
        assert_equal(value, loss)
        assert_equal(dx, np.zeros((2, 3)))
        assert_equal(sc.cross_entropy_backward(NAN, x, [-100, -100], reduction=reduction, **options), np.zeros((2, 3)))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}], ids=str)
def test_gradients_over_weights_of_0_are_nan(options, rng):
    for rows, classes, axis in itertools.product((3, 70), (1, 3, 40, 5000), (-1, 0)):
        shape = (rows, classes) if axis else (classes, rows)
        x, t, weight = rng.standard_normal(shape, np.float32), rng.integers(0, classes, rows), np.zeros(classes, np.float32)
        t[0] = -100
        expected = np.full(shape, NAN)
        np.moveaxis(expected, axis, -1)[0] = 0
        for a in (sc, sc.reference):
            assert_equal(a.cross_entropy_backward(1.0, x, t, axis, weight=weight, **options), expected)
            value, dx = a.cross_entropy_with_grad(x, t, axis, weight=weight, **options)
            assert_equal(value, INF if "z_loss" in options else NAN)
            assert_equal(dx, expected)


@pytest.mark.parametrize("length", [3, 40, 5000])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_ignored_rows_do_not_leak(bad, length, rng):
    x = rng.standard_normal((6, length), np.float32)
    t = rng.integers(0, length, 6)
    t[[0, 3]] = 7000
    spoilt = x.copy()
    spoilt[[0, 3]] = bad
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
        for axis in (-1, 0):
            results = []
            for a in (x, spoilt):
                a = a if axis else np.ascontiguousarray(a.T)
                dloss = np.where(t == 7000, NAN, 2.0)
                results.append(sc.cross_entropy_with_grad(a, t, axis, ignore_index=7000, **options))
                results[-1] += (sc.cross_entropy_backward(dloss, a, t, axis, ignore_index=7000, reduction="none", **options),)
            assert all(map(same_bits, *results))
            assert np.isfinite(results[0][0])
            assert not np.moveaxis(results[0][2], axis, -1)[[0, 3]].any()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_logits_of_minus_infinity(dtype):
    x = np.array([[0, -INF, 0], [-INF, 0, -INF], [-INF] * 3], dtype)
    assert_equal(sc.cross_entropy(x, [1, 1, 1], reduction="none"), [INF, 0, NAN])
    np.testing.assert_allclose(sc.cross_entropy(x[:1], [0]), np.log(2), rtol=1e-7)
    loss, dx = sc.cross_entropy_with_grad(x, [0, 1, 1], reduction="none")
    assert_equal(dx, np.array([[-0.5, 0, 0.5], [0, 0, 0], [NAN] * 3]))
    assert_equal(sc.cross_entropy_with_grad(x[:1], [1], reduction="sum")[1], [[0.5, -1, 0.5]])
    # Smoothing makes every class a target.
    loss, dx = sc.cross_entropy_with_grad(x, [0, 1, 1], label_smoothing=0.3, reduction="none")
    assert_equal(loss, [INF, INF, NAN])
    np.testing.assert_allclose(dx[0].astype(float), [0.5 - 0.8, -0.1, 0.5 - 0.1], rtol=1e-2)
    # A class without weight is none.
    loss = sc.cross_entropy(x[:1], [0], label_smoothing=0.3, weight=np.array([1, 0, 1], dtype), reduction="none")
    np.testing.assert_allclose(loss, 0.9 * np.log(2), rtol=1e-2)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_a_probability_of_0_contributes_0_at_minus_infinity(dtype):
    x = np.array([[0, -INF, 0]], dtype)
    loss, dx = sc.cross_entropy_with_grad(x, np.array([[0.5, 0, 0.5]], dtype))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-7)
    assert_equal(dx, [[0, 0, 0]])
    assert_equal(sc.cross_entropy(x, np.array([[0.5, 0.5, 0]], dtype)), INF)
    assert np.isnan(sc.cross_entropy(np.array([[0, NAN, 0]], dtype), np.array([[0.5, 0, 0.5]], dtype)))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}], ids=str)
def test_bad_logits_show(options):
    for bad in (INF, NAN):
        x = np.array([[0, bad, 1], [0, 1, 2]], np.float32)
        for target in ([0, 1], [1, 1], np.full((2, 3), 1 / 3, np.float32)):
            loss, dx = sc.cross_entropy_with_grad(x, target, reduction="none", **options)
            assert np.isnan(loss[0]) and np.isfinite(loss[1])
            assert np.isnan(dx[0]).all() and np.isfinite(dx[1]).all()
            assert np.isnan(sc.cross_entropy(x, target, **options))


def test_no_rows_and_no_classes():
    for dtype in FLOATING:
        x = np.empty((0, 3), dtype)
        t = np.empty(0, int)
        for target in (t, x):
            assert np.isnan(sc.cross_entropy(x, target)) and sc.cross_entropy(x, target, reduction="sum") == 0
            loss, dx = sc.cross_entropy_with_grad(x, target, reduction="none")
            assert loss.shape == (0,) and dx.shape == (0, 3)
            assert sc.cross_entropy_backward(1.0, x, target).shape == (0, 3)
        assert np.isnan(sc.binary_cross_entropy(x, x)) and sc.binary_cross_entropy(x, x, reduction="sum") == 0
        x = np.empty((2, 0), dtype)
        assert_equal(sc.cross_entropy(x, [-100, -100], reduction="none"), [0, 0])
        assert_equal(sc.cross_entropy(x, x, reduction="none"), [0, 0])
        assert_equal(sc.cross_entropy(x, x, z_loss=0.1, reduction="none"), [INF, INF])
        assert sc.cross_entropy_backward(1.0, x, x).shape == (2, 0)
        with pytest.raises(IndexError, match="target holds 0"):
            sc.cross_entropy(x, [0, -100])


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_one_class(dtype):
    x = np.array([[3], [-1e4], [6e4], [NAN]], dtype)
    loss, dx = sc.cross_entropy_with_grad(x, [0, 0, 0, 0], reduction="none")
    assert_equal(loss, [0, 0, 0, NAN])
    assert_equal(dx, [[0], [0], [0], [NAN]])


def test_scalars():
    assert sc.cross_entropy(3.0, 0) == 0
    loss, dx = sc.cross_entropy_with_grad(np.float32(2), np.float32(1))
    assert loss == 0 and dx == 0 and type(dx) is np.float32
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(sc.cross_entropy(x, 2), np.log(np.exp(x - 3).sum()))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_binary_cross_entropy_at_infinity(dtype):
    x = np.array([INF, -INF, INF, -INF, INF, NAN], dtype)
    t = np.array([1, 0, 0, 1, 0.5, 1], dtype)
    loss, dx = sc.binary_cross_entropy_with_grad(x, t, reduction="none")
    assert_equal(loss, [0, 0, INF, INF, INF, NAN])
    assert_equal(dx, [0, 0, 1, -1, 0.5, NAN])
    assert_equal(sc.binary_cross_entropy(x[2:3], t[2:3], weight=0), 0)


def test_small_losses_are_exact():
    x = np.array([[0.0, -40.0], [0.0, -700.0]])
    np.testing.assert_allclose(sc.cross_entropy(x, [0, 0], reduction="none"), [4.248354255291589e-18, np.exp(-700.0)], rtol=1e-14)
    y = x.astype(np.float32)
    assert ulp_error(sc.cross_entropy(y[:1], [0]), 4.248354255291589e-18) <= 2
    np.testing.assert_allclose(sc.binary_cross_entropy(np.array([40.0]), 1), 4.248354255291589e-18, rtol=1e-14)


@pytest.mark.parametrize("length", [7, 300, 9000])
@pytest.mark.parametrize("dloss", [1e-44, 1e-30, 1e25, -1e36])
def test_gradients_far_from_1(dloss, length, rng):
    x = (5 * rng.standard_normal((3, length))).astype(np.float32)
    x[:, 3] = -INF
    x[1, 5] = 60
    t = rng.integers(4, length, 3)
    expected = reference.cross_entropy_backward(dloss, x, t, reduction="sum")
    for isa in ISAS:
        with kernels.use(isa):
            dx = sc.cross_entropy_backward(dloss, x, t, reduction="sum")
            assert not dx[:, 3].any()
            assert ulp_error(dx, expected, np.where(np.arange(length) == t[:, None], abs(dloss), 0)).max() <= 4


def test_a_sum_depends_on_no_order(rng):
    x = (rng.standard_normal((3000, 5)) * 10.0 ** rng.integers(-3, 3, (3000, 1))).astype(np.float64)
    t = rng.integers(0, 5, 3000)
    w = rng.uniform(0, 1, 5)
    each = sc.cross_entropy(x, t, reduction="none", weight=w)
    order = rng.permutation(3000)
    for options in ({}, {"weight": w}):
        for reduction in ("sum", "mean"):
            results = {
                sc.cross_entropy(a, b, axis, reduction=reduction, **options)
                for a, b, axis in [(x, t, -1), (x[order], t[order], -1), (np.ascontiguousarray(x.T), t, 0), (x[::-1], t[::-1], -1)]
            }
            assert len(results) == 1
    assert sc.cross_entropy(x, t, reduction="sum", weight=w) == math.fsum(each)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 64, 65, 300])
@pytest.mark.parametrize("size", [1.0, 30.0, 3e4, 7e4, 1e300, 1e-300, "mixed"])
def test_a_sum_of_losses_of_any_size_is_exact(size, rows, rng):
    # Down columns the losses of a slab are added in parts, if these hold all of their bits; the sum is one that is rounded once.
    x = rng.standard_normal((3, 2, rows)) * (10.0 ** rng.integers(-30, 30, (3, 1, rows)) if size == "mixed" else size)
    t = rng.integers(-1, 2, (3, rows))
    for isa in ISAS:
        with kernels.use(isa):
            each = sc.cross_entropy(x, t, 1, ignore_index=-1, reduction="none")
            assert sc.cross_entropy(x, t, 1, ignore_index=-1, reduction="sum") == math.fsum(each.flat)
            for odd in (INF, -INF, NAN):
                there = x.copy()
                there[1, 0, rows // 2] = odd
                each = sc.cross_entropy(there, t, 1, ignore_index=-1, reduction="none")
                with np.errstate(invalid="ignore"):
                    expected = math.fsum(each.flat) if np.isfinite(each).all() else each.sum()
                assert_equal(sc.cross_entropy(there, t, 1, ignore_index=-1, reduction="sum"), expected)


@pytest.mark.skipif(kernels.core.openmp_runtime().startswith("none"), reason="a build without OpenMP has one thread")
@pytest.mark.parametrize("shape", [(20_000, 10), (700, 257), (90, 5000), (1, 300_001), (3, 140_000), (9, 33_000)])
def test_threads_do_not_change_a_sum(shape, rng):
    x = (3 * rng.standard_normal(shape)).astype(np.float32)
    t = targets(x, rng, False)
    t[0] = 1
    y = targets(x, rng, True)
    calls = [
        lambda: sc.cross_entropy_with_grad(x, t),
        lambda: sc.cross_entropy_with_grad(x, t, label_smoothing=0.1),
        lambda: sc.cross_entropy_with_grad(x, y),
        lambda: sc.binary_cross_entropy_with_grad(x, y),
        lambda: (sc.cross_entropy(x, t), sc.binary_cross_entropy(x, y)),
    ]
    for call in calls:
        with sc.num_threads(1):
            expected = call()
        for n in (2, 3, 5):
            with sc.num_threads(n):
                assert all(map(same_bits, call(), expected))


@pytest.mark.skipif(not {"avx2", "avx512"} <= set(ISAS), reason="needs a CPU with AVX-512, and the kernels for it")
@pytest.mark.parametrize("options", WEIGHTED)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_avx2_and_avx512(soft, options, rng):
    for dtype, length in itertools.product(FLOATING, (5, 200, 1100, 9000)):
        x = (3 * rng.standard_normal((8, length))).astype(dtype)
        given = WEIGHTED[options](length, rng)
        t = targets(x, rng, soft, ignored=given.get("ignore_index", -100))
        if soft:
            given.pop("ignore_index", None)
        results = []
        for isa in ("avx2", "avx512"):
            with kernels.use(isa):
                results.append([*sc.cross_entropy_with_grad(x, t, **given), *sc.binary_cross_entropy_with_grad(x, np.abs(x) > 1)])
        assert all(map(same_bits, *results))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("options", WEIGHTED)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_short_rows_side_by_side_and_one_by_one_agree(soft, options, isa, rng):
    for dtype, length in itertools.product(FLOATING, (2, 15, 16, 17, 64, 65, 127, 128)):
        x = (5 * rng.standard_normal((67, length))).astype(dtype)
        given = WEIGHTED[options](length, rng)
        t = targets(x, rng, soft, ignored=given.get("ignore_index", -100))
        if soft:
            given.pop("ignore_index", None)
        x[1], x[2, 0], x[3, -1], x[4, 1:], x[5], x[6, 0] = -INF, NAN, INF, -INF, 1000, 60
        apart = np.repeat(x, 2, axis=1)[:, ::2]  # with gaps, which no row may have that is turned into a column
        with kernels.use(isa):
            for function in (sc.cross_entropy_with_grad, lambda *a, **k: (sc.cross_entropy(*a, **k),)):
                together = tuple(map(of_one_nan, function(x, t, reduction="none", **given)))
                assert all(map(same_bits, together, map(of_one_nan, function(apart, t, reduction="none", **given)))), (dtype, length)
                one = function(x[20], t[20], reduction="none", **given)
                assert all(map(same_bits, one, [a[20] for a in together])), (dtype, length)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("options", ["weight", "all", "z_loss", "no weight"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_classes_along_the_middle_axis(soft, options, isa, rng):
    # Rows side by side are taken as columns, up to a frame of 4096 or 2048 elements; 19 of them are a Lanes and part of one.
    lengths = [(dtype, length) for dtype in FLOATING for length in (2, 7, 21, 128, 129)]
    for dtype, length in [*lengths, *((d, n) for d in (np.float32, np.float64) for n in (2048, 2049, 4096, 4097))]:
        x = (5 * rng.standard_normal((2, length, 19))).astype(dtype)
        given = WEIGHTED[options](length, rng)
        t = targets(x, rng, soft, 1, ignored=given.get("ignore_index", -100))
        if soft:
            given.pop("ignore_index", None)
        x[0, 0, 0], x[1, 1:, 2], x[0, :, 3], x[1, :, 4], x[0, -1, 5] = NAN, -INF, -INF, 1000, INF
        dloss = rng.standard_normal((2, 19))
        dloss[1, 7] = 1e-35  # far from 1, as 1e35 is
        dloss[0, 8] = 1e35
        rows = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        rows_of_t = np.ascontiguousarray(np.moveaxis(t, 1, -1)) if soft else t
        with kernels.use(isa):
            loss, dx = map(of_one_nan, sc.cross_entropy_with_grad(x, t, 1, reduction="none", **given))
            expected = sc.cross_entropy_with_grad(rows, rows_of_t, reduction="none", **given)
            assert same_bits(loss, of_one_nan(expected[0])) and same_bits(np.moveaxis(dx, 1, -1), of_one_nan(expected[1])), (dtype, length)
            assert same_bits(of_one_nan(sc.cross_entropy(x, t, 1, reduction="none", **given)), loss), (dtype, length)
            dx = sc.cross_entropy_backward(dloss, x, t, 1, reduction="none", **given)
            expected = sc.cross_entropy_backward(dloss, rows, rows_of_t, reduction="none", **given)
            assert same_bits(of_one_nan(np.moveaxis(dx, 1, -1)), of_one_nan(expected)), (dtype, length)


@pytest.mark.parametrize("scale", [1, 100])
def test_rows_kept_and_rows_read_again_agree(scale, rng):
    # Frames of different maxima, far ones among them; a row longer than what is kept, row by row and in a batch.
    for length in (4096, 9000, 70_000):
        x = (scale * rng.standard_normal((5, length))).astype(np.float32)
        x[1, :4096] -= 300
        x[2, 4096:] = -INF
        x[3, 17] = 400
        t = np.array([1, 2, 3, 17, -100])
        loss, dx = sc.cross_entropy_with_grad(x, t, reduction="none")
        apart = [sc.cross_entropy_with_grad(x[i], t[i], reduction="none") for i in range(5)]
        strided = np.asfortranarray(x)
        assert same_bits(np.stack([a for a, _ in apart]), loss) and same_bits(np.stack([b for _, b in apart]), dx)
        assert all(map(same_bits, sc.cross_entropy_with_grad(strided, t, reduction="none"), (loss, dx)))
        expected = reference.cross_entropy_with_grad(x, t, reduction="none")
        tolerant(dx, expected[1], 4, np.where(np.arange(length) == t[:, None], 1, 0))
        assert ulp_error(loss, expected[0]).max() <= 2


# ----------------------------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("name", ["cross_entropy_with_grad", "binary_cross_entropy_with_grad"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_out_of_value_and_gradient(name, dtype, reduction, rng):
    for length in (5, 300, 9000):
        x = rng.standard_normal((7, length)).astype(dtype)
        t = rng.integers(0, length, 7) if name.startswith("cross") else rng.random((7, length)).astype(dtype)
        function = getattr(sc, name)
        loss, dx = function(x, t, reduction=reduction)
        places = np.zeros_like(loss), np.zeros_like(dx)
        for out in (places, (None, places[1]), (places[0], None), places[1]):
            results = function(x, t, reduction=reduction, out=out)
            assert all(map(same_bits, results, (loss, dx)))
            for place, got in zip(out if isinstance(out, tuple) else (None, out), results):
                assert place is None or got is place
        for step in (1, 2, -1):
            given = np.repeat(x, abs(step), axis=0)[::step]
            again = function(given, t if step > 0 else t[::-1], reduction=reduction, out=given)
            assert again[1] is given and same_bits(again[0], loss if step > 0 or reduction == "mean" else loss[::-1])
            assert same_bits(given, dx if step > 0 else dx[::-1])
        memory = np.zeros(x.size + 3, dtype)
        given, out = memory[3:].reshape(x.shape), memory[:-3].reshape(x.shape)
        given[...] = x
        assert all(map(same_bits, function(given, t, reduction=reduction, out=out), (loss, dx)))


def test_in_place_over_one_long_row(rng):
    # The threads that write one end may not change what those at the other end know of the row.
    for dtype in (np.float32, np.float64):
        x = np.full((1, 400_000), -90, dtype)
        x[0, 5] = 1
        for label in (5, 0, 399_999):
            for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
                with sc.num_threads(1):
                    expected = sc.cross_entropy_with_grad(x, [label], **options)
                for _ in range(3):
                    y = x.copy()
                    with sc.num_threads(2):
                        results = sc.cross_entropy_with_grad(y, [label], out=y, **options)
                    assert all(map(same_bits, results, expected))


def test_out_of_one_result(rng):
    x, t = rng.standard_normal((4, 5), np.float32), [0, 1, 2, 3]
    for name, shape in (("mean", ()), ("none", (4,))):
        out = np.zeros(shape, np.float32)
        assert sc.cross_entropy(x, t, reduction=name, out=out) is out
        assert_equal(out, sc.cross_entropy(x, t, reduction=name))
    column = x.copy()
    expected = sc.cross_entropy(x, t, reduction="none")
    assert same_bits(sc.cross_entropy(column, t, reduction="none", out=column[:, 0]), expected)
    for y in (x, x.T.copy().T, x[:, ::-1].copy()[:, ::-1]):
        y = y.copy(order="K")
        assert sc.cross_entropy_backward(1.0, y, t, out=y) is y
        assert_equal(y, sc.cross_entropy_backward(1.0, x, t))


# -------------------------------------------------------------------------------------------------------------- errors

X = np.zeros((2, 3), np.float32)
BAD_CALLS = [
    (CROSS, {"target": [0, 3]}, IndexError, "target holds 3, it must be from 0 to 2, for 3 classes, or -100 to be ignored"),
    (CROSS, {"target": [-1, 0]}, IndexError, "target holds -1"),
    (CROSS, {"target": [-100, 0], "ignore_index": 2}, IndexError, "target holds -100, .* or 2 to be ignored"),
    (CROSS, {"target": np.array([[3, 0], [1, 2]])[:, 0]}, IndexError, "target holds 3"),
    (CROSS, {"target": [0, 1, 2]}, ValueError, r"target has shape \(3,\), it must be \(2,\) for labels of logits of shape \(2, 3\)"),
    (CROSS, {"target": [0.0, 1.0]}, ValueError, r"target has shape \(2,\), it must be \(2, 3\) for probabilities"),
    (CROSS, {"target": [True, False]}, TypeError, "target has dtype bool, it must be an integer dtype"),
    (CROSS, {"target": ["a", "b"]}, TypeError, "target has dtype"),
    (CROSS, {"target": None}, TypeError, "target has dtype object"),
    (CROSS, {"axis": 2}, np.exceptions.AxisError, "axis 2 is out of bounds"),
    (CROSS, {"weight": [1.0, 2.0]}, ValueError, r"weight has shape \(2,\), it must be \(3,\)"),
    (CROSS, {"weight": 2.0}, ValueError, r"weight has shape \(\)"),
    (CROSS, {"weight": "w"}, TypeError, "weight has dtype"),
    (CROSS, {"ignore_index": 1.0}, TypeError, "ignore_index is a float, it must be an int"),
    (CROSS, {"ignore_index": True}, TypeError, "ignore_index is a bool"),
    (CROSS, {"ignore_index": None}, TypeError, "ignore_index is a NoneType"),
    (CROSS, {"ignore_index": 2**63}, ValueError, "ignore_index is 9223372036854775808, which int64 cannot hold"),
    (CROSS, {"target": X, "ignore_index": 0}, ValueError, "ignore_index is 0, it must be negative where target holds probabilities"),
    (CROSS, {"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5, it must be from 0 to 1"),
    (CROSS, {"label_smoothing": -0.1}, ValueError, "label_smoothing is -0.1"),
    (CROSS, {"label_smoothing": NAN}, ValueError, "label_smoothing is nan"),
    (CROSS, {"label_smoothing": "0"}, TypeError, "label_smoothing is a str, it must be a real number"),
    (CROSS, {"z_loss": -1}, ValueError, "z_loss is -1, it must be finite and at least 0"),
    (CROSS, {"z_loss": INF}, ValueError, "z_loss is inf"),
    (CROSS + BINARY, {"reduction": "avg"}, ValueError, "reduction is 'avg', it must be one of 'mean', 'sum', 'none'"),
    (CROSS + BINARY, {"reduction": None}, TypeError, "reduction is a NoneType, it must be a str"),
    (CROSS + BINARY, {"logits": np.zeros((2, 3), complex)}, TypeError, "logits has dtype complex128"),
    (BINARY, {"target": np.zeros((3, 2))}, ValueError, r"target has shape \(3, 2\), it must broadcast to \(2, 3\)"),
    (BINARY, {"weight": np.zeros(2)}, ValueError, "weight has shape"),
    (BINARY, {"pos_weight": np.zeros((2, 2, 3))}, ValueError, "pos_weight has shape"),
    (BINARY, {"pos_weight": "w"}, TypeError, "pos_weight has dtype"),
]


@pytest.mark.parametrize(("names", "options", "error", "text"), BAD_CALLS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_errors_leave_out_alone(names, options, error, text):
    for name in names:
        given = {"logits": X, "target": [0, 1] if name in CROSS else X, **options}
        first = (np.float32(1),) if name.endswith("_backward") else ()
        value, slope = np.full((), 7, np.float32), np.full((2, 3), 7, np.float32)
        out = slope if first else (value, slope) if name.endswith("_with_grad") else value
        with pytest.raises(error, match=f"^{name}: {text}"):
            getattr(sc, name)(*first, given.pop("logits"), given.pop("target"), **given, out=out)
        assert value == 7 and (slope == 7).all()


@pytest.mark.parametrize("name", ["cross_entropy_with_grad", "binary_cross_entropy_with_grad"])
@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        ((None,), ValueError, "out holds 1 arrays, it must hold 2"),
        ([None, None], TypeError, "out is a list, it must be a numpy.ndarray"),
        ((np.zeros(1, np.float32), None), ValueError, r"out\[0\] has shape \(1,\), it must be \(\)"),
        ((None, np.zeros((2, 3))), TypeError, r"out\[1\] has dtype float64, it must be float32"),
        (np.zeros((3, 2), np.float32), ValueError, r"out has shape \(3, 2\), it must be \(2, 3\)"),
        (read_only(X), ValueError, "out is read-only"),
    ],
)
def test_bad_out_of_two_results(name, out, error, text):
    with pytest.raises(error, match=f"^{name}: {text}"):
        getattr(sc, name)(X, [0, 1] if name in CROSS else X, out=out)


def test_dloss_has_the_shape_of_the_loss():
    for name, target in (("cross_entropy_backward", [0, 1]), ("binary_cross_entropy_backward", X)):
        with pytest.raises(ValueError, match=rf"^{name}: dloss has shape \(2,\), it must broadcast to \(\)"):
            getattr(sc, name)(np.ones(2), X, target)
        with pytest.raises(ValueError, match=f"^{name}: dloss has shape"):
            getattr(sc, name)(np.ones(4), X, target, reduction="none")
        with pytest.raises(TypeError, match=f"^{name}: dloss has dtype object"):
            getattr(sc, name)(None, X, target)


@pytest.mark.parametrize("name", [*CROSS, *BINARY])
def test_no_floating_point_warnings(name):
    x = np.array([[NAN, INF, -INF, 0], [-1e38, 1e38, 3e38, 1e-45]], np.float32)
    first = (np.float64(1e300),) if name.endswith("_backward") else ()
    with np.errstate(all="raise"):
        for reduction in ("mean", "sum", "none"):
            getattr(sc, name)(*first, x, [-100, 1] if name in CROSS else x, reduction=reduction)
            if name in CROSS:
                getattr(sc, name)(*first, x, [-100, -100], reduction=reduction, weight=np.zeros(4), z_loss=1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_infinite_binary_loss_makes_an_infinite_sum(dtype):
    logits = np.tile(np.array([1, -np.inf, 3], dtype), 50)
    for reduction in ("sum", "mean"):
        assert sc.binary_cross_entropy(logits, 1.0, reduction=reduction) == np.inf
        loss, _ = sc.binary_cross_entropy_with_grad(logits, 1.0, reduction=reduction)
        assert loss == np.inf
    logits[7] = np.nan
    assert np.isnan(sc.binary_cross_entropy(logits, 1.0, reduction="sum"))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", [(40, 130), (9, 3001), (3, 131_072), (3, 131_075)], ids=str)
def test_labels_in_lines_that_rows_share(dtype, shape, monkeypatch):
    # Past the cache a line waits for the row that ends in it and the row that begins there.
    monkeypatch.setattr(planner, "LAST_LEVEL", 0)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for label in (*range(20), *range(shape[1] - 20, shape[1])) if shape[1] < 1000 else (0, 5, shape[1] - 9, shape[1] - 2, shape[1] - 1):
        target = np.full(shape[0], label)
        _, gradient = sc.cross_entropy_with_grad(x, target, reduction="sum")
        expected = sc.softmax(x.astype(float))
        expected[:, label] -= 1
        tolerant(gradient, expected, 4, np.maximum(abs(expected), np.arange(shape[1]) == label))
