"""Each way of running a call is reached by a named shape, which ``softcore.plan`` confirms, and gives what the reference gives."""

import numpy as np
import pytest

import softcore as sc
from softcore import kernels, planner
from softcore.reference import OPS
from softcore.testing import ulp_error

SERIAL = kernels.core.openmp_runtime().startswith("none")
THREADS = 2
threaded = pytest.mark.skipif(SERIAL, reason="a build without OpenMP has one thread")
STREAMED = max(planner.LAST_LEVEL // 2048 // 4, 2)  # rows of 2048 float32, in and out: twice what the last cache holds

# name: (op, shape, axis, threads allowed) -> (executor, threads)
BRANCHES = {
    "plain: too small to think about": ("softmax", (4, 1000), -1, THREADS, "plain", 1),
    "plain: one short row": ("logsumexp", (10,), -1, THREADS, "plain", 1),
    "short: rows of a few classes": ("softmax", (2000, 10), -1, 1, "short", 1),
    "short: few of them": ("log_softmax", (20, 10), -1, 1, "short", 1),
    "short: the longest": ("argmax", (1000, 64), -1, 1, "short", 1),
    "short, threaded": ("softmax", (20_000, 10), -1, THREADS, "short", THREADS),
    "rows: just too long to be short": ("softmax", (1000, 48), -1, 1, "rows", 1),
    "short: a gradient": ("softmax_backward", (1000, 12), -1, 1, "short", 1),
    "rows: a gradient just too long": ("softmax_backward", (1000, 13), -1, 1, "rows", 1),
    "rows": ("softmax", (64, 1024), -1, 1, "rows", 1),
    "rows of several tiles": ("max", (40, 3000), -1, 1, "rows", 1),
    "rows of several chunks": ("logsumexp", (3, 40_000), -1, 1, "rows", 1),
    "rows, threaded": ("softmax", (512, 512), -1, THREADS, "rows", THREADS),
    "rows: two long ones for two threads": ("softmax", (2, 100_000), -1, THREADS, "rows", THREADS),
    "rows: one that cannot be cut": ("max_backward", (1, 200_000), -1, THREADS, "rows", 1),
    "split: one long row": ("softmax", (200_000,), -1, THREADS, "split", THREADS),
    "split: all axes": ("logsumexp", (400, 500), None, THREADS, "split", THREADS),
    "split: a gradient": ("log_softmax_backward", (1, 200_000), -1, THREADS, "split", THREADS),
    "columns: the first axis": ("softmax", (300, 200), 0, 1, "columns", 1),
    "columns: a middle axis": ("max", (4, 50, 60), 1, 1, "columns", 1),
    "columns: fewer than a vector": ("logsumexp", (3000, 5), 0, 1, "columns", 1),
    "columns, threaded": ("log_softmax", (300, 500), 0, THREADS, "columns", THREADS),
    "columns: a gradient by column": ("max_backward", (300, 200), 0, 1, "columns", 1),
    "short: a gradient by row": ("max_backward", (1000, 10), -1, 1, "short", 1),
    "rows: a first axis": ("cross_entropy", (300, 200), 0, 1, "rows", 1),
    "map": ("sigmoid", (100, 100), -1, 1, "map", 1),
    "plain: a small map": ("relu", (3,), -1, THREADS, "plain", 1),
    "map, threaded": ("softplus", (300, 400), -1, THREADS, "map", THREADS),
    "windows": ("max_pool", (3, 4, 10, 12), None, 1, "windows", 1),
    "windows, threaded": ("avg_pool_backward", (300, 400), None, THREADS, "windows", THREADS),
    "channels: neighbours in memory": ("max_pool", (40, 50, 1, 1), None, 1, "channels", 1),
    "channels, threaded": ("avg_pool", (1000, 80, 1, 1), None, THREADS, "channels", THREADS),
    "strips: of queries": ("attention", (3, 40, 16), None, 1, "strips", 1),
    "strips, threaded": ("attention", (4, 300, 64), None, THREADS, "strips", THREADS),
    "chunks: gradients": ("attention_backward", (3, 40, 16), None, 1, "chunks", 1),
    "chunks: gradients, threaded": ("attention_backward", (2, 300, 64), None, THREADS, "chunks", THREADS),
    "map: rows of one element": ("log_softmax", (20_000, 1), -1, THREADS, "map", 1),
    "map: columns of one element": ("softmax", (1, 20_000), 0, THREADS, "map", 1),
    "map: little to do with each element": ("relu", (400, 400), -1, THREADS, "map", 1),
    "map: a gradient by row": ("logsumexp_backward", (30, 4000), -1, THREADS, "map", THREADS),
}


def assert_right(op, arguments, options):
    """The call gives what the reference gives."""
    result, expected = getattr(sc, op.name)(*arguments, **options), op.reference(*arguments, **options)
    result, expected = (r if isinstance(r, tuple) else (r,) for r in (result, expected))
    if op.family == "attention":
        terms = op.terms(*arguments)
        assert all(ulp_error(r, e, t).max() <= 4 for r, e, t in zip(result, expected, terms if isinstance(terms, tuple) else (terms,)))
        return
    for r, e in zip(result, expected):
        assert r.shape == np.shape(e)
        if op.exact:
            assert np.array_equal(r, e)
        else:  # test_kernels.py has the bounds; here a gradient's sums may cancel a little
            assert ulp_error(r, e, np.max(np.abs(e)) if op.direction == "backward" else None).max() <= 4


def test_assert_right_fails_on_errors(monkeypatch):
    x = np.linspace(0, 1, 100, dtype=np.float32)
    monkeypatch.setattr(sc, "softmax", lambda x: OPS["softmax"].reference(x).astype(np.float32) * np.float32(1 + 1e-6))
    monkeypatch.setattr(sc, "argmax", lambda x: np.intp(98))
    for name in ("softmax", "argmax"):
        with pytest.raises(AssertionError):
            assert_right(OPS[name], (x,), {})


@pytest.mark.parametrize("branch", BRANCHES)
def test_branch(branch, rng):
    name, shape, axis, allowed, executor, threads = BRANCHES[branch]
    if SERIAL and allowed > 1 and executor != "plain" and (threads > 1 or executor == "split"):
        pytest.skip("a build without OpenMP has one thread")
    op = OPS[name]
    x = rng.standard_normal(shape).astype(np.float32)
    options = {"axis": axis} if "axis" in op.options else {}
    with sc.num_threads(allowed):
        plan = sc.plan(name, x, axis)
        assert (plan.executor, plan.threads, plan.streaming) == (executor, threads, False)
        assert plan.isa == kernels.core.isa
        assert_right(op, op.inputs(x, rng, **options), options)


def test_every_executor_has_a_shape():
    assert {branch[4] for branch in BRANCHES.values()} == set(planner.EXECUTORS)
    for executor in set(planner.EXECUTORS) - {"plain", "split"}:
        assert {branch[5] for branch in BRANCHES.values() if branch[4] == executor} == {1, THREADS}, executor


@pytest.mark.skipif(planner.LAST_LEVEL > 1 << 28, reason="the last cache is too large to be left in a test")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_backward"])
def test_streaming(name, dtype, rng):
    rows = STREAMED if dtype != np.float16 else 2 * STREAMED
    one = rng.standard_normal((4, 2051)).astype(dtype)  # the rows end within a vector
    arguments = OPS[name].inputs(one, rng)
    repeated = tuple(np.tile(a, (rows // 4 + 1, 1)) for a in arguments)
    assert sc.plan(name, repeated[0]).streaming and not sc.plan(name, one).streaming
    assert not sc.plan("logsumexp", repeated[0]).streaming  # writes next to nothing
    expected = getattr(sc, name)(*arguments)
    result = getattr(sc, name)(*repeated)
    assert (result.reshape(-1, 4, 2051).view(f"u{expected.itemsize}") == expected.view(f"u{expected.itemsize}")).all()
    assert result.dtype == dtype


def test_streaming_of_a_map(rng):
    one = rng.standard_normal(4001).astype(np.float32)
    many = np.tile(one, planner.LAST_LEVEL // one.nbytes + 1)
    if many.nbytes > 1 << 29:
        pytest.skip("the last cache is too large to be left in a test")
    assert sc.plan("sigmoid", many).streaming and not sc.plan("sigmoid", one).streaming
    assert (sc.sigmoid(many).reshape(-1, 4001) == sc.sigmoid(one)).all()
    assert_right(OPS["sigmoid"], (one,), {})


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streamed_rows_share_cache_lines(op, dtype, rng):
    # Streaming is for arrays past the cache; here it is forced on small ones, of every alignment, with guards around them.
    def past_the_cache(*arguments, **options):
        executor, threads, _, ahead = planner.choose(*arguments, **options)
        return executor, threads, True, ahead

    function = getattr(sc, op)
    for length in (65, 112, 128, 200, 1000, 1024, 4096):
        for rows in (1, 2, 7, 17, 50):
            for start in range(64 // np.dtype(dtype).itemsize):
                x = 3 * rng.standard_normal((rows, length)).astype(dtype)
                expected = function(x)
                room = np.full(64 + rows * length + 64, 7, dtype)
                line = -(room.ctypes.data // room.itemsize) % (64 // room.itemsize)
                y = room[line + start :][: rows * length].reshape(rows, length)
                try:
                    kernels.core.configure(past_the_cache, 0)
                    function(x, out=y)
                finally:
                    kernels.core.configure(planner.choose, planner.SMALL)
                assert y.tobytes() == expected.tobytes(), (length, rows, start)
                assert (room[: line + start] == 7).all() and (room[line + start + y.size :] == 7).all()


def test_the_next_row_is_asked_for_beyond_the_second_cache():
    def ahead(rows):
        return sc.plan("softmax", np.zeros((rows, 1024), np.float32)).ahead

    assert not ahead(16)
    assert ahead(2 * planner.L2 // 4096 + 16)


def test_masks_and_strides_are_walked_by_rows(rng):
    x = rng.standard_normal((200, 300), np.float32)
    where = rng.random(x.shape) < 0.7
    with sc.num_threads(1):
        assert sc.plan("softmax", x, 0).executor == "columns"
        assert sc.plan("softmax", x, 0, where=where).executor == "rows"
        assert sc.plan("softmax", x[:, ::2], 0).executor == "rows"
        assert sc.plan("softmax", x.astype(">f4"), 0).executor == "rows"
    for options in ({"axis": 0}, {"axis": 0, "where": where}):
        assert_right(OPS["softmax"], (x,), options)
    assert_right(OPS["softmax"], (x[:, ::2],), {"axis": 0})


@threaded
def test_threads_are_no_more_than_allowed():
    x = np.zeros((4096, 1024), np.float32)
    for n in (1, 2, 3, 5):
        with sc.num_threads(n):
            assert sc.plan("softmax", x).threads == min(n, sc.get_num_threads())


def test_a_plan_computes_nothing(rng):
    x = np.full((100, 100), np.nan)
    for name, op in OPS.items():
        plan = sc.plan(name, x)
        assert plan.executor in planner.EXECUTORS
        assert plan.threads >= 1


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (("sofmax", np.zeros(3)), {}, ValueError, "op is 'sofmax', it must be one of 'max', 'argmax', "),
        ((sc.softmax, np.zeros(3)), {}, TypeError, "op is a function, it must be a str"),
        (("softmax", np.zeros(3, complex)), {}, TypeError, "x has dtype complex128, it must be bool, an integer, "),
        (("softmax", [None]), {}, TypeError, "x has dtype object"),
        (("sigmoid", "text"), {}, TypeError, "x has dtype <U4"),
        (("softmax", np.zeros((2, 0))), {}, ValueError, r"x is empty \(its shape is \(2, 0\)\)"),
        (("softmax", np.zeros((2, 3)), 2), {}, np.exceptions.AxisError, "axis 2 is out of bounds for an array of 2 dimensions"),
        (("softmax", np.zeros((2, 3)), "0"), {}, TypeError, "axis is a str"),
        (("topk_gate", np.zeros((2, 3)), 5), {}, np.exceptions.AxisError, "axis 5 is out of bounds for an array of 2 dimensions"),
        (("topk_gate", np.zeros((2, 3)), None), {}, TypeError, "axis is "),
        (("softmax_gate", np.zeros(3)), {}, ValueError, r"x has shape \(3,\), it must have at least two axes"),
        (("softmax", np.zeros((2, 3))), {"where": np.ones(3)}, TypeError, "where has dtype float64, it must be bool"),
        (("softmax", np.zeros((2, 3))), {"where": np.ones(2, bool)}, ValueError, r"where has shape \(2,\), it must broadcast to \(2, 3\)"),
        (("softmax", np.zeros(3)), {"scale": "2"}, TypeError, "scale is a str, it must be a real number"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, options, error, text):
    with pytest.raises(error, match=f"^plan: {text}"):
        sc.plan(*arguments, **options)


def test_a_scale_that_needs_float64_is_planned_in_float64(monkeypatch):
    x = np.zeros((64, 1024), np.float32)
    given = []

    def choose(*arguments, **options):
        given.append(arguments)
        return planner.choose(*arguments, **options)

    try:
        kernels.core.configure(choose, planner.SMALL)
        for scale in (1.0, 1e31, -1e-31):
            sc.plan("softmax", x, scale=scale)
            sc.softmax(x, scale=scale)
            planned, ran = given[-2:]
            assert planned[5:] == ran[5:]  # itemsize, operands and what the layout allows
    finally:
        kernels.core.configure(planner.choose, planner.SMALL)


@pytest.mark.parametrize("dtype", ["?", "i2", "u8", ">f4", ">i8", "f2"])
def test_any_dtype_that_an_op_takes_has_a_plan(dtype):
    x = np.ones((30, 40), dtype)
    for name, op in OPS.items():
        assert sc.plan(name, x, -1 if "axis" in op.options else None).executor in planner.EXECUTORS
        assert sc.plan(name, np.ones((1, 1) if op.family == "mixtures" else {"windows": (1,), "halves": (2,)}.get(op.kind, ()), dtype)).threads == 1
