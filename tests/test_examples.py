"""Each example runs, says what it found, and writes its picture; the gradients of its network are right."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    for module in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(module)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example as `make example` does, but quickly; what it returned, and what it printed."""

    def run(example):
        monkeypatch.chdir(tmp_path)
        found = example.main(["--quick"])
        name = example.__name__.removeprefix("example_")
        assert [p.name for p in tmp_path.iterdir()] == [f"{name}.png"]
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        printed = capsys.readouterr().out
        assert printed.endswith(f"picture: {name}.png\n")
        return found, printed

    return run


def assert_gradients(loss, parameters, slopes, rng):
    """The slopes of loss(parameters) are what central differences along random directions say."""
    assert [s.shape for s in slopes] == [p.shape for p in parameters]
    for _ in range(3):
        directions = [rng.standard_normal(p.shape) for p in parameters]
        above, below = (loss([p + e * d for p, d in zip(parameters, directions)]) for e in (1e-6, -1e-6))
        expected = sum(np.sum(s * d) for s, d in zip(slopes, directions))
        np.testing.assert_allclose((above - below) / 2e-6, expected, rtol=1e-5)


def test_brainteaser(run):
    example = load("brainteaser")
    (jacobians, paths), printed = run(example)
    assert "softmax: the gradient of output 3 lands on 10 of 10 numbers and sums to 0.000" in printed
    assert "sigmoid: the gradient of output 3 lands on 1 of 10 numbers and sums to 0.249" in printed
    x, eye = example.ten_numbers(), np.eye(10)
    for name, (forward, _) in example.FUNCTIONS.items():
        slopes = (forward(x + 1e-6 * eye) - forward(x - 1e-6 * eye)).T / 2e-6  # row: output, column: number
        np.testing.assert_allclose(jacobians[name], slopes, atol=1e-9)
        others = np.delete(paths[name], 3, axis=1)
        assert np.all(np.diff(paths[name][:, 3]) > 0)
        if name == "softmax":
            assert np.all(np.diff(others.sum(-1)) < 0) and np.all(others[-1] != others[0])
        else:
            assert np.all(others == others[0])


def test_conv(run):
    accuracy, printed = run(load("conv"))
    assert accuracy >= 0.97
    assert f"of 360 right, {accuracy:.1%}" in printed


def test_the_gradients_of_conv(rng):
    example = load("conv")
    parameters = example.start(rng, channels=(2, 3), dtype=np.float64)
    x, labels = rng.random((5, 8, 8, 1)), rng.integers(0, 10, 5)
    slopes, _ = example.gradients(parameters, x, labels)
    assert_gradients(lambda p: example.gradients(p, x, labels)[1], parameters, slopes, rng)
    rows = example.patches(x)
    np.testing.assert_array_equal(rows[:, 1, 1], x[:, :3, :3, 0].reshape(5, -1))
    dx = example.patches_backward(np.ones_like(rows), x.shape)
    np.testing.assert_array_equal(dx[0, :2, :2, 0], [[4, 6], [6, 9]])  # how many patches a pixel is in


def test_gated(run):
    runs, printed = run(load("gated"))
    ink, odd = runs.values()
    assert ink.accuracy > 0.9 and odd.accuracy > 0.85
    assert ink.openness[-1] > 0.6  # a sum: the shallow branch
    assert odd.openness[-1] < 0.4  # an exclusive or: the deep one
    for one in runs.values():
        shallow, deep = np.array(one.flow).T
        opened = np.array([0.5, *one.openness[:-1]])  # before the step
        np.testing.assert_allclose(shallow / (shallow + deep), opened, rtol=1e-4)  # each branch has its share
    assert "gives the shallow branch" in printed and "gives the deep branch" in printed


def test_the_gradients_of_gated(rng):
    example = load("gated")
    parameters = example.start(rng, widths=(128, 6, 5, 1), dtype=np.float64)
    parameters[0][:] = 0.3
    pixels, target = rng.random((7, 128)), rng.integers(0, 2, (7, 1)).astype(float)
    slopes, _, _ = example.gradients(parameters, pixels, target)
    assert_gradients(lambda p: example.gradients(p, pixels, target)[1], parameters, slopes, rng)


def test_experts(run):
    runs, printed = run(load("experts"))
    one, two, every = runs.values()
    assert two.accuracy > 0.93 and every.accuracy > 0.93
    assert min(two.accuracy, every.accuracy) > one.accuracy + 0.01
    loads = np.array(two.loads)
    assert loads.shape == (10, 8)
    np.testing.assert_allclose(loads.sum(-1), 1)
    assert loads[-1].max() < 0.3  # of 0.5, which one expert asked about every digit would have
    np.testing.assert_allclose(two.taught.sum(0), 1)
    np.testing.assert_allclose(every.loads[-1], 1 / 8)
    assert f"two of 8: {two.accuracy:.1%} of the held-out digits right\n  load of each expert: " in printed


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_gradients_of_experts(k, rng):
    example = load("experts")
    parameters = example.start(rng, 4, hidden=3, dtype=np.float64)
    x, labels = rng.standard_normal((9, 64)), rng.integers(0, 10, 9)
    slopes, _ = example.gradients(parameters, x, labels, k)
    assert_gradients(lambda p: example.gradients(p, x, labels, k)[1], parameters, slopes, rng)
