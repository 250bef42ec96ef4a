"""The short way of calls on OpenCL devices: what was launched before is launched again, and nothing else is.

See test_opencl.py for where these tests run.
"""

import itertools
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from calls import same_bits

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed: pip install softcore[opencl]")

from test_opencl import device, get, limited, on_device, to_device  # noqa: F401  # fixtures among them

import softcore as sc
from softcore.reference import OPS

ONE = ["sigmoid", "log_sigmoid", "softplus", "relu", "step", "max", "argmax", "hardmax", "logsumexp", "softmax", "log_softmax", "glu"]
TWO = [f"{name}_backward" for name in ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "softplus", "relu")] + ["maximum"]
SHORT = {**dict.fromkeys(ONE, 1), **dict.fromkeys(TWO, 2), "max_with_argmax": 1, "maximum_backward": 3, "gate": 3, "gate_backward": 4}


@pytest.fixture
def long_way(monkeypatch):
    """The ops that were checked, in their order."""
    ops = []
    begun = sc.opencl.begun
    monkeypatch.setattr(sc.opencl, "begun", lambda op, operands: (ops.append(op), begun(op, operands)))
    sc.softmax(to_device(np.zeros(3)))  # with the first call comes what knows the short way
    sc.opencl.launches.cache.clear()
    ops.clear()
    return ops


def numbers(rng, n, shape=(4, 6)):
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(n)]


def outputs(results):
    made = tuple(sc.opencl.to_device(np.full(r.shape, 7, r.dtype)) for r in (results if isinstance(results, tuple) else (results,)))
    return made if isinstance(results, tuple) else made[0]


@pytest.mark.parametrize("name", SHORT)
def test_the_third_call_is_not_checked_and_the_same(name, long_way):
    rng = np.random.default_rng(0)
    for _ in range(2):
        first = getattr(sc, name)(*map(to_device, numbers(rng, SHORT[name])))
    assert long_way == [name]
    arrays = numbers(rng, SHORT[name])
    short = on_device(name, *arrays)
    assert long_way == [name]
    out = outputs(first)
    getattr(sc, name)(*map(to_device, arrays), out=out)
    assert long_way == [name] * 2
    assert same_all(get(out), short)
    out = outputs(first)
    assert getattr(sc, name)(*map(to_device, arrays), out=out) is out
    assert long_way == [name] * 2
    assert same_all(get(out), short)
    sc.opencl.launches.cache.clear()
    assert same_all(on_device(name, *arrays), short)


def same_all(a, b):
    return all(same_bits(p, q) for p, q in zip(a, b)) if isinstance(a, tuple) else same_bits(a, b)


@pytest.mark.parametrize("name", [name for name, n in SHORT.items() if n > 1])
def test_an_array_given_twice_is_not_two(name, long_way, rng):
    n = SHORT[name]
    arrays = numbers(rng, n)
    expected = on_device(name, *arrays)
    for i, j in itertools.combinations(range(n), 2):
        twice = list(map(to_device, arrays))
        twice[j] = twice[i]
        same = [arrays[i] if k == j else a for k, a in enumerate(arrays)]
        sc.opencl.launches.cache.clear()
        for _ in range(3):  # learned from one that is given twice, and then from two
            results = getattr(sc, name)(*twice)
            assert same_all(get(results), on_device(name, *same))
            assert same_all(on_device(name, *arrays), expected)


def test_every_op_with_a_short_way_is_tried():
    asked = re.findall(r'plain\("(\w+)"', "".join(p.read_text() for p in Path(sc.ops.__file__).parent.glob("*.py")))
    assert set(asked) <= set(SHORT)


def test_what_makes_a_call_another(long_way):
    rng = np.random.default_rng(0)
    x, y = numbers(rng, 2, (6, 6))
    on = to_device(x)
    others = {
        "dtype": lambda: sc.softmax(to_device(x.astype(np.float64))),
        "shape": lambda: sc.softmax(to_device(x[:5])),
        "axis": lambda: sc.softmax(on, 0),
        "scale": lambda: sc.softmax(on, scale=2.0),
        "strides": lambda: sc.softmax(on.T),
        "offset": lambda: sc.softmax(on[1:]),
        "out": lambda: sc.softmax(on, out=to_device(y)),
        "in place": lambda: sc.softmax(on, out=on),
        "queue": lambda: sc.softmax(on.with_queue(cl.CommandQueue(on.context))),
        "op": lambda: sc.log_softmax(on),
    }
    for _ in range(3):
        sc.softmax(on)
    for what, call in others.items():
        long_way.clear()
        call()
        assert len(long_way) == 1, what
    long_way.clear()
    sc.softmax(to_device(x))
    assert not long_way


def test_results_in_place_or_over_a_part_of_the_input(long_way):
    (x,) = numbers(np.random.default_rng(0), 1, (7, 6))
    expected = on_device("softmax", x[:6])
    for _ in range(3):
        on = to_device(x)
        sc.softmax(on[:6], out=on[1:])  # out of step: by a temporary, each time
        assert same_bits(on.get()[1:], expected)
        apart = to_device(x)
        sc.softmax(on_top := to_device(x)[:6], out=apart[1:])
        assert same_bits(apart.get()[1:], expected)
        assert same_bits(on_top.get(), x[:6])
        sc.softmax(on_top, out=on_top)
        assert same_bits(on_top.get(), expected)


def test_a_call_that_fails_is_not_learned(long_way):
    x = to_device(np.ones((2, 3), np.float32))
    for _ in range(3):
        with pytest.raises(ValueError, match="axis"):
            sc.max(x, 5)
        assert sc.max(x, keepdims=True).shape == (2, 1)  # which asks no one for a short way
        with pytest.raises(TypeError):
            sc.gate_backward(x, x, x, x, out=x)
        with pytest.raises(ValueError, match="share memory"):
            sc.gate_backward(x, x, x, x, out=(x, x, to_device(np.ones((2, 3), np.float32))))
        with pytest.raises(TypeError):
            sc.softmax(x, True)
        assert sc.softmax(x, 1).shape == (2, 3)
    outside = cl.array.Array(x.queue, (2, 3), np.float32, data=to_device(np.ones(5, np.float32)).base_data)
    for _ in range(3):
        with pytest.raises(ValueError, match="outside its buffer"):
            sc.softmax(outside)


def test_a_call_that_was_interrupted_teaches_the_next_one_nothing(long_way, monkeypatch):
    x = np.array([[1, 7, 1, 7]], np.float32)
    on, mask = to_device(x), to_device(np.array([[True, False, True, True]]))
    variants = {"argmax": {"select_last": True}, "logsumexp": {"keepdims": True}, "softmax": {"where": mask}, "log_softmax": {"scale": 2}}
    for name, variant in variants.items():
        with monkeypatch.context() as m:
            m.setattr(sc.check, "arrays", interrupt)
            with pytest.raises(KeyboardInterrupt):
                getattr(sc, name)(on)
        getattr(sc, name)(on, **variant)
        for _ in range(3):
            result = getattr(sc, name)(to_device(x)).get()
            np.testing.assert_allclose(result, getattr(sc, name)(x), rtol=1e-6)
            assert result.shape == np.shape(getattr(sc, name)(x))


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_parts_of_a_buffer_share_it(long_way):
    n = 4096
    x = np.random.default_rng(0).standard_normal(n + 64).astype(np.float32)
    queue = to_device(x).queue
    for _ in range(3):
        whole = to_device(x)
        first = cl.array.Array(queue, (n,), np.float32, data=whole.base_data)
        part = cl.array.Array(queue, (n,), np.float32, data=whole.base_data[256 : 256 + 4 * n])
        sc.relu(first, out=part)
        assert same_bits(part.get(), sc.relu(x[:n]))
        with pytest.raises(ValueError, match="share memory"):
            sc.gate_backward(first, first, first, first, out=(part, first, to_device(x[:n])))


def test_a_buffer_to_read_from_is_not_written(long_way):
    x = np.ones((4, 6), np.float32)
    on = to_device(x)
    buffer = cl.Buffer(on.context, cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
    for _ in range(3):
        sc.softmax(on, out=to_device(x))
        with pytest.raises(ValueError, match="read-only"):
            sc.softmax(on, out=cl.array.Array(on.queue, x.shape, x.dtype, data=buffer))
        assert same_bits(sc.softmax(cl.array.Array(on.queue, x.shape, x.dtype, data=buffer)).get(), sc.softmax(on).get())


def test_rows_in_parts_and_sums_take_the_long_way(long_way):
    rng = np.random.default_rng(0)
    x = to_device(rng.standard_normal((1, 200_000)).astype(np.float32))
    arrays = [to_device(a) for a in numbers(rng, 3)] + [to_device(np.float32([0.5]))]
    once = get(sc.softmax(x)), get(sc.gate_backward(*arrays))
    for _ in range(3):
        assert same_all((sc.softmax(x).get(), *get(sc.gate_backward(*arrays))), (once[0], *once[1]))


def test_what_is_learned_keeps_no_memory(long_way):
    import gc
    import weakref

    x = to_device(np.ones((3, 5), np.float32))
    gone = weakref.ref(x)
    sc.max(x)
    with pytest.raises(ValueError, match="axis"):
        sc.max(x, 7)
    del x
    gc.collect()
    for event, _ in list(sc.opencl.launches._pending):
        event.wait()
    assert gone() is None


def test_threads_have_their_own_kernels(long_way):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 6)).astype(np.float32) for _ in range(8)]
    expected = [on_device("softmax", a) for a in arrays]
    wrong = []

    def work(a, e):
        for _ in range(50):
            if not same_bits(sc.softmax(to_device(a)).get(), e):
                wrong.append(a)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(arrays, expected)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_results_come_from_the_pool_of_the_input(long_way):
    x = np.ones((3, 5), np.float32)
    pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(to_device(x).queue))
    for _ in range(3):
        on = cl.array.to_device(to_device(x).queue, x, allocator=pool)
        y = sc.softmax(on)
        assert y.allocator is pool
    assert same_bits(y.get(), on_device("softmax", x))
