"""softcore: a compiled numerical core for max, softmax and gates. NumPy arrays in, NumPy arrays out, gradients included."""

from softcore import ops
from softcore.about import info
from softcore.ops import *  # noqa: F403
from softcore.threads import get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    *ops.__all__,
    "__version__",
    "compat",
    "get_num_threads",
    "info",
    "num_threads",
    "plan",
    "reference",
    "set_num_threads",
    "testing",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from softcore import compat, reference, testing
    from softcore.planner import plan


def __getattr__(name):
    # Imported at first use: calling an op needs none of them, and `import softcore` is to be quick.
    from importlib import import_module

    if name in ("compat", "reference", "testing"):
        return import_module(f"softcore.{name}")
    if name == "plan":
        return import_module("softcore.planner").plan
    raise AttributeError(f"module 'softcore' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
