"""Memory beyond the outputs is O(tile): no temporary the size of an input, in any layout.

``tracemalloc`` sees what NumPy allocates; the peak of the resident set, taken in a process of its own, sees what kernels allocate
as well. The input is 64 MB, so that a forgotten copy of it stands far above the limit.
"""

import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import softcore as sc
from softcore.reference import OPS

OPS = {name: op for name, op in OPS.items() if op.kind not in ("windows", "mixture", "attention")}  # which have tests of their own
resource = pytest.importorskip("resource", reason="this system does not tell a process its peak memory")

SIZE = 1 << 24  # float32 elements: 64 MB
SHAPE = (1 << 12, 1 << 12)
LIMIT = 1 << 20  # bytes; a state of every chunk of a long row fits well
RESIDENT_LIMIT = 12 << 20  # stacks, buffers and what else a first call brings

LAYOUTS = {
    "rows": (lambda x: x, -1),
    "axis 0": (lambda x: x, 0),
    "one row": (lambda x: x.reshape(-1), -1),
    "one column": (lambda x: x.reshape(-1, 1), 0),
    "short rows": (lambda x: x.reshape(-1, 8), -1),
    "all axes": (lambda x: x, None),
    "middle axis": (lambda x: x.reshape(16, 1024, 1024), 1),
    "transposed": (lambda x: x.T, -1),
    "reversed": (lambda x: x[::-1, ::-1], -1),
    "strided": (lambda x: x[:, ::2], -1),
    "strided, axis 0": (lambda x: x[:, ::2], 0),
    "misaligned": (lambda x: x.reshape(-1).view(np.uint8)[1:-3].view(np.float32), -1),
    "byte-swapped": (lambda x: x.view(x.dtype.newbyteorder()), -1),
    "two axes apart": (lambda x: x.reshape(64, 256, 1024), (0, 2)),
}


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32)


def beyond_outputs(function):
    """Bytes at the peak of a call, less those of its results, as tracemalloc counts them."""
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1] - sum(r.nbytes for r in (result if isinstance(result, tuple) else (result,)))
    finally:
        tracemalloc.stop()


def arguments(op, x, axis):
    """Operands of x's shape and layout, made before the measurement; a dy of one value per row is a scalar broadcast."""
    one, value = np.broadcast_to(np.float32(1), x.shape), np.float32(3)
    if op.name == "max_backward":
        return value, x
    if op.family == "losses":
        labels = np.zeros([n for i, n in enumerate(x.shape) if axis is not None and i != axis % x.ndim], np.int32)
        target = x if op.name.startswith("binary") else labels
        return (value, x, target) if op.direction == "backward" else (x, target)
    if op.name == "logsumexp_backward":
        return value, x, sc.logsumexp(x, axis)
    if op.kind == "halves":
        return (value, x)[op.direction == "forward" :]
    if op.direction == "backward":
        return (one, x, x, x)[: {"maximum_backward": 3, "gate_backward": 4}.get(op.name, 2)]
    return (x, x, x)[: {"maximum": 2, "gate": 3}.get(op.name, 1)]


def test_a_temporary_is_seen():
    x = np.ones(SIZE // 16, np.float32)
    assert beyond_outputs(lambda: x + 1) < LIMIT
    assert beyond_outputs(lambda: (x + 1) * 2) > LIMIT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["softmax", "logsumexp", "max", "argmax", "softmax_backward", "sigmoid"])
def test_layouts(name, layout, data):
    arrange, axis = LAYOUTS[layout]
    op, x = OPS[name], arrange(data)
    options = {"axis": axis} if "axis" in op.options else {}
    given = arguments(op, x, axis)
    assert beyond_outputs(lambda: getattr(sc, name)(*given, **options)) < LIMIT


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_every_op(op, data):
    for axis in (-1, 0) if "axis" in op.options else (-1,):
        options = {"axis": axis} if "axis" in op.options else {}
        given = arguments(op, data, axis)
        assert beyond_outputs(lambda: getattr(sc, op.name)(*given, **options)) < LIMIT, f"axis {axis}"


@pytest.mark.parametrize("op", [op for op in OPS.values() if "where" in op.options], ids=lambda op: op.name)
def test_masks(op, data):
    where = np.arange(SHAPE[1]) % 3 > 0
    for mask in (where, where[:, None]):
        x = data[:1024]
        given = mask if mask.ndim == 1 else mask[:1024]
        given = given | np.zeros((1024, 1), bool) | (np.arange(SHAPE[1]) == 0)
        for axis in (-1, 0):
            some = given if axis else given | (np.arange(1024) == 0)[:, None]
            operands = arguments(op, x, axis)
            assert beyond_outputs(lambda: getattr(sc, op.name)(*operands, axis=axis, where=some)) < LIMIT, f"axis {axis}"


def test_out_and_in_place():
    x = np.ones((1 << 10, 1 << 10), np.float32)
    y = np.empty_like(x)
    for axis in (-1, 0):
        for out in (y, x):
            tracemalloc.start()
            sc.softmax(x, axis, out=out)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < LIMIT // 4


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "bfloat16"])
def test_no_copy_in_the_dtype_of_arithmetic(dtype):
    x = np.ones((1 << 9, 1 << 12), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for axis in (-1, 0):
        assert beyond_outputs(lambda: sc.softmax(x, axis)) < LIMIT
        assert beyond_outputs(lambda: sc.logsumexp(x, axis)) < LIMIT
        assert beyond_outputs(lambda: sc.max(x, axis)) < LIMIT


RESIDENT = """
import resource, sys
import numpy as np
import softcore as sc

def peak():
    try:  # ru_maxrss starts from the parent's peak on Linux
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

data = np.ones({shape}, np.float32)
out = np.empty_like(data)
out.fill(0)
where = np.ones({shape}, bool)
sc.set_num_threads(2)
sc.softmax(data[:64]), sc.softmax(data[:, :64], 0), sc.logsumexp(data.reshape(-1)[:1 << 19])  # threads, once
before = peak()
{call}
print(peak() - before)
"""

CALLS = {
    "softmax": "sc.softmax(data, out=out)",
    "softmax, axis 0": "sc.softmax(data, 0, out=out)",
    "softmax, one row": "sc.softmax(data.reshape(-1), out=out.reshape(-1))",
    "softmax, transposed": "sc.softmax(data.T, out=out)",
    "softmax, strided": "sc.softmax(data[:, ::2], out=out[:, ::2])",
    "softmax, strided, axis 0": "sc.softmax(data[::2, ::-2], 0, out=out[::2, ::2])",
    "softmax, masked": "sc.softmax(data, where=where, out=out)",
    "softmax, masked, axis 0": "sc.softmax(data, 0, where=where, out=out)",
    "softmax, scaled": "sc.softmax(data, scale=0.3, out=out)",
    "softmax, in place": "sc.softmax(data, out=data)",
    "softmax, all axes": "sc.softmax(data, None, out=out)",
    "logsumexp": "sc.logsumexp(data)",
    "logsumexp, axis 0": "sc.logsumexp(data, 0)",
    "logsumexp, all axes": "sc.logsumexp(data, None)",
    "logsumexp, weighted": "sc.logsumexp(data, b=data)",
    "log_softmax, axis 0": "sc.log_softmax(data, 0, out=out)",
    "softmax_backward": "sc.softmax_backward(data, data, out=out)",
    "softmax_backward, axis 0": "sc.softmax_backward(data, data, 0, out=out)",
    "max, axis 0": "sc.max(data, 0)",
    "argmax": "sc.argmax(data.T)",
    "max_backward": "sc.max_backward(np.float32(1), data, ties='split', out=out)",
    "maximum, broadcast": "sc.maximum(data, data[0], out=out)",
    "sigmoid, in place": "sc.sigmoid(data, out=data)",
}


def resident(call):
    """How far the peak of the resident set rises in a call, in a process of its own."""
    code = RESIDENT.format(shape=SHAPE, call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_resident_temporary_is_seen():
    assert resident("np.multiply(data + 1, 2, out=out)") > SIZE * 3


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_resident(call):
    assert resident(call) < RESIDENT_LIMIT


@pytest.mark.parametrize("axis", [-1, 0, 1, None])
def test_results_that_go_through_a_temporary_take_a_small_one(axis):
    # Gradients are computed in the wider of two dtypes and have that of the input; what is not aligned is copied to its place.
    x = np.random.default_rng(0).standard_normal((256, 64, 256), np.float32)
    wide = x.astype(np.float64)
    y = sc.softmax(x, axis)
    per_row = np.asarray(sc.max(wide, axis))
    room = np.empty(x.nbytes + 1, np.uint8)
    unaligned = room[1:].view(np.float32).reshape(x.shape)
    calls = {
        "softmax_backward": (lambda: sc.softmax_backward(wide, y, axis), lambda: sc.softmax_backward(wide, y.astype(float), axis)),
        "max_backward": (lambda: sc.max_backward(per_row, x, axis=axis), lambda: sc.max_backward(per_row, wide, axis=axis)),
        "sigmoid_backward": (lambda: sc.sigmoid_backward(wide, y), lambda: sc.sigmoid_backward(wide, y.astype(float))),
        "relu_backward, one axis": (lambda: sc.relu_backward(wide.ravel(), x.ravel()), lambda: sc.relu_backward(wide.ravel(), wide.ravel())),
        "softmax": (lambda: sc.softmax(x, axis, out=unaligned), lambda: y),
    }
    for name, (call, expected) in calls.items():
        given = room.nbytes if name == "softmax" else 0
        most = x.nbytes if axis is None and name in ("softmax_backward", "max_backward", "softmax") else 0  # one row is not cut
        assert beyond_outputs(call) + (x.nbytes if given else 0) < 3 * LIMIT + 2 * most, name
        assert (call() == expected().astype(np.float32)).all(), name
