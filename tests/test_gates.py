"""Gates and gated linear units: their named edges, broadcasting, every activation, and their gradients."""

import numpy as np
import pytest
from calls import BFLOAT16, FLOATING, read_only, same_bits

import softcore as sc
from softcore import kernels
from softcore.reference import OPS
from softcore.testing import check_grad, ulp_error

INF, NAN = np.inf, np.nan
ACTIVATIONS = ("sigmoid", "silu", "gelu", "gelu_tanh", "relu", "none")
SHAPES = [
    ((40, 30), (40, 30), (40, 30)),
    ((40, 30), (40, 30), (30,)),
    ((40, 30), (40, 30), (40, 1)),
    ((30,), (40, 1), ()),
    ((), (), (40, 30)),
    ((1, 30), (40, 30), (1, 1)),
    ((5, 1, 30), (40, 1), (5, 40, 30)),
    ((5, 40, 30), (1, 40, 1), (30,)),
    ((), (), ()),
    ((1,), (), (1, 1)),
    ((3000, 1), (3000, 70), (70,)),
    ((70_000,), (1,), ()),
]
# The first number whose sigmoid rounds to 1, and the last whose sigmoid rounds to 0.
ENDS = {4: (np.float32(17.32868), np.float32(-103.972084)), 8: (np.float64(37.42994775023705), np.float64(-745.1332191019412))}


@pytest.fixture(params=kernels.available(), autouse=True)
def isa(request):
    with kernels.use(request.param):
        yield request.param


def wide(*arrays):
    return tuple(np.asarray(a, np.longdouble) if np.asarray(a).dtype == np.float64 else a for a in arrays)


# -------------------------------------------------------------------------------------------------------------------- gate


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_branch_not_chosen_is_not_read(dtype):
    one, zero = ENDS[np.dtype(dtype).itemsize]
    for bad in (NAN, INF, -INF):
        for r in (one, dtype(1000), dtype(INF)):
            assert sc.gate(dtype(2), dtype(bad), r) == 2
            assert sc.gate_backward(dtype(3), dtype(2), dtype(bad), r) == (3, 0, 0)
        for r in (zero, dtype(-1000), dtype(-INF)):
            assert sc.gate(dtype(bad), dtype(2), r) == 2
            assert sc.gate_backward(dtype(3), dtype(bad), dtype(2), r) == (0, 3, 0)
    for r, x, y in ((np.nextafter(one, zero), 2, NAN), (np.nextafter(zero, one), NAN, 2)):
        assert np.isnan(sc.gate(dtype(x), dtype(y), r))
        assert np.isnan(sc.gate_backward(dtype(3), dtype(x), dtype(y), r)[2])
    assert np.isnan(sc.gate(dtype(1), dtype(1), dtype(NAN)))
    assert np.isnan(sc.gate_backward(dtype(1), dtype(1), dtype(2), dtype(NAN))).all()
    assert sc.gate_backward(dtype(NAN), dtype(1), dtype(2), one)[1:] == (0, 0)


def test_exactly_is_meant_in_the_dtype_of_arithmetic():
    for dtype in (np.float16, BFLOAT16, np.float32):  # 20 is open in float32, not in float64
        assert sc.gate(np.ones((), dtype), np.full((), NAN, dtype), np.full((), 20, dtype)) == 1
    assert np.isnan(sc.gate(1.0, NAN, 20.0))
    assert sc.gate(1, NAN, np.float32(20)) == 1  # Python's numbers take the dtype beside them
    assert np.isnan(sc.gate(np.int8(1), np.float32(NAN), np.float32(20)))  # integers count as float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_agree_with_the_definition(dtype):
    for end in ENDS[np.dtype(dtype).itemsize]:
        r = end + np.arange(-3000, 3000).astype(dtype) * np.spacing(np.abs(end))
        for x, y in ((NAN, 1), (1, NAN)):
            x, y = np.full(r.shape, x, dtype), np.full(r.shape, y, dtype)
            np.testing.assert_array_equal(np.isnan(sc.gate(x, y, r)), np.isnan(sc.reference.gate(x, y, r)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sigmoid_that_underflows_keeps_its_bits(dtype, rng):
    _, zero = ENDS[np.dtype(dtype).itemsize]
    r = np.linspace(zero * dtype(0.999), zero * dtype(0.4), 1001).astype(dtype)
    top = np.finfo(dtype).max
    x = (rng.uniform(0.1, 1, r.size) * top).astype(dtype)
    y, df = np.zeros_like(x), rng.uniform(-1, 1, r.size).astype(dtype)
    assert ulp_error(sc.gate(x, y, r), sc.reference.gate(*wide(x, y, r))).max() <= 4
    for d, e in zip(sc.gate_backward(df, x, y, r), sc.reference.gate_backward(*wide(df, x, y, r))):
        assert ulp_error(d, e).max() <= 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_neither_overflow_nor_vanish_on_the_way(dtype, rng):
    n, largest = 4000, np.finfo(dtype).maxexp - 1
    df, x, y = (np.ldexp(rng.uniform(1, 2, n) * rng.choice([-1, 1], n), rng.integers(-largest, largest, n)).astype(dtype) for _ in range(3))
    r = (10 * rng.standard_normal(n)).astype(dtype)
    assert ulp_error(sc.gate(x, y, r), sc.reference.gate(*wide(x, y, r)), OPS["gate"].terms(*wide(x, y, r))).max() <= 4
    for d, e in zip(sc.gate_backward(df, x, y, r), sc.reference.gate_backward(*wide(df, x, y, r))):
        assert ulp_error(d, e).max() <= 6


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_broadcasting(shapes, dtype, rng):
    x, y, r = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    full = np.broadcast_shapes(*shapes)
    df = rng.standard_normal(full).astype(dtype)
    f = sc.gate(x, y, r)
    assert f.shape == full and f.dtype == dtype
    assert same_bits(f, sc.gate(*(np.broadcast_to(a, full).copy() for a in (x, y, r))))
    gradients, expected = sc.gate_backward(df, x, y, r), sc.reference.gate_backward(*wide(df, x, y, r))
    root = np.sqrt(df.size)  # of sums that may cancel, the size of a random walk
    for d, e, a in zip(gradients, expected, (x, y, r)):
        assert d.shape == a.shape and d.dtype == dtype
        assert ulp_error(d, e, np.maximum(np.abs(e), root if a.shape != full else 0)).max() <= 5
    assert all(same_bits(d, e) for d, e in zip(sc.gate_backward(df, x, y, r), gradients))
    for n in (1, 2, 3):
        with sc.num_threads(n):
            assert all(same_bits(d, e) for d, e in zip(sc.gate_backward(df, x, y, r), gradients))


def test_sums_do_not_depend_on_the_way(rng):
    df, x, y = (rng.standard_normal((20_000, 37)).astype(np.float32) for _ in range(3))
    r = rng.standard_normal(37).astype(np.float32)
    by_column = sc.gate_backward(df, x, y, r)[2]
    for given in ((df[:, ::-1], x, y), (np.asfortranarray(df), x, y), (df.astype(">f4"), x, np.asfortranarray(y))):
        order = slice(None, None, -1) if given[0].strides[1] < 0 else slice(None)
        a = [g[:, ::-1] if order.step else g for g in (given[1], given[2])]
        assert same_bits(sc.gate_backward(given[0], *a, r[order])[2][order], by_column)
    turned = (np.ascontiguousarray(a.T) for a in (df, x, y))
    assert same_bits(sc.gate_backward(*turned, r[:, None])[2][:, 0], by_column)
    alone = [sc.gate_backward(df[:, i], x[:, i], y[:, i], r[i])[2] for i in range(5)]
    assert same_bits(np.array(alone), by_column[:5])


def test_infinite_sums(rng):
    for dtype in (np.float32, np.float64):
        df = np.array([INF, 1, 2], dtype)
        dx, _, dr = sc.gate_backward(df, dtype(3), np.ones(3, dtype), dtype(0))
        assert dx == INF and dr == INF
        df[2] = -INF
        assert np.isnan(sc.gate_backward(df, dtype(3), np.ones(3, dtype), dtype(0))[0])


def test_gate_of_nothing():
    assert sc.gate(np.ones((0, 3)), np.ones(3), 1.0).shape == (0, 3)
    dx, dy, dr = sc.gate_backward(np.ones((0, 3)), np.ones((0, 3)), np.ones(3), 1.0)
    assert dx.shape == (0, 3) and dr == 0
    np.testing.assert_array_equal(dy, np.zeros(3))


def test_gate_in_place_and_overlapping(rng):
    x, y, r, df = rng.standard_normal((4, 50, 60))
    f, gradients = sc.gate(x, y, r), sc.gate_backward(df, x, y, r)
    for i in range(3):
        fresh = [a.copy() for a in (x, y, r)]
        assert sc.gate(*fresh, out=fresh[i]) is fresh[i] and same_bits(fresh[i], f)
    fresh = [a.copy() for a in (df, x, y, r)]
    assert all(same_bits(d, e) for d, e in zip(sc.gate_backward(*fresh, out=(fresh[2], fresh[0], fresh[3])), gradients))
    room = np.concatenate([x.ravel(), np.zeros(60)])
    out = room[60:].reshape(x.shape)
    assert same_bits(sc.gate(room[:3000].reshape(x.shape), y, r, out=out), f)
    row = r[0].copy()
    expected = sc.gate_backward(df, x, y, row)
    first = x.copy()
    dx, dy, dr = sc.gate_backward(df, first, y, row, out=(first, None, row))
    assert dx is first and dr is row and all(same_bits(d, e) for d, e in zip((dx, dy, dr), expected))


def test_gate_mixes_dtypes():
    x, y, r = np.ones(3, np.float16), np.ones(3, np.float64), np.ones(3, np.int32)
    assert sc.gate(x, y, r).dtype == np.float64
    assert [d.dtype for d in sc.gate_backward(np.ones(3, np.float32), x, y, r)] == [np.float16, np.float64, np.float64]
    assert sc.gate(x, np.ones(3, BFLOAT16), x).dtype == np.float32
    assert sc.gate(np.ones(3, np.float32), 0, 1.5).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda out: sc.gate(np.ones(3), np.ones(4), 1.0, out=out[0]), ValueError, r"gate: the shapes must broadcast together"),
        (lambda out: sc.gate(np.ones(3), 1.0, 1j), TypeError, "gate: r has dtype complex128"),
        (lambda out: sc.gate(np.ones(4), 1.0, 1.0, out=out[0]), ValueError, r"gate: out has shape \(3,\), it must be \(4,\)"),
        (lambda out: sc.gate_backward(np.ones(4), np.ones(3), 1.0, 1.0, out=out), ValueError, "gate_backward: df has shape"),
        (lambda out: sc.gate_backward(np.ones(3), np.ones(3), 1.0, 1.0, out=out[0]), TypeError, "gate_backward: out is a ndarray"),
        (lambda out: sc.gate_backward(np.ones(3), np.ones(3), 1.0, 1.0, out=out), ValueError, r"gate_backward: out\[1\] has shape"),
        (lambda out: sc.gate_backward(*[np.ones(3)] * 4, out=(*out[:2], out[0])), ValueError, "share memory"),
        (lambda out: sc.gate_backward(*[np.ones(3)] * 4, out=(*out[:2], read_only(out[2]))), ValueError, "read-only"),
    ],
)
def test_bad_gates_leave_out_alone(call, error, text):
    out = tuple(np.full(3, 7.0) for _ in range(3))
    with pytest.raises(error, match=text):
        call(out)
    assert all((o == 7).all() for o in out)


# --------------------------------------------------------------------------------------------------------------------- glu


def sweep(dtype, step):
    """Floats of every size, of both signs; all exponents, every step-th number of them."""
    if dtype == np.float32:
        bits = np.arange(0, np.array(200, np.float32).view(np.uint32), step, dtype=np.uint32).view(np.float32)
        return np.concatenate([-bits, bits, [1e30, -1e30, np.finfo(dtype).max, -np.finfo(dtype).max]]).astype(dtype)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-40, 10, 30_000), rng.uniform(-3, 3, 30_000), np.exp(rng.uniform(-300, 7, 20_000))])
    return np.concatenate([x, -x, [1e300, -1e300]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_all_floats(activation, dtype, isa):
    b = sweep(dtype, 20_011)
    one = np.ones_like(b)
    fused = isa != "base"
    bound = 0.5 if activation in ("relu", "none") else 2 if activation == "gelu" and fused else 3
    expected = sc.reference.glu(wide(one, b), activation=activation)
    assert ulp_error(sc.glu((one, b), activation=activation), expected).max() <= bound
    x = np.concatenate([one, b])
    with np.errstate(all="ignore"):
        terms = OPS["glu_backward"].terms(*wide(one, x), activation=activation)
        expected = sc.reference.glu_backward(*wide(one, x), activation=activation)
    assert ulp_error(sc.glu_backward(one, x, activation=activation), expected, terms).max() <= (0.5 if bound == 0.5 else 4.5)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_the_relu_of_negative_zero_is_zero(dtype, isa):
    for n in (1, 40):
        a, b = np.ones(n, dtype), np.full(n, -0.0).astype(dtype)
        assert not np.signbit(sc.glu((a, b), activation="relu").astype(float)).any()
        assert not np.signbit(sc.reference.glu((a, b), activation="relu").astype(float)).any()
        assert np.signbit(sc.glu((a, b), activation="none").astype(float)).all()


def test_gelu_against_the_complementary_error_function():
    special = pytest.importorskip("scipy.special", reason="has erfc")
    x = sweep(np.float32, 50_021)
    exact = np.where(x < 0, x.astype(float) * 0.5 * special.erfc(-x.astype(float) / np.sqrt(2)), x * special.ndtr(x.astype(float)))
    assert ulp_error(sc.glu((np.ones_like(x), x), activation="gelu"), exact).max() <= 4


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
def test_half_types_are_rounded_once(activation, dtype):
    b = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    b = b[np.isfinite(b.astype(np.float32))]
    a = np.ones_like(b)
    error = ulp_error(sc.glu((a, b), activation=activation), sc.reference.glu((a, b), activation=activation))
    assert error.max() <= 0.501


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_at_the_edges(activation, dtype):
    b = np.array([-INF, INF, NAN, 0.0, -0.0], dtype)
    a = np.ones_like(b)
    y = sc.glu((a, b), activation=activation)
    np.testing.assert_array_equal(y, sc.reference.glu((a, b), activation=activation))
    assert activation == "none" or y[0] == 0
    for d, e in zip(sc.glu_backward(a, (a, b), activation=activation), sc.reference.glu_backward(a, (a, b), activation=activation)):
        np.testing.assert_array_equal(d, e)
    for a in (INF, -INF, NAN):
        a = np.full_like(b, a)
        b = np.array([-2, -1, 0.5, 1, 2], dtype)
        np.testing.assert_array_equal(sc.glu((a, b), activation=activation), sc.reference.glu((a, b), activation=activation))


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_axes_and_tuples(activation, axis, rng):
    x = rng.standard_normal((4, 6, 8)).astype(np.float32)
    a, b = np.split(x, 2, axis)
    y = sc.glu(x, axis, activation=activation)
    assert same_bits(y, sc.glu((a, b), activation=activation))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    da, db = sc.glu_backward(dy, (a, b), activation=activation)
    assert same_bits(sc.glu_backward(dy, x, axis, activation=activation), np.concatenate([da, db], axis))
    fresh = x.copy()
    assert sc.glu_backward(dy, fresh, axis, activation=activation, out=fresh) is fresh
    assert same_bits(fresh, np.concatenate([da, db], axis))
    for i in (0, 1):
        fresh = x.copy()
        half = np.split(fresh, 2, axis)[i]
        assert same_bits(sc.glu(fresh, axis, activation=activation, out=half), y)


def test_tuples_mix_dtypes_and_take_out():
    a, b = np.ones(3, np.float16), np.ones(3, np.float32)
    assert sc.glu((a, b)).dtype == np.float32
    assert [d.dtype for d in sc.glu_backward(1.0, (a, b))] == [np.float16, np.float32]
    out = (np.zeros(3, np.float16), None)
    assert sc.glu_backward(1.0, (a, b), out=out)[0] is out[0]
    assert sc.glu(np.array([1, 0])) == 0.5 and sc.glu(np.array([1, 0])).dtype == np.float64
    assert sc.glu((1.0, 0.0)) == 0.5
    assert sc.glu(np.ones((3, 0))).shape == (3, 0) and sc.glu_backward(1.0, np.ones((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda o: sc.glu(np.ones((2, 3)), out=o), ValueError, "glu: x has length 3 along axis 1, it must be even"),
        (lambda o: sc.glu(1.0), ValueError, "glu: x is a scalar"),
        (lambda o: sc.glu(np.ones(4), None, out=o), TypeError, "glu: axis is None, it must be an int"),
        (lambda o: sc.glu(np.ones(4), (0,), out=o), TypeError, "glu: axis is a tuple, it must be an int"),
        (lambda o: sc.glu(np.ones(4), 1, out=o), np.exceptions.AxisError, "glu: axis 1 is out of bounds"),
        (lambda o: sc.glu(np.ones(4), activation="tanh", out=o), ValueError, "glu: activation is 'tanh', it must be one of 'sigmoid'"),
        (lambda o: sc.glu(np.ones(4), activation=None, out=o), TypeError, "glu: activation is a NoneType"),
        (lambda o: sc.glu((np.ones(2),), out=o), ValueError, "glu: x is a tuple of 1"),
        (lambda o: sc.glu((np.ones(2), np.ones(3)), out=o), ValueError, r"glu: x\[1\] has shape \(3,\), it must be \(2,\)"),
        (lambda o: sc.glu((np.ones(2), 1j), out=o), TypeError, r"glu: x\[1\] has dtype complex128"),
        (lambda o: sc.glu(np.ones(6), out=o), ValueError, "glu: out has shape"),
        (lambda o: sc.glu_backward(np.ones(3), np.ones(4), out=o), ValueError, r"glu_backward: dy has shape \(3,\)"),
        (lambda o: sc.glu_backward(1.0, np.ones(4), out=o), ValueError, "glu_backward: out has shape"),
        (lambda o: sc.glu_backward(1.0, (np.ones(2), np.ones(2)), out=o), TypeError, "glu_backward: out is a ndarray"),
    ],
)
def test_bad_glus_leave_out_alone(call, error, text):
    out = np.full(2, 7.0)
    with pytest.raises(error, match=text):
        call(out)
    assert (out == 7).all()


# --------------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("shapes", SHAPES[:9], ids=str)
def test_gate_backward_is_the_gradient(shapes, rng):
    assert check_grad(sc.gate, sc.gate_backward, *(rng.standard_normal(shape) for shape in shapes)) < 1e-7


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_glu_backward_is_the_gradient(activation, rng):
    x = rng.standard_normal((5, 8))
    for axis, x in ((-1, x), (0, x.T.copy())):
        f = lambda x: sc.glu(x, axis, activation=activation)  # noqa: B023, E731
        assert check_grad(f, lambda dy, x: sc.glu_backward(dy, x, axis, activation=activation), x) < 1e-7  # noqa: B023


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_element_has_its_bits_wherever_a_tile_begins(activation, dtype, rng):
    # Exponentials are found for 128 elements of float32 or 64 of float64 before the gates are.
    a, b, dy = (3 * rng.standard_normal((3, 1100))).astype(dtype)
    y, da, db = sc.glu((a, b), activation=activation), *np.split(sc.glu_backward(dy, np.concatenate([a, b]), activation=activation), 2)
    for part in (slice(1, None), slice(7, 1031), slice(0, 63), slice(65, 193), slice(100, 229), slice(127, 1024)):
        assert same_bits(sc.glu((a[part], b[part]), activation=activation), y[part]), part
        gradients = sc.glu_backward(dy[part], np.concatenate([a[part], b[part]]), activation=activation)
        assert same_bits(gradients, np.concatenate([da[part], db[part]])), part


def test_against_torch(rng):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    functional = torch.nn.functional
    activations = {
        "sigmoid": torch.sigmoid,
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda b: functional.gelu(b, approximate="tanh"),
        "relu": torch.relu,
        "none": lambda b: b,
    }
    x, dy = 3 * rng.standard_normal((5, 8)), rng.standard_normal((5, 4))
    for name, function in activations.items():
        t = torch.tensor(x, requires_grad=True)
        y = t[:, :4] * function(t[:, 4:])
        y.backward(torch.tensor(dy))
        np.testing.assert_allclose(sc.glu(x, activation=name), y.detach().numpy(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(sc.glu_backward(dy, x, activation=name), t.grad.numpy(), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(sc.glu(x), functional.glu(torch.tensor(x)).numpy(), rtol=1e-13)
    for shapes in SHAPES[:8]:
        arrays = [rng.standard_normal(shape) for shape in shapes]
        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        f = tensors[0] * torch.sigmoid(tensors[2]) + tensors[1] * (1 - torch.sigmoid(tensors[2]))
        df = rng.standard_normal(tuple(f.shape))
        f.backward(torch.tensor(df))
        np.testing.assert_allclose(sc.gate(*arrays), f.detach().numpy(), rtol=1e-12, atol=1e-15)
        for d, t in zip(sc.gate_backward(df, *arrays), tensors):
            np.testing.assert_allclose(d, t.grad.numpy(), rtol=1e-9, atol=1e-12)
