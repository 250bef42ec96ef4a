"""The demo learns, the commands print, and the comparison with other libraries runs."""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import time
import timeit
from pathlib import Path

import numpy as np
import pytest

import softcore as sc
from softcore import __main__ as command
from softcore import peers

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def trained():
    pytest.importorskip("sklearn")
    from softcore import demo

    return demo.train()


def test_it_learns_the_digits(trained):
    assert trained.accuracy >= 0.95
    assert len(trained.labels) + trained.trained_on == 1797
    assert trained.confusion.sum() == len(trained.labels)
    assert trained.confusion.trace() == round(trained.accuracy * len(trained.labels))
    np.testing.assert_allclose(trained.probabilities.sum(-1), 1, rtol=1e-5)


def test_its_gradients_are_right(rng):
    from softcore import demo

    shapes = [(64, 5), (5,), (5, 10), (10,)]
    parameters = [rng.standard_normal(shape) for shape in shapes]
    x, labels = rng.random((7, 64)), rng.integers(0, 10, 7)
    slopes, _ = demo.gradients(parameters, x, labels)
    directions = [rng.standard_normal(shape) for shape in shapes]
    above, below = (demo.gradients([p + e * d for p, d in zip(parameters, directions)], x, labels)[1] for e in (1e-6, -1e-6))
    expected = sum(np.sum(s * d) for s, d in zip(slopes, directions))
    np.testing.assert_allclose((above - below) / 2e-6, expected, rtol=1e-5)


def test_it_draws_one_picture(trained, tmp_path):
    pytest.importorskip("matplotlib")
    from softcore import demo

    demo.draw(trained, str(tmp_path / "demo.png"))
    assert [p.name for p in tmp_path.iterdir()] == ["demo.png"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_every_op():
    from softcore import demo

    lines = []
    demo.measure((16, 64), rounds=1, show=lines.append)
    table = lines[2 : 2 + len(sc.reference.OPS)]
    assert [line.split()[0] for line in table] == list(sc.reference.OPS)
    assert not any("inf" in line or "nan" in line for line in table)


def test_the_table_says_where_the_machine_was_busy(monkeypatch):
    from softcore import demo

    def lines(queued):
        told, clock = [], iter(np.arange(1000.0) * queued)
        monkeypatch.setattr(peers, "waited", lambda: next(clock))
        demo.measure((4, 8), rounds=1, show=told.append)
        return told

    assert not any("busy" in line for line in lines(0.0))
    assert lines(1.0)[-1].startswith("The machine was busy: threads waited ")


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux says how long a thread waited")
def test_waiting_is_measured():
    before = os.sched_getaffinity(0)
    cpu = min(before)
    spin = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
    try:
        os.sched_setaffinity(0, {cpu})
        start = time.perf_counter()
        while time.perf_counter() < start + 0.3:  # until both are at it
            pass
        start, queued = time.perf_counter(), peers.waited()
        while time.perf_counter() < start + 0.5:
            pass
        assert peers.waited() - queued > 0.1
    finally:
        os.sched_setaffinity(0, before)
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def test_more_rounds_where_blocks_disagree():
    def rounds(durations, **options):
        clock, calls = [0.0], []

        def call():
            calls.append(1)
            clock[0] += durations(len(calls))

        peers.take_turns({"one": timeit.Timer(call, timer=lambda: clock[0])}, rounds=4, block=1.0, **options)
        return (len(calls) - 2) // 2  # two calls to warm up, two in a block of one call

    assert rounds(lambda i: 1.0) == rounds(lambda i: 1.0, patience=9) == 4
    assert rounds(lambda i: 2.0**i, patience=9) == 13
    assert rounds(lambda i: 2.0**i) == 4


def test_a_missing_extra_is_one_line_that_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit, match=r"^the demo needs scikit-learn, .*softcore\[demo\]'$"):
        command.main(["demo", "--picture", str(tmp_path / "demo.png")])


def test_info_says_what_there_is(capsys):
    command.main(["info"])
    printed = capsys.readouterr().out
    for word in ("version", "isa", "threads", "openmp", "opencl", sc.info()["isa"]):
        assert word in printed
    assert "{" not in printed


def test_importing_softcore_imports_no_peers():
    code = "import sys, softcore; print(sorted(m for m in sys.modules if m in {'softcore.peers', 'softcore.demo', 'scipy', 'torch'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.fixture(scope="module")
def comparison():
    spec = importlib.util.spec_from_file_location("benchmark_peers", PEERS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for dataclasses
    spec.loader.exec_module(module)
    return module


def test_the_comparison_covers_every_promise_once(comparison):
    module = comparison
    names = [case.name for case in module.CASES]
    assert len(names) == len(set(names))
    assert all(case.targets for case in module.CASES if case.op not in (*module.ROWS, *module.ELEMENTS))
    assert {case.op for case in module.CASES} == sc.reference.OPS.keys() - {"softmax_pool_backward"}  # which no library has


@pytest.mark.parametrize(
    ("op", "shape", "moved"),
    [
        ("sigmoid", (64,), 2 * 256),
        ("gate", (64,), 4 * 256),
        ("gate_backward", (64,), 7 * 256),
        ("softmax_gate_backward", (4, 6, 8), 128 + 2 * (768 + 96)),
        ("cross_entropy_with_grad", (4, 64), 2 * 1024 + 32 + 4),  # with the labels and the loss
    ],
)
def test_a_case_is_compared_with_the_copy_of_its_bytes(comparison, op, shape, moved, monkeypatch):
    case = next(case for case in comparison.CASES if case.op == op)
    copied = set()
    monkeypatch.setattr(np, "copyto", lambda to, source: copied.add(source.nbytes))
    row = comparison.compare(dataclasses.replace(case, shape=shape, libraries=("numpy",)), 1, 1, 1e-5)
    assert set(row["ms"]) >= {"softcore", "copyto"} and all(t > 0 for t in row["ms"].values())
    assert copied == {moved // 2 // 4 * 4}  # half of them each way


def test_the_comparison_runs(tmp_path):
    pytest.importorskip("scipy")
    command = [sys.executable, str(PEERS), "--quick", "--threads", "1", "--case", "^softmax 512", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^softmax 512 x 512 .*best peer: (yes|NO)", done.stdout, re.MULTILINE)
    assert (tmp_path / "rows.json").exists()
