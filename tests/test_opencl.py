"""The OpenCL core against the reference, and what is its own: devices, queues, views, launches.

A kernel that goes wrong on these runtimes may hang: every test here has a time limit, after which the whole run ends with a traceback.
"""

import dataclasses
import doctest
import faulthandler
import gc
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from calls import BFLOAT16, same_bits
from opencl_calls import CPU, GPU, every_result, use_tiles_of
from test_kernels import batch, check, turned, widened

import softcore as sc
from softcore import planner
from softcore.reference import OPS

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")
pytest.importorskip("pyopencl.array")

from softcore.opencl import views

FLOAT32 = np.dtype(np.float32)
OTHERS = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float64)]
HERE = [op for op in OPS.values() if op.name in sc.opencl.OPS and op.kind not in ("windows", "mixture", "attention")]


def _compiles(device):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)  # Intel's always has something to say
            cl.Program(cl.Context([device]), "__kernel void nothing() {}").build()
        return True
    except cl.Error:
        return False


# A runtime that does not know its processor may hang or crash, and take the whole run with it: only `make test-opencl` asks for one.
ASKED = "SOFTCORE_TEST_OPENCL" in os.environ
DEVICE = next((d for d in sc.opencl.devices() if _compiles(d)), None) if ASKED else None
WITHOUT_A_DEVICE = ("test_oclgrind", "test_without_pyopencl", "test_nothing_is_touched_at_import", "test_every_op_is_here")


@pytest.fixture(autouse=True)
def limited(request):
    if DEVICE is None and not request.node.name.startswith(WITHOUT_A_DEVICE):
        pytest.skip("no OpenCL runtime here compiles for this machine" if ASKED else "on a device they run by make test-opencl")
    faulthandler.dump_traceback_later(600 if ASKED else 120, exit=True)  # some compilers take minutes for a test of many kernels
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="module")
def device():
    return sc.opencl.use(DEVICE) if DEVICE else None


def to_device(a):
    """Arrays on the device, and whatever else as it is."""
    if isinstance(a, tuple):
        return tuple(map(to_device, a))
    return sc.opencl.to_device(a) if isinstance(a, (np.ndarray, np.generic)) else a


def get(a):
    if isinstance(a, tuple):
        return tuple(map(get, a))
    assert isinstance(a, cl.array.Array)
    return a.get()


def on_device(name, *arguments, **options):
    """A function of softcore on copies of its arguments on the device, and what comes back."""
    return get(getattr(sc, name)(*map(to_device, arguments), **{key: to_device(value) for key, value in options.items()}))


def _largest(x, axis=-1, **options):
    return np.max(np.abs(np.where(np.isfinite(x), x, 0).astype(float)), axis, initial=0)


def judged(op):
    """What a kernel without fused multiply-add, look-up and wider arithmetic is held to.

    A softmax of floats may be off by 3 units. logsumexp adds the maximum and a logarithm, and its error is that of the larger; on
    the CPU, where they cancel, it sums again in wider arithmetic.
    """
    ulp = {"float32": 3.0 if op.ulp["float32"] < 3 else op.ulp["float32"], "float64": op.ulp["float64"]}
    return dataclasses.replace(op, ulp=ulp, **({"terms": _largest} if op.name == "logsumexp" else {}))


def compare(op, x, options, rng, poison=None, axes=(-1, 0)):
    """Run an op on the device along the last axis and along the first, and compare with the reference."""
    options = {**op.apart, **options}
    has_axis = "axis" in op.options
    with np.errstate(all="ignore"):
        kept = {k: v for k, v in options.items() if k in ("where", "b", "reduction")} if has_axis else op.apart
        if op.name in ("softmax_backward", "log_softmax_backward"):
            kept = options
        arguments = op.inputs(x, rng, **({"axis": -1} if has_axis else {}), **kept)
        if poison is not None:
            arguments = tuple(poison(a) if np.shape(a) == x.shape and a.dtype.kind not in "iub" else a for a in arguments)
        expected = op.reference(*widened(arguments), **({"axis": -1} if has_axis else {}), **options)
    for axis in axes if has_axis else (-1,):
        if axis == 0:
            arguments, options, expected = turned(arguments), {k: turned(v) for k, v in options.items()}, turned(expected)
        given = {"axis": axis, **options} if has_axis else options
        actual = on_device(op.name, *arguments, **given)
        try:
            check(judged(op), actual, expected, arguments, {"axis": axis, **options})
        except AssertionError as error:
            raise AssertionError(f"{op.name} {x.dtype} {x.shape} axis {axis}, {sorted(options)}: {error}") from None


def alike(actual, expected, rtol=2e-6, atol=1e-6):
    for a, e in zip(*[r if isinstance(r, tuple) else (r,) for r in (actual, expected)]):
        assert a.shape == np.shape(e) and a.dtype == np.asarray(e).dtype
        if a.dtype.kind in "iu":
            np.testing.assert_array_equal(a, e)
        else:
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(e, float), rtol=rtol, atol=atol)


# ----------------------------------------------------------------------------------------------------- every op, every input


@pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)
def test_awkward_inputs(op, rng):
    for length in (1, 7, 8, 9, 32, 65, 130, 1025, 5000):
        compare(op, batch(FLOAT32, length), {}, rng)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
@pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)
def test_other_dtypes(op, dtype, rng):
    for length in (5, 65, 1025):
        compare(op, batch(dtype, length), {}, rng, axes=(-1,))


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in ("?", "i4", "u1", "i8")], ids=str)
@pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)
def test_integers(op, dtype, rng):
    compare(op, batch(dtype, 130), {}, rng, axes=(-1,))


@pytest.mark.parametrize("op", [op for op in HERE if "where" in op.options and op.kind in ("fold", "rows")], ids=lambda op: op.name)
def test_masks(op, rng):
    def poison(a):
        return np.where(where, a, bad).astype(a.dtype)

    selecting = op.name in ("max", "argmax", "max_with_argmax")
    for length in (1, 9, 65, 1025):
        x = batch(FLOAT32, length)
        bad = rng.choice([np.nan, np.inf, -np.inf], x.shape)
        where = rng.random(x.shape) < rng.choice([0.1, 0.5, 0.9], (len(x), 1))
        where[::5] = selecting  # rows in which nothing takes part
        if selecting:
            where[:, rng.integers(length)] = True
        compare(op, poison(x), {"where": where}, rng, poison)


@pytest.mark.parametrize("scale", [0.3, -2.0, 0.0, 1e-3, np.inf])
@pytest.mark.parametrize("op", [op for op in HERE if op.kind == "rows" and "scale" in op.options], ids=lambda op: op.name)
def test_scale(op, scale, rng):
    for length in (17, 1025):
        compare(op, (5 * rng.standard_normal((5, length))).astype(np.float32), {"scale": scale}, rng)
    compare(op, batch(FLOAT32, 130), {"scale": scale}, rng, axes=(-1,))


@pytest.mark.parametrize("offset", [1e4, -3e5])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_offsets(name, offset, rng):
    for length in (1, 17, 1025):
        compare(OPS[name], (5 * rng.standard_normal((5, length)) + offset).astype(np.float32), {}, rng)


@pytest.mark.parametrize("name", ["logsumexp", "logsumexp_backward"])
def test_weights(name, rng):
    for length in (3, 130):
        x = batch(FLOAT32, length)
        b = rng.choice([0, 1, -1, 2.5, 1e-3], x.shape).astype(np.float32)
        x[:, 0], b[:, 0] = 1, 1000  # no sum is near to 0
        compare(OPS[name], x, {"b": b}, rng)
    x, b = np.float32([[np.inf, 1], [-np.inf, 0], [2, 3], [np.nan, 1]]), np.float32([[0, 1], [np.inf, 1], [np.inf, 1], [0, 1]])
    for options in ({"b": b}, {"b": b, "return_sign": True}, {"b": -b, "return_sign": True}, {"b": -b}):
        for actual, expected in zip(on_device("logsumexp", x, **options), sc.logsumexp(x, **options)):
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
def test_infinite_gradients(name, value, rng):
    y = on_device(name.removesuffix("_backward"), np.where(np.arange(40) < 8, -np.inf, rng.standard_normal((4, 40))).astype(np.float32))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dy[np.arange(4), [0, 9, 20, 39]] = value
    np.testing.assert_allclose(on_device(name, dy, y), getattr(sc.reference, name)(dy, y), rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ queues, threads, processes


def test_every_op_is_here():
    assert {*OPS, "merge_attention", "KVCache.append"} == sc.opencl.OPS


def test_an_op_that_is_missing(monkeypatch):
    monkeypatch.setattr(sc.opencl, "OPS", sc.opencl.OPS - {"softmax"})
    with pytest.raises(TypeError, match="softmax: x is a pyopencl array, it must be a NumPy array: the OpenCL core has no softmax yet"):
        sc.softmax(to_device(np.zeros((4, 4), np.float32)))


def test_a_device_without_float64(rng, monkeypatch):
    use_tiles_of(monkeypatch, planner.Device(cpu=True, units=2, largest=64, double=False))
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    alike(on_device("avg_pool", x, (2, 2)), sc.avg_pool(x, (2, 2)))
    alike(on_device("softmax_pool", x, (2, 2)), sc.softmax_pool(x, (2, 2)))
    for a in (x.astype(float), np.arange(6)):
        with pytest.raises(TypeError, match="softmax: the device '.*' has no float64, in which this call computes"):
            on_device("softmax", a)
    np.testing.assert_array_equal(on_device("max", np.arange(6)), 5)
    sc.opencl.launches.cache.clear()


def test_a_result_is_on_its_operands_queue(rng):
    other = cl.CommandQueue(sc.opencl.queue().context)
    x = sc.opencl.to_device(rng.standard_normal((300, 1000)).astype(np.float32))
    y = sc.softmax(x.with_queue(other))
    assert y.queue == other
    z = sc.log_softmax(y.with_queue(sc.opencl.queue()))  # of what another queue may not have written yet
    np.testing.assert_allclose(z.get(), sc.log_softmax(sc.softmax(x.get())), atol=1e-5)


def test_a_queue_at_the_address_of_one_that_is_gone(rng):
    x = rng.standard_normal((3, 5)).astype(np.float32)
    for _ in range(30):
        context = cl.Context([sc.opencl.queue().device])  # which Intel's runtime lets go of with this name, whatever queue it has
        queue = cl.CommandQueue(context)
        assert same_bits(sc.softmax(cl.array.to_device(queue, x)).get(), on_device("softmax", x))
        assert sc.attention(*[cl.array.to_device(queue, x[None, None])] * 3).get().shape == (1, 1, 3, 5)
        del queue, context
        gc.collect()


@pytest.mark.filterwarnings("ignore:Non-empty compiler output")  # Intel's says something of each kernel, of pyopencl's too
def test_arrays_that_do_not_go_together(rng):
    x = sc.opencl.to_device(rng.standard_normal((3, 5)).astype(np.float32))
    context = cl.Context([x.queue.device])
    foreign = cl.array.to_device(cl.CommandQueue(context), x.get())
    for call in (lambda: sc.maximum(x, foreign), lambda: sc.softmax(x, out=foreign), lambda: sc.softmax(x, where=foreign > 0)):
        with pytest.raises(ValueError, match="is of another OpenCL context than the arrays before it"):
            call()
    with pytest.raises(TypeError, match="softmax: x has dtype .*, which no device reads"):
        sc.softmax(cl.array.to_device(x.queue, x.get().astype(x.dtype.newbyteorder())))
    with pytest.raises(TypeError, match="is a pyopencl array already"):
        sc.opencl.to_device(x)
    with pytest.raises(TypeError, match="opencl.use: device is a int"):
        sc.opencl.use(3)
    zero = sc.maximum(x, np.float32(0)).get()  # a number, of which NumPy makes what it makes
    assert zero.dtype == np.float32 and same_bits(zero, sc.maximum(x, 0.0).get())
    assert same_bits(sc.softmax(x, where=np.True_).get(), sc.softmax(x).get())


@pytest.mark.parametrize("name", ["maximum", "relu", "sigmoid", "softmax", "max", "glu", "softmax_gate", "topk_gate"])
def test_a_double_gradient_of_halves(name, rng):
    # Computed in double, and rounded to half where it is written.
    x = rng.standard_normal((5, 9 if name != "glu" else 8)).astype(np.float16)
    dy = rng.standard_normal(x.shape)
    _, i = sc.topk_gate(x, 2)
    arguments = {
        "maximum": (dy, x, x[::-1].copy()), "max": (dy[:, 0], x), "glu": (dy[:, :4], x), "softmax_gate": (dy[0], x, x[:, 0]),
        "topk_gate": (dy[:, :2], x, i),
    }.get(name, (dy, x))  # fmt: skip
    function = getattr(sc, f"{name}_backward")
    expected, actual = function(*arguments), function(*(sc.opencl.to_device(a) for a in arguments))
    for a, b in zip(actual, expected) if isinstance(expected, tuple) else [(actual, expected)]:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.get().astype(float), b.astype(float), rtol=2e-3, atol=1e-6)


def test_indices_with_gaps_of_rows_of_one(rng):
    r, dw, i = np.ones((3, 1), np.float32), np.ones((3, 2), np.float32), np.zeros((3, 6), np.int64)
    assert not sc.topk_gate_backward(*map(sc.opencl.to_device, (dw, r)), sc.opencl.to_device(i)[:, ::3]).get().any()


def test_out_of_order_queue(rng):
    queue = cl.CommandQueue(sc.opencl.queue().context, properties=cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE)
    x = sc.opencl.to_device(rng.standard_normal((300, 1000)).astype(np.float32)).with_queue(queue)
    y = x
    for _ in range(5):
        y = sc.softmax(sc.log_softmax(y))
    expected = x.get()
    for _ in range(5):
        expected = sc.softmax(sc.log_softmax(expected))
    np.testing.assert_allclose(y.get(), expected, rtol=1e-4)


def test_threads(rng):
    x = [(3 * rng.standard_normal((20, 50 + i))).astype(np.float32) for i in range(8)]
    expected = [on_device("softmax", a) for a in x]
    wrong = []

    def work(i):
        for _ in range(50):
            if not same_bits(on_device("softmax", x[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_new_size_builds_nothing(rng, monkeypatch):
    on_device("softmax", np.zeros((3, 40), np.float32))
    monkeypatch.setattr(sc.opencl.programs, "_program", None)
    for shape in ((3, 41), (70, 8), (1, 1000), (2, 3, 4)):
        on_device("softmax", np.zeros(shape, np.float32))


def test_results_come_from_the_allocator_of_the_input(rng):
    pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(sc.opencl.queue()))
    x = cl.array.to_device(sc.opencl.queue(), np.zeros((3, 40), np.float32), allocator=pool)
    assert isinstance(sc.softmax(x).base_data, cl.tools.PooledBuffer)


def test_a_pool_gives_out_what_came_back(rng):
    pool = sc.opencl.memory_pool()
    assert sc.opencl.memory_pool() is pool
    x = sc.opencl.to_device(rng.standard_normal((3, 40)).astype(np.float32), allocator=pool)
    where = sc.opencl.to_device(np.ones((3, 40), bool), allocator=pool)
    expected = sc.softmax_gate(np.tile(x.get()[..., None], 5), x.get(), where=where.get())

    def step():
        y = sc.softmax_gate(sc.opencl.to_device(np.tile(x.get()[..., None], 5), allocator=pool), x, where=where)
        return sc.log_softmax(y), y

    for y in step():
        assert isinstance(y.base_data, cl.tools.PooledBuffer)
    np.testing.assert_allclose(y.get(), expected, rtol=1e-5)
    del y
    managed = pool.managed_bytes  # of some steps: memory is given out again once its kernel's event is found done
    for _ in range(50):
        step()[0].queue.finish()
    assert pool.managed_bytes <= 4 * managed
    sc.opencl.use(DEVICE)
    assert sc.opencl.memory_pool() is not pool


def test_tiles_of_a_gpu(rng, monkeypatch):
    """The settings for GPUs, with work-groups that share a row: no GPU was at hand, so CPU runtimes say whether they are right.

    Building takes PoCL a second for each of them: one of each kind here, and every one under Oclgrind.
    """
    use_tiles_of(monkeypatch, GPU)
    assert planner.choose_opencl(1025, 4, GPU).wg == 64 and planner.choose_opencl(20, 4, GPU).rows == 32
    for name in ("softmax", "log_softmax", "softmax_backward", "logsumexp", "max_with_argmax", "max_backward", "sigmoid"):
        compare(OPS[name], batch(FLOAT32, 1025), {}, rng, axes=(-1,))
    sc.opencl.launches.cache.clear()


def test_examples_in_docstrings():
    tested = doctest.testmod(sc.opencl.runtime)
    assert tested.attempted and not tested.failed


def child(code, **environment):
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_touched_at_import():
    code = """
        import sys, softcore as sc
        assert "pyopencl" not in sys.modules
        sc.opencl
        import pyopencl as cl
        def touch(): raise SystemExit("touched")
        cl.get_platforms = touch
        import numpy as np
        sc.softmax(np.zeros((3, 4)))
        print("ok")
    """
    assert child(code) == "ok"


def test_without_pyopencl():
    code = """
        import sys
        sys.modules["pyopencl"] = None
        import softcore as sc
        print(sc.opencl.available(), sc.opencl.devices(), sc.info()["opencl"])
        for call in (sc.opencl.queue, lambda: sc.opencl.to_device([1.0]), lambda: sc.opencl.use("any")):
            try:
                call()
            except ImportError as error:
                print(error)
    """
    lines = child(code).splitlines()
    assert lines[0] == "False [] []" and len(lines) == 4
    assert all("pip install softcore[opencl]" in line for line in lines[1:])


def test_a_device_is_chosen_by_name():
    code = "import softcore as sc; print([d.name for d in sc.opencl.devices()])"
    assert child(code, SOFTCORE_OPENCL="no such device") == "[]"
    assert DEVICE.name in child(code, SOFTCORE_OPENCL=DEVICE.platform.name.upper())
    assert "Oclgrind" not in child(code, SOFTCORE_OPENCL="")
    with pytest.raises(ValueError, match="opencl.use: no device is named 'no such device'; there are "):
        sc.opencl.use("no such device")
    code = "import softcore as sc; sc.opencl.queue()"
    with pytest.raises(AssertionError, match=r"found no OpenCL device named 'no such' \(SOFTCORE_OPENCL\): install it with"):
        child(code, SOFTCORE_OPENCL="no such")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_fork():
    code = f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        import numpy as np, softcore as sc
        sc.opencl.use({DEVICE.name!r})
        x = sc.opencl.to_device(np.zeros((2, 4), np.float32))
        sc.softmax(x).get()
        if os.fork() == 0:
            for call in (lambda: sc.softmax(x), sc.opencl.queue, sc.opencl.devices):
                try:
                    call()
                except RuntimeError as error:
                    print("does not survive os.fork()" in str(error), flush=True)
            print(sc.softmax(np.zeros(2)), sc.opencl.available(), sc.info()["opencl"], flush=True)
            os._exit(0)
        print(os.wait()[1])
    """
    assert child(code).splitlines() == ["True"] * 3 + ["[0.5 0.5] False []", "0"]


def test_numbers_are_not_brought_to_the_device_again():
    x, expected = to_device(np.float32([-1, 2])), [[0.5, 2], [0, 2], [0.5, 2]]
    y = [sc.maximum(x, number) for number in (0.5, 0.0, 0.5)]
    assert [a.get().tolist() for a in y] == expected
    kept = len(views._numbers)
    assert sc.maximum(sc.maximum(x, 0.5), 0.0).get().tolist() == [0.5, 2]
    assert len(views._numbers) == kept


def test_a_buffer_is_no_array():
    with pytest.raises(TypeError, match="softmax: x is a pyopencl Buffer, it must be a pyopencl.array.Array"):
        sc.softmax(to_device(np.zeros(3)).base_data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_the_fork_of_a_process_with_arrays_of_its_own():
    code = f"""
        import os, numpy as np, softcore as sc, pyopencl as cl, pyopencl.array
        device = [d for p in cl.get_platforms() for d in p.get_devices() if d.name == {DEVICE.name!r}][0]
        context = cl.Context([device])
        x = cl.array.to_device(cl.CommandQueue(context), np.zeros((2, 4), np.float32))
        (x + 1).get()
        if os.fork() == 0:
            try:
                sc.softmax(x)
            except RuntimeError as error:
                print("does not survive os.fork()" in str(error), flush=True)
            os._exit(0)
        print(os.wait()[1])
    """
    assert child(code).splitlines() == ["True", "0"]


def test_exit_with_work_pending():
    code = f"""
        import numpy as np, softcore as sc
        sc.opencl.use({DEVICE.name!r})
        x = sc.opencl.to_device(np.zeros((2000, 1000), np.float32))
        for _ in range(20):
            x = sc.softmax(x)
        print("ok")
    """
    assert child(code) == "ok"


# ----------------------------------------------------------------------------------------------------------------- oclgrind

OCLGRIND = {
    "SOFTCORE_OPENCL": "oclgrind",
    "OCL_ICD_VENDORS": "",  # what pip installed
    "PYOPENCL_NO_CACHE": "1",
    "OCLGRIND_BUILD_OPTIONS": "-cl-opt-disable",
    "OCLGRIND_DATA_RACES": "1",
    "OCLGRIND_UNINITIALIZED": "1",
}


def simulated(tmp_path, *arguments):
    """Run a script under Oclgrind; what it logged."""
    log = tmp_path / "oclgrind.log"
    environment = {**os.environ, **OCLGRIND, "OCLGRIND_LOG": str(log)}
    environment.pop("OCL_ICD_VENDORS")
    code = "import softcore as sc; raise SystemExit(not sc.opencl.devices())"
    if subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("Oclgrind is not installed: pip install pyopencl[oclgrind]")
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return log.read_text()


@pytest.mark.parametrize("tiles", ["cpu", "gpu"])
def test_oclgrind_finds_nothing(tiles, tmp_path):
    faulthandler.cancel_dump_traceback_later()  # a thousand times slower than a device; the process has a time limit of its own
    facts = GPU if tiles == "gpu" else sc.opencl.runtime.facts(DEVICE) if DEVICE else CPU
    facts = facts._replace(local=1 << 15)  # as much as Oclgrind has
    script = os.path.join(os.path.dirname(__file__), "opencl_calls.py")
    assert simulated(tmp_path, script, str(tmp_path / "results.npz"), json.dumps(facts)) == ""
    with np.load(tmp_path / "results.npz") as results:
        for name, expected in every_result(opencl=DEVICE is not None).items():
            if DEVICE and tiles == "cpu":
                assert same_bits(results[name], expected), name
            np.testing.assert_allclose(results[name], expected, rtol=3e-6, atol=2e-6, err_msg=name)


def test_oclgrind_runs_the_examples_of_readme_and_page(tmp_path):
    faulthandler.cancel_dump_traceback_later()
    root = Path(__file__).parents[1]
    blocks = re.findall(r"^```py\n(.*?)^```", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    page = re.findall(r"^\.\. code-block:: python\n\n(.*?)^(?=\S)", (root / "docs" / "opencl.rst").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks and page
    code = "import numpy as np, softcore as sc\na = np.zeros((4, 1000), np.float32)\n"
    code += "\n".join([*blocks, *map(textwrap.dedent, page)]).replace("range(1000)", "range(3)")
    assert simulated(tmp_path, "-c", f"{code}\nassert np.allclose(y.get().sum(axis=-1), 1)") == ""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("x[get_global_id(0) + 1] = 0;", "Invalid write"),
        ("if (get_local_id(0) < 2) x[0] = get_local_id(0);", "data race"),
    ],
)
def test_oclgrind_finds_what_was_planted(body, found, tmp_path):
    code = f"""
import numpy as np, pyopencl.array, pyopencl as cl, softcore as sc
x = sc.opencl.to_device(np.zeros(4, np.float32))
program = cl.Program(x.context, "__kernel void planted(__global float *x) {{ {body} }}").build()
program.planted(x.queue, (4,), (4,), x.base_data).wait()
"""
    assert found in simulated(tmp_path, "-c", code)
