"""How to call each public function on one array: all that a form of its arguments must not change."""

import inspect

import ml_dtypes
import numpy as np

import softcore as sc

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATING = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(t) for t in "?bBhHiIlLqQ"]

# How to call each function on an x of any shape and floating dtype: all that a form of x or out must not change.
ROWS = {  # functions with an axis, whose result has x's shape
    "hardmax": lambda x, **k: sc.hardmax(x, **k),
    "softmax": lambda x, **k: sc.softmax(x, **k),
    "log_softmax": lambda x, **k: sc.log_softmax(x, **k),
    "softmax_backward": lambda x, **k: sc.softmax_backward(np.ones_like(x), x, **k),
    "log_softmax_backward": lambda x, **k: sc.log_softmax_backward(np.ones_like(x), x, **k),
    "max_backward": lambda x, **k: sc.max_backward(x.dtype.type(1), x, **k),
    "logsumexp_backward": lambda x, **k: sc.logsumexp_backward(
        x.dtype.type(1), x, sc.logsumexp(x, **{n: v for n, v in k.items() if n != "out"}), **k
    ),
}
FOLDS = {  # functions with an axis, whose result has one value per row
    "max": sc.max,
    "argmax": sc.argmax,
    "logsumexp": sc.logsumexp,
}
MAPS = {  # element by element
    "relu": sc.relu,
    "step": sc.step,
    "sigmoid": sc.sigmoid,
    "log_sigmoid": sc.log_sigmoid,
    "softplus": sc.softplus,
    "maximum": lambda x, **k: sc.maximum(x, np.ones_like(x), **k),
    "gate": lambda x, **k: sc.gate(x, np.ones_like(x), np.ones_like(x), **k),
    "glu": lambda x, **k: sc.glu((x, np.ones_like(x)), **k),
    "relu_backward": lambda x, **k: sc.relu_backward(np.ones_like(x), x, **k),
    "sigmoid_backward": lambda x, **k: sc.sigmoid_backward(np.ones_like(x), x, **k),
    "log_sigmoid_backward": lambda x, **k: sc.log_sigmoid_backward(np.ones_like(x), x, **k),
    "softplus_backward": lambda x, **k: sc.softplus_backward(np.ones_like(x), x, **k),
}
ONE_RESULT = {**ROWS, **FOLDS, **MAPS}
MASKED = [name for name in (*ROWS, *FOLDS) if name != "hardmax"]


def sample(shape, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.permutation(np.linspace(-3, 3, int(np.prod(shape)))).reshape(shape).astype(dtype)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def operands(name):
    parameters = inspect.signature(getattr(sc, name)).parameters.values()
    return sum(p.default is p.empty for p in parameters)


def valid_arguments(name, x):
    """Valid required arguments of a function, for the default axis."""
    y = np.zeros(x.shape[:-1], x.dtype)
    return {"max_backward": (y, x), "logsumexp_backward": (y, x, y)}.get(name, (x,) * operands(name))


def read_only(y):
    y = y.copy()
    y.flags.writeable = False
    return y
