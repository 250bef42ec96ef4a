"""The OpenCL core's gates, mixtures, losses and pooling, and what the max family has besides: against the CPU core and the reference.

See test_opencl.py for where these tests run.
"""

import numpy as np
import pytest

pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")

from test_gates import ACTIVATIONS, ENDS, sweep
from test_kernels import batch, widened
from test_opencl import FLOAT32, OTHERS, alike, device, get, limited, on_device, to_device  # noqa: F401  # fixtures among them

import softcore as sc
from softcore.reference import OPS
from softcore.testing import ulp_error

# ---------------------------------------------------------------------------------------------------- the max family, gates


@pytest.mark.parametrize("ties", ["first", "last", "split", "all"])
def test_ties(ties, rng):
    x = batch(FLOAT32, 70)
    dy = rng.standard_normal(len(x)).astype(np.float32)
    for a in (x, rng.integers(0, 9, x.shape), np.int64(2**60) + rng.integers(0, 3, x.shape)):
        np.testing.assert_array_equal(on_device("max_backward", dy, a, ties=ties), sc.max_backward(dy, a, ties=ties))
    where = rng.random(x.shape) < 0.5
    np.testing.assert_array_equal(on_device("max_backward", dy, x, ties=ties, where=where), sc.max_backward(dy, x, ties=ties, where=where))


def test_select_last_and_index(rng):
    x = batch(FLOAT32, 70)
    dy = rng.standard_normal(len(x)).astype(np.float32)
    for function in ("argmax", "max_with_argmax"):
        for actual, expected in zip(on_device(function, x, select_last=True), getattr(sc, function)(x, select_last=True)):
            np.testing.assert_array_equal(actual, expected)
    index = rng.integers(0, 70, len(x))
    where = rng.random(x.shape) < 0.5
    for given in (index, index.astype(np.uint8)):
        np.testing.assert_array_equal(
            on_device("max_backward", dy, x, index=given, where=where), sc.max_backward(dy, x, index=index, where=where)
        )
    with pytest.raises(IndexError, match="max_backward: index holds 70, it must be from 0 to 69, for rows of 70 elements"):
        on_device("max_backward", dy, x, index=index + (70 - index.max()))
    with pytest.raises(TypeError, match="max_backward: index is not a pyopencl array and the other arrays are"):
        sc.max_backward(to_device(dy), to_device(x), index=index)


def test_initial_and_rows_in_which_nothing_takes_part(rng):
    x = rng.integers(-9, 9, (4, 30))
    where = np.ones(x.shape, bool)
    where[1] = False
    np.testing.assert_array_equal(on_device("max", x, where=where, initial=3), sc.max(x, where=where, initial=3))
    np.testing.assert_array_equal(get(sc.max(to_device(x[:, :0]), initial=3)), [3] * 4)
    for function in ("max", "argmax", "max_with_argmax"):
        with pytest.raises(ValueError, match=f"{function}: where masks out every element of a row"):
            on_device(function, x, where=where)


SHAPES = [((3, 4), (3, 4), (3, 4)), ((3, 40), (40,), (3, 1)), ((), (3, 1), (1, 40)), ((5, 3, 40), (3, 1), (5, 1, 40))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["gate", "maximum"])
def test_gradients_of_what_was_broadcast(name, shapes, rng):
    arrays = [rng.standard_normal(s).astype(np.float32) for s in (shapes if name == "gate" else shapes[:2])]
    dy = rng.standard_normal(np.broadcast_shapes(*(a.shape for a in arrays))).astype(np.float32)
    np.testing.assert_allclose(on_device(name, *arrays), getattr(sc, name)(*arrays), rtol=1e-6, atol=1e-7)
    expected = getattr(sc, f"{name}_backward")(dy, *arrays)
    for actual, e in zip(on_device(f"{name}_backward", dy, *arrays), expected):
        assert actual.shape == np.shape(e)
        np.testing.assert_allclose(actual, e, rtol=1e-5, atol=1e-5)
    there = [to_device(a) for a in (dy, *arrays)]
    out = tuple(there[1:])
    results = getattr(sc, f"{name}_backward")(*there, out=out)  # over what is read
    for actual, given, e in zip(results, out, expected):
        assert actual is given
        np.testing.assert_allclose(actual.get(), e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, FLOAT32, *OTHERS], ids=str)
def test_maximum_of_zeros(dtype):
    a, b = np.array([0, -0.0, 0, -0.0, -1, 2, 3], dtype), np.array([-0.0, 0, 0, -0.0, -0.0, 2, 1], dtype)
    actual, expected = on_device("maximum", a, b), sc.maximum(a, b)
    assert actual.dtype == expected.dtype and actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_at_the_edges(dtype, rng):
    one, zero = ENDS[np.dtype(dtype).itemsize]
    r = np.array([one, 1000, np.inf, zero, -1000, -np.inf, np.nextafter(one, zero), np.nextafter(zero, one), np.nan, 0], dtype)
    for a, b in ((2, np.nan), (np.nan, 2), (2, np.inf), (-np.inf, 2)):
        a, b = np.full_like(r, a), np.full_like(r, b)
        for name, arguments in (("gate", (a, b, r)), ("gate_backward", (a, a, b, r))):
            for actual, expected in zip(on_device(name, *arguments), getattr(sc, name)(*arguments)):
                np.testing.assert_allclose(actual, expected, rtol=1e-6)
    most = np.full(4, np.finfo(dtype).max)
    arguments = np.array([0, -0.0, 1e-3, 1], dtype), most, -most, np.zeros(4, dtype)  # whose difference is infinite
    for actual, expected in zip(on_device("gate_backward", *arguments), sc.gate_backward(*arguments)):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    n, largest = 4000, np.finfo(dtype).maxexp - 1
    df, x, y = (np.ldexp(rng.uniform(1, 2, n) * rng.choice([-1, 1], n), rng.integers(-largest, largest, n)).astype(dtype) for _ in range(3))
    r = (10 * rng.standard_normal(n)).astype(dtype)
    assert ulp_error(on_device("gate", x, y, r), sc.reference.gate(*widened((x, y, r))), OPS["gate"].terms(*widened((x, y, r)))).max() <= 4
    for d, e in zip(on_device("gate_backward", df, x, y, r), sc.reference.gate_backward(*widened((df, x, y, r)))):
        assert ulp_error(d, e).max() <= 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_huge_number_times_the_silu_of_a_tiny_one(dtype):
    least, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    a, b = np.full(4, most, dtype), np.array([least, -least, 3 * least, np.finfo(dtype).tiny], dtype)
    np.testing.assert_allclose(on_device("glu", np.concatenate([a, b]), activation="silu"), sc.glu((a, b), activation="silu"), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype, rng):
    b = sweep(dtype, 200_003)
    one = np.ones_like(b)
    exact = activation in ("relu", "none")
    expected = sc.reference.glu(widened((one, b)), activation=activation)
    assert ulp_error(get(sc.glu((to_device(one), to_device(b)), activation=activation)), expected).max() <= (0.5 if exact else 3)
    x = np.concatenate([one, b])
    with np.errstate(all="ignore"):
        terms = OPS["glu_backward"].terms(*widened((one, x)), activation=activation)
        expected = sc.reference.glu_backward(*widened((one, x)), activation=activation)
    assert ulp_error(on_device("glu_backward", one, x, activation=activation), expected, terms).max() <= (0.5 if exact else 4.5)
    b = np.array([-np.inf, np.inf, np.nan, 0.0, -0.0], dtype)
    for actual, e in zip(
        get(sc.glu_backward(*map(to_device, (np.ones_like(b), (np.ones_like(b), b))), activation=activation)),
        sc.reference.glu_backward(np.ones_like(b), (np.ones_like(b), b), activation=activation),
    ):
        np.testing.assert_array_equal(actual, e)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["sigmoid", "silu"])
def test_glu_at_the_edges(activation, dtype):
    # What goes the plain way and what the careful one, side by side in the vectors.
    info, end = np.finfo(dtype), ENDS[np.dtype(dtype).itemsize][0]
    magnitudes = [0, info.tiny, info.tiny * 2**26, 0.5, np.nextafter(end, 0), end, 20 * end, info.max / 8, info.max, np.inf]
    b = np.array([*magnitudes, *np.negative(magnitudes), np.nan], dtype)
    edges = np.append(b, info.smallest_subnormal)
    dy, a, b = (np.ascontiguousarray(v).reshape(-1) for v in np.meshgrid(edges, edges, b))
    x, tiny = np.concatenate([a, b]), 2 * float(info.smallest_subnormal)
    for name, arguments in (("glu", (x,)), ("glu_backward", (dy, x))):
        actual, expected = on_device(name, *arguments, activation=activation), getattr(sc, name)(*arguments, activation=activation)
        np.testing.assert_allclose(actual, expected, rtol=6 * float(info.eps), atol=tiny)


# ------------------------------------------------------------------------------------------------------ logsumexp of weights


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logsumexp_of_weights_at_the_edges(dtype, rng):
    tiny, huge = np.finfo(dtype).smallest_subnormal, 0.9 * np.finfo(dtype).max
    x = np.array([0, 1, 2, -1], dtype)
    far = -1e4 * np.ones(4, dtype)
    for a, b in ((x, [tiny] * 4), (x, [huge] * 4), (x, [-huge] * 4), (50 * x, [huge, 1, tiny, 1]), (far * x, [np.inf, 1, 1, 1])):
        b = np.array(b, dtype)
        # The NumPy call rounds products with the smallest float64, and those with the largest overflow.
        expected = (sc if dtype is np.float32 else sc.reference).logsumexp(*widened((a,)), b=widened((b,))[0], return_sign=True)
        for d, e in zip(on_device("logsumexp", a, b=b, return_sign=True), expected):
            np.testing.assert_allclose(np.asarray(d, float), np.asarray(e, float), rtol=4 * np.finfo(dtype).eps)
    a, where = np.array([2, -200, 1], dtype), np.array([True, True, False])
    for b in ([1, np.inf, 1], [1, -np.inf, 1], [np.inf, -np.inf, 1], [1, -1, np.inf], [0, 0, np.nan]):
        b = np.array(b, dtype)
        for d, e in zip(on_device("logsumexp", a, b=b, where=where, return_sign=True), sc.logsumexp(a, b=b, where=where, return_sign=True)):
            np.testing.assert_allclose(d, e, rtol=4 * np.finfo(dtype).eps)
    x = rng.standard_normal((9, 70)).astype(dtype)
    b = np.ldexp(rng.uniform(1, 2, x.shape), rng.integers(-100, 100, x.shape)).astype(dtype)
    alike(on_device("logsumexp", x, b=b), sc.logsumexp(x, b=b))


# ----------------------------------------------------------------------------------------------------------------- mixtures


MIXTURES = [
    ((5, 70, 3), (5, 70)),
    ((3, 1, 1), (3, 1)),
    ((6, 40), (5, 6)),
    ((4, 6, 33), (6,)),
    ((3, 1, 20, 7), (1, 4, 20)),
    ((2, 0, 3), (2, 0)),
    ((2, 4, 0), (2, 4)),
]


@pytest.mark.parametrize("shapes", MIXTURES, ids=str)
def test_softmax_gate(shapes, rng):
    x, r = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    batch_shape = np.broadcast_shapes(x.shape[:-2], r.shape[:-1])
    do = rng.standard_normal((*batch_shape, x.shape[-1])).astype(np.float32)
    where = rng.random((*batch_shape, r.shape[-1])) < 0.7
    for options in ({}, {"scale": -2.5}, {"where": where}, {"where": where, "scale": 0.5}):
        alike(on_device("softmax_gate", x, r, **options), sc.softmax_gate(x, r, **options))
        alike(on_device("softmax_gate", x, r, return_lse=True, **options), sc.softmax_gate(x, r, return_lse=True, **options))
        alike(on_device("softmax_gate_backward", do, x, r, **options), sc.softmax_gate_backward(do, x, r, **options), atol=1e-5)


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS, np.dtype(np.int32)], ids=str)
def test_softmax_gate_of_awkward_scores(dtype, rng):
    r = batch(dtype, 9)
    x = rng.standard_normal((*r.shape, 3)).astype(dtype)
    where = rng.random(r.shape) < 0.6
    if dtype.kind != "i":
        x[~where] = np.nan  # not read
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 1e-6)
    alike(on_device("softmax_gate", x, r, where=where), sc.softmax_gate(x, r, where=where), rtol=tolerance)
    do = rng.standard_normal((len(r), 3)).astype(dtype)
    alike(
        on_device("softmax_gate_backward", do, x, r, where=where),
        sc.softmax_gate_backward(do, x, r, where=where),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS, np.dtype(np.int64)], ids=str)
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_gate(dtype, renormalize, rng):
    r = batch(dtype, 40)
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 1e-6)
    for k in (1, 5, 40):
        weights, indices = on_device("topk_gate", r, k, renormalize=renormalize)
        expected = sc.topk_gate(r, k, renormalize=renormalize)
        alike((weights, indices), expected, rtol=tolerance)
        dw = rng.standard_normal(weights.shape).astype(weights.dtype)
        alike(
            on_device("topk_gate_backward", dw, r, indices, renormalize=renormalize),
            sc.topk_gate_backward(dw, r, indices, renormalize=renormalize),
            rtol=4 * tolerance,
            atol=4 * tolerance,
        )
    alike(
        on_device("topk_gate", np.ascontiguousarray(r.T), 3, 0, renormalize=renormalize),
        sc.topk_gate(r.T, 3, 0, renormalize=renormalize),
        rtol=tolerance,
    )
    assert on_device("topk_gate", r, 0)[0].shape == (len(r), 0)


def test_topk_gate_of_large_integers_and_repeated_indices(rng):
    r = 2**60 + rng.integers(0, 40, (3, 20))
    np.testing.assert_array_equal(on_device("topk_gate", r, 7)[1], sc.topk_gate(r, 7)[1])
    r, dw = rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal((3, 9)).astype(np.float32)
    indices = rng.integers(0, 6, (3, 9))
    for renormalize in (True, False):
        alike(
            on_device("topk_gate_backward", dw, r, indices, renormalize=renormalize),
            sc.topk_gate_backward(dw, r, indices, renormalize=renormalize),
        )
    with pytest.raises(IndexError, match="topk_gate_backward: indices holds 6, it must be from 0 to 5, for rows of 6 elements"):
        on_device("topk_gate_backward", dw, r, indices + (6 - indices.max()))


# ------------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight": True}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": True, "label_smoothing": 0.2, "z_loss": 0.1}],
    ids=str,
)
def test_cross_entropy(options, soft, rng):
    x = (3 * rng.standard_normal((6, 70))).astype(np.float32)
    target = rng.random(x.shape).astype(np.float32) if soft else np.where(rng.random(6) < 0.3, -100, rng.integers(0, 70, 6))
    if soft:
        x[1, 3], target[1, 3] = -np.inf, 0  # no loss
    options = {**options, **({"weight": rng.random(70).astype(np.float32)} if "weight" in options else {})}
    if soft and options.get("label_smoothing"):
        x[1, 3] = 0
    for reduction in ("mean", "sum", "none"):
        dloss = np.asarray(rng.standard_normal(6 if reduction == "none" else ())).astype(np.float32)
        alike(
            on_device("cross_entropy", x, target, reduction=reduction, **options),
            sc.cross_entropy(x, target, reduction=reduction, **options),
        )
        alike(
            on_device("cross_entropy_with_grad", x, target, reduction=reduction, **options),
            sc.cross_entropy_with_grad(x, target, reduction=reduction, **options),
        )
        alike(
            on_device("cross_entropy_backward", dloss, x, target, reduction=reduction, **options),
            sc.cross_entropy_backward(dloss, x, target, reduction=reduction, **options),
        )
    logits = to_device(x)
    loss, dlogits = sc.cross_entropy_with_grad(logits, to_device(target), out=logits, **{k: to_device(v) for k, v in options.items()})
    assert dlogits is logits
    alike((loss.get(), logits.get()), sc.cross_entropy_with_grad(x, target, **options))


def test_edges_of_cross_entropy(rng):
    x = rng.standard_normal((3, 5)).astype(np.float32)
    ignored = np.full(3, -100)
    for reduction in ("mean", "sum"):
        alike(
            on_device("cross_entropy_with_grad", x, ignored, reduction=reduction),
            sc.cross_entropy_with_grad(x, ignored, reduction=reduction),
        )
    alike(on_device("cross_entropy_backward", np.float32(np.nan), x, ignored), np.zeros_like(x))
    x = np.float32([[np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf] * 3, [np.nan, 1, 2]])
    for label in range(3):
        target = np.full(4, label)
        for function in ("cross_entropy", "cross_entropy_with_grad"):
            alike(on_device(function, x, target, reduction="none"), getattr(sc, function)(x, target, reduction="none"))
    with pytest.raises(IndexError, match="cross_entropy: target holds 3, it must be from 0 to 2"):
        on_device("cross_entropy", x, np.array([0, 1, 3, 0]))
    with pytest.raises(TypeError, match="cross_entropy: target is not a pyopencl array and the other arrays are"):
        sc.cross_entropy(to_device(x), np.array([0, 1, 2, 0]))
    alike(on_device("cross_entropy", x[None, :3, :2], np.array([4]), (1, 2)), sc.cross_entropy(x[None, :3, :2], np.array([4]), (1, 2)))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": np.float32([0.3])}, {"z_loss": 0.1}], ids=str)
def test_cross_entropy_of_one_class(options, rng):
    x = np.append(9 * rng.standard_normal(97), [np.inf, -np.inf, np.nan])[:, None].astype(np.float32)
    for target in (np.where(rng.random(100) < 0.3, -100, 0), rng.random((100, 1)).astype(np.float32)):
        for reduction in ("none", "sum"):
            loss, gradient = on_device("cross_entropy_with_grad", x, target, reduction=reduction, **options)
            expected = sc.cross_entropy_with_grad(x, target, reduction=reduction, **options)
            alike(loss, np.asarray(expected[0]))
            np.testing.assert_allclose(gradient, expected[1], rtol=1e-6)  # exactly 0, but for z_loss


def test_binary_cross_entropy(rng):
    x = (3 * rng.standard_normal((70, 90))).astype(np.float32)  # more than one chunk
    target, weight = rng.random(x.shape).astype(np.float32), rng.random(90).astype(np.float32)
    for reduction in ("mean", "sum", "none"):
        dloss = np.asarray(rng.standard_normal(x.shape if reduction == "none" else ())).astype(np.float32)
        for options in ({}, {"weight": weight}, {"pos_weight": weight}, {"weight": weight, "pos_weight": weight}):
            options = {"reduction": reduction, **options}
            for a, t in ((x, target), (np.ascontiguousarray(x.T).T[:, ::-1], target > 0.5)):
                alike(on_device("binary_cross_entropy", a, t, **options), sc.binary_cross_entropy(a, t, **options), atol=2e-6)
                alike(on_device("binary_cross_entropy_with_grad", a, t, **options), sc.binary_cross_entropy_with_grad(a, t, **options))
                alike(
                    on_device("binary_cross_entropy_backward", dloss, a, t, **options),
                    sc.binary_cross_entropy_backward(dloss, a, t, **options),
                )
    there = to_device(x), to_device(target)  # beside a number
    alike(get(sc.binary_cross_entropy_backward(0.7, *there)), sc.binary_cross_entropy_backward(0.7, x, target))
    x, target = np.float32([np.inf, -np.inf, np.inf, np.nan]), np.float32([1, 0, 0.5, 1])
    alike(
        on_device("binary_cross_entropy_with_grad", x, target, reduction="none"),
        sc.binary_cross_entropy_with_grad(x, target, reduction="none"),
    )
    alike(on_device("binary_cross_entropy", x[1:3], 1.0), np.float32(np.inf))


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS], ids=str)
def test_sums_of_binary_cross_entropy_at_the_ends_of_vectors_and_chunks(dtype, rng):
    for n in (1, 3, 4, 7, 8, 9, 16, 31, 4095, 4096, 4097, 4104, 8200):
        x, target = (3 * rng.standard_normal(n)).astype(dtype), rng.random(n).astype(dtype)
        loss, gradient = on_device("binary_cross_entropy_with_grad", x, target, reduction="sum")
        each, _ = expected = sc.binary_cross_entropy_with_grad(x, target, reduction="sum")
        np.testing.assert_allclose(float(loss), float(each), rtol=1e-6)
        alike(gradient, expected[1], rtol=1e-2 if dtype.itemsize == 2 else 2e-6)


# ----------------------------------------------------------------------------------------------------------------- pooling

WINDOWS = [
    ((2, 3, 7, 9), (2, 2), {}),
    ((2, 3, 7, 9), (3, 3), {"stride": 2, "padding": 1}),
    ((7, 9), (3, 2), {"stride": 1, "padding": "same", "dilation": 2}),
    ((2, 11), 3, {"ceil_mode": True}),
    ((2, 5, 6, 4), (2, 3), {"layout": "channels_last", "padding": ((0, 1), (1, 0))}),
    ((2, 3, 4, 5, 6), (2, 2, 3), {"stride": (1, 2, 2)}),
    # More windows side by side than vectors take at once: an odd row in pairs, elements three apart, columns, channels, and batches.
    ((1, 3, 5, 87), (3, 3), {"stride": 2, "padding": 1, "ceil_mode": True}),
    ((2, 131), 4, {"stride": 3, "padding": ((5, 2),), "dilation": 2}),
    ((2, 90, 5), (2, 2), {"stride": 1, "padding": ((1, 1), (0, 1))}),
    ((2, 3, 4, 3, 37), (2, 2, 2), {"layout": "channels_last", "padding": 1}),
    ((37, 2, 3, 3, 2), (2, 1, 2), {"stride": 1}),
]


@pytest.mark.parametrize("given", WINDOWS, ids=str)
def test_pooling(given, rng):
    shape, window, options = given
    x = rng.integers(-9, 9, shape).astype(np.float32) / 4
    x.reshape(-1)[[3, 20]] = np.nan, -np.inf
    layout = {key: value for key, value in options.items() if key == "layout"}
    y, indices = on_device("max_pool", x, window, return_indices=True, **options)
    alike((y, indices), sc.max_pool(x, window, return_indices=True, **options))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    alike(on_device("max_pool_backward", dy, indices, shape, **layout), sc.max_pool_backward(dy, indices, shape, **layout))
    alike(on_device("max_unpool", y, indices, shape, **layout), sc.max_unpool(y, indices, shape, **layout))
    alike(on_device("softmax_pool", x, window, **options), sc.softmax_pool(x, window, **options))
    alike(on_device("softmax_pool_backward", dy, x, window, **options), sc.softmax_pool_backward(dy, x, window, **options))
    for padding in (True, False):
        alike(
            on_device("avg_pool", x, window, count_include_pad=padding, **options),
            sc.avg_pool(x, window, count_include_pad=padding, **options),
        )
        gradient = sc.avg_pool_backward(dy, shape, window, count_include_pad=padding, **options)
        alike(on_device("avg_pool_backward", dy, shape, window, count_include_pad=padding, **options), gradient)


@pytest.mark.parametrize("dtype", [*OTHERS, np.dtype(np.int32), np.dtype(np.uint8)], ids=str)
def test_pooling_of_other_dtypes(dtype, rng):
    x = rng.integers(0, 40, (3, 9, 8)).astype(dtype)
    x = np.where(rng.random(x.shape) < 0.1, np.nan, x).astype(dtype) if dtype.kind not in "iu" else x
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 1e-6)
    y, indices = on_device("max_pool", x, (3, 3), stride=1, return_indices=True)
    alike((y, indices), sc.max_pool(x, (3, 3), stride=1, return_indices=True))
    alike(on_device("max_unpool", y, indices, x.shape), sc.max_unpool(y, indices, x.shape))
    dy = rng.standard_normal(y.shape).astype(dtype)
    alike(on_device("max_pool_backward", dy, indices, x.shape), sc.max_pool_backward(dy, indices, x.shape), rtol=tolerance)
    for name in ("avg_pool", "softmax_pool"):
        alike(on_device(name, x, (2, 2)), getattr(sc, name)(x, (2, 2)), rtol=tolerance)
    dy = rng.standard_normal((3, 4, 4)).astype(dtype)
    alike(on_device("softmax_pool_backward", dy, x, (2, 2)), sc.softmax_pool_backward(dy, x, (2, 2)), rtol=tolerance, atol=tolerance)


def test_pooling_in_place_and_with_bad_indices(rng):
    x = rng.standard_normal((2, 6, 6)).astype(np.float32)
    out = to_device(x)
    assert sc.avg_pool(out, (3, 3), stride=1, padding=1, out=out) is out
    alike(out.get(), sc.avg_pool(x, (3, 3), stride=1, padding=1))
    y, indices = sc.max_pool(x, (2, 2), return_indices=True)
    with pytest.raises(IndexError, match="max_unpool: indices holds 99"):
        on_device("max_unpool", y, np.where(indices == indices.max(), 99, indices), x.shape)
    with pytest.raises(TypeError, match="max_unpool: indices is not a pyopencl array and the other arrays are"):
        sc.max_unpool(to_device(y), indices, x.shape)


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS[1:]], ids=str)
def test_pooling_of_huge_elements(dtype):
    for row in ([1e20, 0], [1e20] * 4, [1e20] * 3, [-1e30, 3e30, 3e30]):
        x, dy = np.array([row], dtype), np.ones((1, 1), dtype)
        alike(on_device("softmax_pool_backward", dy, x, len(row)), sc.softmax_pool_backward(dy, x, len(row)))
    top = np.finfo(dtype).max if dtype.kind == "f" else dtype.type(3e38)
    infinite = [top, np.inf, -top], [np.inf, -np.inf], [top, top, np.nan]
    for row in ([top, top, -top, -top, 0], [top, top, top, -top], [top] * 3, [top] * 7, *infinite):
        x = np.array([row], dtype)
        for padding in (0, 1):
            alike(on_device("avg_pool", x, len(row), padding=padding), sc.avg_pool(x, len(row), padding=padding))
