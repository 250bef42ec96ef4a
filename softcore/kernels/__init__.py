"""The compiled kernels: one extension module per instruction set, all importable side by side.

``core`` is the module that the ops run on: the best this CPU supports, or the one that the environment variable ``SOFTCORE_ISA``
names. Each module offers the same functions; see :mod:`softcore.ops` for how they are called.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from softcore import planner

# Slowest first. On x86-64 they are the levels v2, v3 and v4 of the psABI; elsewhere there is only the first.
_MODULES = {"base": "cpu_base", "avx2": "cpu_avx2", "avx512": "cpu_avx512"}
_elsewhere = None  # see set_elsewhere


def available() -> tuple[str, ...]:
    """The instruction sets that are both built and supported by this CPU, slowest first."""
    return tuple(isa for isa in _MODULES if isa in _supported and _built(isa))


def load(isa: str):
    """The extension module of one instruction set.

    Raises
    ------
    ImportError
        If there is no such instruction set, the CPU lacks it, or it was not built.
    """
    # Importing a module may already execute its instructions, so the CPU is asked first.
    if not isinstance(isa, str) or isa not in _MODULES:
        problem = f"{isa!r} is not an instruction set that softcore knows"
    elif isa not in _supported:
        problem = f"this CPU does not support {isa!r}"
    elif not _built(isa):
        problem = f"{isa!r} was not built"
    else:
        module = import_module(f"{__name__}.{_MODULES[isa]}")
        module.configure(planner.choose, planner.SMALL)
        module.configure_windows(planner.choose_windows)
        module.configure_attention(planner.choose_attention)
        module.configure_elsewhere(_elsewhere)
        return module
    raise ImportError(f"softcore: {problem}; available here: {', '.join(available())}")


def set_elsewhere(ask):
    """Have the short way of an op ask elsewhere, as ``ask(op, inputs, axis, scale, out, option)``, where it is given no ndarrays."""
    global _elsewhere
    _elsewhere = ask
    core.configure_elsewhere(ask)


def core_of(a):
    """What runs an op on an array: the compiled kernels of `core`, or for a view of a pyopencl array the OpenCL core."""
    return core if isinstance(a, np.ndarray) else a.core


@contextmanager
def use(isa: str):
    """Run the ops on the module of one instruction set within a ``with`` block, in the whole process. For tests and benchmarks."""
    global core
    before, core = core, load(isa)
    try:
        yield core
    finally:
        core = before


def _built(isa):
    return find_spec(f"{__name__}.{_MODULES[isa]}") is not None


def _choose():
    forced = os.environ.get("SOFTCORE_ISA")
    if not forced:
        return load(available()[-1])
    try:
        return load(forced)
    except ImportError as error:
        raise ImportError(f"{error} (the environment variable SOFTCORE_ISA is {forced!r})") from None


if not _built("base"):
    raise ImportError(
        f"softcore: its compiled kernels are missing from {os.path.dirname(__file__)}, which Python imported. Of a source folder, "
        "`pip install --editable .` builds them there; a softcore that is installed elsewhere is found from any other folder"
    )
# The base module runs on every CPU of the architecture, and is asked what else this one can do.
_supported: tuple[str, ...] = import_module(f"{__name__}.cpu_base").supported()
core = _choose()
