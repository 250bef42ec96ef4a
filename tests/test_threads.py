"""Thread counts, where they come from, and that no result depends on them."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl

import softcore as sc
from softcore import threads

SERIAL = sc.info()["openmp"].startswith("none")
needs_openmp = pytest.mark.skipif(SERIAL, reason="a build without OpenMP always uses one thread")


@pytest.fixture(autouse=True)
def restore_count():
    explicit = threads._explicit
    yield
    threads._explicit = explicit


def run(code, **environment):
    # The prefix of the parent's environment that finding Python and softcore takes, and nothing that says how many threads.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT = "import softcore; print(softcore.get_num_threads())"

# ------------------------------------------------------------------------------------------------------------------ counts


@needs_openmp
def test_set_wins_over_the_default():
    for n in (1, 3, np.int64(5), 64):
        assert sc.set_num_threads(n) is None
        assert sc.get_num_threads() == n


@needs_openmp
def test_contexts_nest_and_restore():
    sc.set_num_threads(7)
    outer = sc.num_threads(3)
    with outer:
        assert sc.get_num_threads() == 3
        with sc.num_threads(5):
            assert sc.get_num_threads() == 5
            with outer:  # one context, entered twice
                assert sc.get_num_threads() == 3
            sc.set_num_threads(2)  # for the whole process, and so not here
            assert sc.get_num_threads() == 5
        assert sc.get_num_threads() == 3
        with pytest.raises(KeyError), sc.num_threads(4):
            raise KeyError
        assert sc.get_num_threads() == 3
    assert sc.get_num_threads() == 2


@needs_openmp
def test_context_is_of_one_python_thread():
    sc.set_num_threads(7)
    with ThreadPoolExecutor(1) as pool, sc.num_threads(3):
        assert pool.submit(sc.get_num_threads).result() == 7


@pytest.mark.parametrize("function", [sc.set_num_threads, sc.num_threads])
@pytest.mark.parametrize(
    ("n", "error", "text"),
    [
        (0, ValueError, "n is 0, it must be from 1 to 4096"),
        (4097, ValueError, "n is 4097, it must be from 1 to 4096"),
        (2**80, ValueError, "n is 1208925819614629174706176, it must be from 1 to 4096"),
        (-2, ValueError, "n is -2"),
        (1.0, TypeError, "n is a float, it must be an int"),
        ("2", TypeError, "n is a str"),
        (None, TypeError, "n is a NoneType"),
        (True, TypeError, "n is a bool"),
        ([2], TypeError, "n is a list"),
    ],
)
def test_bad_counts(function, n, error, text):
    before = sc.get_num_threads()
    with pytest.raises(error, match=f"{function.__name__}: {text}"):
        function(n)
    assert sc.get_num_threads() == before


def test_serial_build_has_one_thread():
    if SERIAL:
        sc.set_num_threads(4)
        assert sc.get_num_threads() == 1
        with sc.num_threads(4):
            assert sc.get_num_threads() == 1


# ----------------------------------------------------------------------------------------------------- where they come from


def test_default_is_within_affinity_and_quota():
    count = int(run(COUNT))
    assert 1 <= count <= len(os.sched_getaffinity(0))
    quota = threads.cgroup_quota()
    assert quota is None or count <= quota


def test_omp_num_threads():
    assert run(COUNT, OMP_NUM_THREADS="1") == "1"


@needs_openmp
def test_set_wins_over_omp_num_threads():
    assert run("import softcore as sc; sc.set_num_threads(3); print(sc.get_num_threads())", OMP_NUM_THREADS="1") == "3"


def test_affinity():
    one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert run(one + COUNT) == "1"
    assert run(COUNT.replace("print", one + "print")) == "1"


@needs_openmp
def test_quota(monkeypatch):
    monkeypatch.setattr(threads, "_explicit", None)
    monkeypatch.setattr(threads, "_quota", 1)
    monkeypatch.setattr(threads, "_quota_read", True)
    assert sc.get_num_threads() == 1
    sc.set_num_threads(3)
    assert sc.get_num_threads() == 3


@needs_openmp
def test_threadpoolctl_binds_even_an_explicit_count(monkeypatch):
    # As if OpenMP had allowed four threads at import, whatever this machine has.
    monkeypatch.setattr(threads, "_initial_limit", 4)
    sc.set_num_threads(4)
    with threadpoolctl.threadpool_limits(2, user_api="openmp"):
        assert sc.get_num_threads() == 2
        with sc.num_threads(3):
            assert sc.get_num_threads() == 2
        with sc.num_threads(1):
            assert sc.get_num_threads() == 1
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert sc.get_num_threads() == 1


def tree(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"membership": str(folder / "cgroup"), "root": str(folder / "fs")}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cgroup": "0::/\n", "fs/cpu.max": "max 100000\n"}, None),
        ({"cgroup": "0::/\n", "fs/cpu.max": "200000 100000\n"}, 2),
        ({"cgroup": "0::/\n", "fs/cpu.max": "150000 100000\n"}, 2),
        ({"cgroup": "0::/\n", "fs/cpu.max": "1000 100000\n"}, 1),
        ({"cgroup": "0::/a/b\n", "fs/a/cpu.max": "300000 100000\n", "fs/a/b/cpu.max": "max 100000\n"}, 3),
        ({"cgroup": "0::/a/b\n", "fs/a/cpu.max": "300000 100000\n", "fs/a/b/cpu.max": "500000 100000\n"}, 3),
        # a container that sees its own group at the root, and the host's path in its membership
        ({"cgroup": "0::/host/path\n", "fs/cpu.max": "400000 100000\n"}, 4),
        ({"cgroup": "0::/../other\n", "fs/cpu.max": "400000 100000\n"}, 4),
        ({"cgroup": "4:cpu,cpuacct:/\n", "fs/cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "fs/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cgroup": "4:cpu:/a\n", "fs/cpu/a/cpu.cfs_quota_us": "100000\n", "fs/cpu/a/cpu.cfs_period_us": "50000\n"}, 2),
        ({"cgroup": "4:cpuacct,cpu:/\n", "fs/cpu/cpu.cfs_quota_us": "-1\n", "fs/cpu/cpu.cfs_period_us": "100000\n"}, None),
        # version 2 beside version 1
        ({"cgroup": "4:memory:/\n0::/u\n", "fs/unified/u/cpu.max": "100000 100000\n"}, 1),
        # only cpu counts, not what has it in its name
        ({"cgroup": "4:cpuset:/\n", "fs/cpuset/cpu.cfs_quota_us": "100000\n", "fs/cpuset/cpu.cfs_period_us": "100000\n"}, None),
        ({"cgroup": "0::/\n", "fs/cpu.max": "garbage\n"}, None),
        ({"cgroup": "0::/\n", "fs/cpu.max": ""}, None),
        ({"cgroup": "0::/\n", "fs/cpu.max": "100000 0\n"}, None),
        ({"cgroup": "no colon\n\n:\n"}, None),
    ],
)
def test_cgroup_quota(tmp_path, files, quota):
    assert threads.cgroup_quota(**tree(tmp_path, files)) == quota


# -------------------------------------------------------------------------------------------------------- what they compute

LONG = (3, 1 << 20)  # one row divided among threads
MANY = (20_000, 40)  # rows divided among threads
CALLS = [
    lambda x: sc.softmax(x),
    lambda x: sc.softmax(x, 0),
    lambda x: sc.logsumexp(x),
    lambda x: sc.log_softmax(x),
    lambda x: sc.max_with_argmax(x)[1],
    lambda x: sc.max_backward(1.0, x, ties="split"),
    lambda x: sc.sigmoid(x),
]


def data(shape):
    return np.random.default_rng(1).standard_normal(shape, np.float32)


@pytest.mark.parametrize("shape", [LONG, MANY])
@pytest.mark.parametrize("call", CALLS)
def test_bits_do_not_depend_on_the_count(shape, call):
    x = data(shape)
    with sc.num_threads(1):
        expected = call(x).tobytes()
    for n in (2, 3, 7):
        with sc.num_threads(n):
            assert call(x).tobytes() == expected


@pytest.mark.parametrize("shape", [LONG, MANY])
def test_sixteen_python_threads_get_the_same_bits(shape):
    x = data(shape)
    expected = sc.softmax(x).tobytes()

    def call(i):
        with sc.num_threads(1 + i % 3):
            return sc.softmax(x).tobytes() == expected

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(16)))


FORK = """
import os, signal, sys, warnings
import numpy as np
import softcore as sc
warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
x = np.random.default_rng(1).standard_normal((3, 1 << 20), np.float32)
sc.set_num_threads(2)
expected = sc.softmax(x)
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that waits for threads it does not have
    y = sc.softmax(x)
    sc.set_num_threads(2)
    ok = sc.get_num_threads() == 1 and (y == expected).all() and (sc.softmax(x) == expected).all()
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if (sc.softmax(x) == expected).all() else 1)
    os._exit(0 if ok and os.waitpid(grandchild, 0)[1] == 0 else 1)
assert os.waitpid(child, 0)[1] == 0
assert (sc.softmax(x) == expected).all()
print(sc.get_num_threads())
"""


def test_a_child_runs_the_build_under_test():
    assert run("import softcore; print(softcore.__file__)") == sc.__file__


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_works_after_the_parent_used_threads():
    assert run(FORK) == ("1" if SERIAL else "2")


def test_importing_softcore_keeps_subnormals():
    assert float(run("import softcore, numpy; print(numpy.float64(2e-308) / 16)")) == math.ldexp(2e-308, -4)
