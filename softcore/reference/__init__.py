"""The definition of every op, forward and backward, in plain NumPy.

This package says what softcore computes; the compiled kernels only say how. Each function has the signature of the public
function of its name and is written for the reader, not for speed. Arithmetic is done in float64, or in longdouble where an input
is longdouble: float16, bfloat16, float32, integers and bool are promoted first. The selections (``max``, ``relu``, ...) leave
integers as they are.

Below the definitions of a family stand their entries in :data:`OPS`, one description per op. Tests, benchmarks and the tables in
the docs iterate over it::

    for op in OPS.values():
        arguments = op.inputs(x, rng, axis=0)
        expected = op.reference(*arguments, axis=0)

Vocabulary: ``x`` goes in, ``y`` comes out, ``dy`` is the gradient of y, ``dx`` that of x. A *row* is the set of elements that
are reduced together. An element *takes part* if ``where`` does not mask it out. In every definition, ``axes`` is ``axis`` as a
tuple of non-negative ints and ``where`` a boolean array of x's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from softcore.reference import _attention, _gates, _losses, _maxima, _mixtures, _pooling, _softmax
from softcore.reference._attention import attention, attention_backward, merge_attention
from softcore.reference._gates import gate, gate_backward, glu, glu_backward
from softcore.reference._losses import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
    binary_cross_entropy_with_grad,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_with_grad,
)
from softcore.reference._maxima import (
    argmax,
    hardmax,
    max,
    max_backward,
    max_with_argmax,
    maximum,
    maximum_backward,
    relu,
    relu_backward,
    step,
)
from softcore.reference._mixtures import softmax_gate, softmax_gate_backward, topk_gate, topk_gate_backward
from softcore.reference._op import Op
from softcore.reference._pooling import (
    avg_pool,
    avg_pool_backward,
    max_pool,
    max_pool_backward,
    max_unpool,
    softmax_pool,
    softmax_pool_backward,
)
from softcore.reference._softmax import (
    log_sigmoid,
    log_sigmoid_backward,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    logsumexp_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    softplus,
    softplus_backward,
)

OPS: Mapping[str, Op] = MappingProxyType(
    {op.name: op for family in (_maxima, _softmax, _pooling, _losses, _gates, _mixtures, _attention) for op in family.OPS}
)

__all__ = ["OPS", "Op", *OPS, "merge_attention"]
