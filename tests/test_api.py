"""The public functions: what there is, with which signatures, docstrings and examples, and on which instruction set it runs."""

import doctest
import importlib
import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from calls import sample

import softcore as sc
from softcore import kernels
from softcore.ops import attention, gates, losses, maxima, mixtures, pooling, softmax

# ------------------------------------------------------------------------------------------------------------- the surface

SIGNATURES = """
max(x, axis=-1, *, keepdims=False, where=None, initial=None, out=None)
argmax(x, axis=-1, *, keepdims=False, where=None, select_last=False, out=None)
max_with_argmax(x, axis=-1, *, keepdims=False, where=None, select_last=False, out=None)
hardmax(x, axis=-1, *, out=None)
max_backward(dy, x, axis=-1, *, index=None, ties='first', keepdims=False, where=None, out=None)
maximum(a, b, *, out=None)
maximum_backward(dy, a, b, *, out=None)
relu(x, *, out=None)
relu_backward(dy, x, *, out=None)
step(x, *, out=None)
softmax(x, axis=-1, *, scale=1.0, where=None, out=None)
softmax_backward(dy, y, axis=-1, *, scale=1.0, where=None, out=None)
log_softmax(x, axis=-1, *, scale=1.0, where=None, out=None)
log_softmax_backward(dy, y, axis=-1, *, scale=1.0, where=None, out=None)
logsumexp(x, axis=-1, *, b=None, where=None, keepdims=False, return_sign=False, out=None)
logsumexp_backward(dy, x, y, axis=-1, *, b=None, where=None, keepdims=False, out=None)
sigmoid(x, *, out=None)
sigmoid_backward(dy, y, *, out=None)
log_sigmoid(x, *, out=None)
log_sigmoid_backward(dy, x, *, out=None)
softplus(x, *, out=None)
softplus_backward(dy, x, *, out=None)
max_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, layout='channels_first', out=None)
max_pool_backward(dy, indices, shape, *, layout='channels_first', out=None)
max_unpool(y, indices, shape, *, layout='channels_first', out=None)
avg_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=True, layout='channels_first', out=None)
avg_pool_backward(dy, shape, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=True, layout='channels_first', out=None)
softmax_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout='channels_first', out=None)
softmax_pool_backward(dy, x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout='channels_first', out=None)
cross_entropy(logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction='mean', out=None)
cross_entropy_with_grad(logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction='mean', out=None)
cross_entropy_backward(dloss, logits, target, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction='mean', out=None)
binary_cross_entropy(logits, target, *, weight=None, pos_weight=None, reduction='mean', out=None)
binary_cross_entropy_with_grad(logits, target, *, weight=None, pos_weight=None, reduction='mean', out=None)
binary_cross_entropy_backward(dloss, logits, target, *, weight=None, pos_weight=None, reduction='mean', out=None)
gate(x, y, r, *, out=None)
gate_backward(df, x, y, r, *, out=None)
glu(x, axis=-1, *, activation='sigmoid', out=None)
glu_backward(dy, x, axis=-1, *, activation='sigmoid', out=None)
softmax_gate(x, r, *, where=None, scale=1.0, return_lse=False, out=None)
softmax_gate_backward(do, x, r, *, where=None, scale=1.0, out=None)
topk_gate(r, k, axis=-1, *, renormalize=True, out=None)
topk_gate_backward(dw, r, indices, axis=-1, *, renormalize=True, out=None)
attention(q, k, v, *, scale=None, causal=False, causal_offset=0, window=None, mask=None, bias=None, alibi_slopes=None, softcap=None, sinks=None, q_lengths=None, kv_lengths=None, cu_seqlens_q=None, cu_seqlens_kv=None, return_lse=False, layout='BHLD', out=None)
attention_backward(do, q, k, v, o, lse, *, scale=None, causal=False, causal_offset=0, window=None, mask=None, bias=None, alibi_slopes=None, softcap=None, sinks=None, q_lengths=None, kv_lengths=None, cu_seqlens_q=None, cu_seqlens_kv=None, bias_grad=False, sinks_grad=False, layout='BHLD', out=None)
merge_attention(parts, *, out=None)
""".strip().splitlines()
FUNCTIONS = [line.partition("(")[0] for line in SIGNATURES]


@pytest.mark.parametrize("line", SIGNATURES)
def test_signature(line):
    name = line.partition("(")[0]
    signature = inspect.signature(getattr(sc, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert name + str(inspect.Signature(bare)) == line


def test_every_function_is_listed_once():
    assert len(sc.__all__) == len(set(sc.__all__))
    assert set(dir(sc)) == set(sc.__all__)
    modules = (attention, gates, losses, maxima, mixtures, pooling, softmax)
    public = {n for m in modules for n, f in vars(m).items() if inspect.isfunction(f) and f.__module__ == m.__name__}
    assert {n for n in public if not n.startswith("_")} == set(FUNCTIONS)
    for name in FUNCTIONS:
        assert name in sc.__all__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_has_what_a_reader_looks_for(name):
    doc = inspect.getdoc(getattr(sc, name))
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in doc


MODULES = ("ops.attention", "ops.gates", "ops.losses", "ops.maxima", "ops.mixtures", "ops.pooling", "ops.softmax")
MODULES += ("windows", "threads", "about", "fold", "compat.scipy")


@pytest.mark.parametrize("module", [f"softcore.{name}" for name in MODULES])
def test_examples_in_docstrings(module):
    tested = doctest.testmod(importlib.import_module(module))
    assert tested.attempted and not tested.failed


def test_functions_can_be_pickled():
    for name in FUNCTIONS:
        assert pickle.loads(pickle.dumps(getattr(sc, name))) is getattr(sc, name)


def test_import_brings_nothing_that_an_op_does_not_need():
    heavy = ("scipy", "ml_dtypes", "threadpoolctl", "pyopencl", "matplotlib", "softcore.reference", "softcore.testing", "softcore.compat")
    code = f"import sys, softcore; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'softcore' has no attribute 'sofmax'"):
        sc.sofmax  # noqa: B018


def test_info():
    info = sc.info()
    assert info["version"] == sc.__version__
    assert info["isa"] in info["isa_available"]
    assert info["threads"] == sc.get_num_threads()


# ------------------------------------------------------------------------------------------------------------------- isas


def test_isas_run_side_by_side():
    x = sample((5, 7))
    for isa in sc.info()["isa_available"]:
        with kernels.use(isa) as core:
            assert core.isa == sc.info()["isa"] == isa
            np.testing.assert_allclose(sc.softmax(x).sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("isa", ["mmx", "AVX2", "no such"])
def test_isa_that_does_not_exist(isa):
    run = subprocess.run(
        [sys.executable, "-c", "import softcore"], env={**os.environ, "SOFTCORE_ISA": isa}, capture_output=True, text=True, check=False
    )
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: softcore: ") and repr(isa) in last and "SOFTCORE_ISA" in last
    for available in sc.info()["isa_available"]:
        assert available in last


@pytest.mark.parametrize("isa", sc.info()["isa_available"])
def test_isa_can_be_forced(isa):
    code = "import softcore; print(softcore.info()['isa'])"
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "SOFTCORE_ISA": isa}, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == isa
