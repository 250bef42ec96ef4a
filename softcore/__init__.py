"""softcore: a compiled numerical core for max, softmax and gates. NumPy arrays in, NumPy arrays out, gradients included."""

from softcore.about import info
from softcore.ops.attention import KVCache, attention, attention_backward, merge_attention
from softcore.ops.gates import gate, gate_backward, glu, glu_backward
from softcore.ops.losses import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
    binary_cross_entropy_with_grad,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_with_grad,
)
from softcore.ops.maxima import (
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
from softcore.ops.mixtures import softmax_gate, softmax_gate_backward, topk_gate, topk_gate_backward
from softcore.ops.pooling import (
    avg_pool,
    avg_pool_backward,
    max_pool,
    max_pool_backward,
    max_unpool,
    softmax_pool,
    softmax_pool_backward,
)
from softcore.ops.softmax import (
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
from softcore.threads import get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "KVCache",
    "__version__",
    "argmax",
    "attention",
    "attention_backward",
    "avg_pool",
    "avg_pool_backward",
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_with_grad",
    "compat",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_with_grad",
    "gate",
    "gate_backward",
    "get_num_threads",
    "glu",
    "glu_backward",
    "hardmax",
    "info",
    "log_sigmoid",
    "log_sigmoid_backward",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "max",
    "max_backward",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "max_with_argmax",
    "maximum",
    "maximum_backward",
    "merge_attention",
    "num_threads",
    "opencl",
    "plan",
    "reference",
    "relu",
    "relu_backward",
    "set_num_threads",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "softmax_gate",
    "softmax_gate_backward",
    "softmax_pool",
    "softmax_pool_backward",
    "softplus",
    "softplus_backward",
    "step",
    "testing",
    "topk_gate",
    "topk_gate_backward",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from softcore import compat, opencl, reference, testing
    from softcore.planner import plan


def __getattr__(name):
    # Imported at first use: calling an op needs none of them, and `import softcore` is to be quick.
    from importlib import import_module

    if name in ("compat", "opencl", "reference", "testing"):
        return import_module(f"softcore.{name}")
    if name == "plan":
        return import_module("softcore.planner").plan
    raise AttributeError(f"module 'softcore' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
