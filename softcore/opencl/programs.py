"""Programs: which op is in which file, what a kernel is compiled with, and the programs and kernels that were made.

A program is one kernel, compiled for the dtypes and the layout of a call.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np

from softcore.opencl import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_KERNELS = Path(__file__).parents[1] / "kernels"
_FILES = {
    "softmax": ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "logsumexp", "logsumexp_backward"),
    "max": ("max", "argmax", "max_with_argmax", "hardmax", "max_backward", "is_max"),
    "map": (
        *("copy", "maximum", "maximum_backward", "maximum_backward_sum", "relu", "relu_backward", "step"),
        *("sigmoid", "sigmoid_backward", "log_sigmoid", "log_sigmoid_backward", "softplus", "softplus_backward"),
    ),
    "gates": ("gate", "gate_backward", "gate_backward_sum", "glu", "glu_backward"),
    "mixtures": ("sum", "dot", "product", "largest", "take", "spread"),
    "losses": ("cross_entropy", "binary_cross_entropy"),
    "pool": ("max_pool", "max_pool_backward", "max_unpool", "avg_pool", "avg_pool_backward", "softmax_pool", "softmax_pool_backward"),
    "attention": ("attend", "query_gradients", "key_gradients", "bias_gradients", "sink_gradients", "merge_parts"),
}
WITH_PLACES = {"argmax", "max_with_argmax", "hardmax", "max_backward"}  # which are counted in integers as wide as elements
IN_COLUMNS = {*_FILES["softmax"], "max", *WITH_PLACES, "sum", "dot"}  # that can take rows side by side
IN_PARTS = {"softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "logsumexp", "max", "argmax", "max_with_argmax"}
_BEHIND = {"softmax": ("state",), "losses": ("state",)}  # files that others are compiled behind
_FILE_OF = {op: file for file, ops in _FILES.items() for op in ops}
ELEMENTWISE = {*_FILES["map"], *_FILES["gates"], "product", "binary_cross_entropy"} - {"maximum_backward_sum", "gate_backward_sum"}
# Kernels that are no public function.
_PARTS = {"copy", "is_max", "maximum_backward_sum", "gate_backward_sum", *_FILES["mixtures"], *_FILES["attention"]}
BY_NUMBER = {"largest", "take", "spread"}  # kernels whose option is a number of elements, which they are not compiled for
#: Public functions that take pyopencl arrays.
OPS = frozenset(_FILE_OF) - _PARTS | {
    *("softmax_gate", "softmax_gate_backward", "topk_gate", "topk_gate_backward"),
    *("attention", "attention_backward", "merge_attention", "KVCache.append"),
    *(f"{op}{end}" for op in _FILES["losses"] for end in ("_with_grad", "_backward")),
}
# Ops with an optional operand: how many inputs they have with it, and what kernels call that.
_OPTIONAL = {"logsumexp": (2, "WEIGHTED"), "logsumexp_backward": (4, "WEIGHTED"), "max_backward": (3, "INDEXED")}

# How each dtype is named and read in OpenCL C.
_TYPES = {
    "bool": "uchar",
    "int8": "char",
    "uint8": "uchar",
    "int16": "short",
    "uint16": "ushort",
    "int32": "int",
    "uint32": "uint",
    "int64": "long",
    "uint64": "ulong",
    "float16": "half",
    "bfloat16": "ushort",
    "float32": "float",
    "float64": "double",
}
_SIGNED = {1: "char", 2: "short", 4: "int", 8: "long"}


def optional(op, inputs):
    """What the kernel calls the optional operand of the op, where it is among the inputs."""
    count, name = _OPTIONAL.get(op, (0, None))
    return name if len(inputs) == count else None


def common_options(device, op, storage, inputs, outputs):
    """The dtypes of arithmetic and of scalar arguments, and what every kernel is compiled with."""
    facts = runtime.facts(device)
    if not facts.double and "float64" in [storage.name, *(a.dtype.name for a in (*inputs, *outputs))]:
        raise TypeError(f"{op}: the device {device.name.strip()!r} has no float64, in which this call computes")
    accumulator = np.dtype(np.float32) if storage.name in ("float16", "bfloat16") else storage
    real = accumulator if accumulator.kind == "f" else np.dtype(np.float32)
    options = {
        f"OP_{op}": 1,
        "INPUTS": len(inputs),
        "OUTPUTS": len(outputs),
        "ACC": _TYPES[accumulator.name],
        "SIGNED": _SIGNED[accumulator.itemsize],
        "REAL": _TYPES[real.name],
        "LEAST": "-INFINITY" if accumulator.kind == "f" else _least(accumulator),
        {"f": "FLOAT", "d": "DOUBLE"}.get(accumulator.char, "INTEGER"): 1,
    }
    if facts.fused:
        options["FUSED"] = 1
    for name, way, arrays in (("IN", "READ", inputs), ("OUT", "WRITE", outputs)):
        for i, a in enumerate(arrays):
            options |= {f"{name}{i}": _TYPES[a.dtype.name], f"{way}{i}": conversion(a.dtype, accumulator)}
    return accumulator, real, options


def conversion(dtype, accumulator):
    """How elements in memory become the accumulator's, or those become them."""
    if dtype.name in ("float16", "bfloat16"):
        return {"float16": "half", "bfloat16": "bfloat16"}[dtype.name]
    if _TYPES[dtype.name] == _TYPES[accumulator.name]:
        return "same"
    return "each" if dtype.itemsize > accumulator.itemsize else "convert"  # a vector of them would have more than 256 bits


def _least(dtype):
    """The least value of an integer dtype, or False, in OpenCL C."""
    least = 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)
    return f"({least + 1}-1)" if least else "0"  # the magnitude of the least long is no long


def defined(options):
    """Options as a compiler takes them, and as programs are told apart."""
    return tuple([f"-D{name}={value}" for name, value in options.items()])


_programs: dict[tuple, Any] = {}  # (context, file, options): pyopencl.Program


class _Thread(threading.local):
    def __init__(self):
        self.kernels = {}  # a kernel holds its arguments, so that no two threads may share one


_thread = _Thread()


def _program(context, file, options):
    key = (context.int_ptr, file, options)
    program = _programs.get(key)
    if program is None:
        import pyopencl as cl

        source = "\n".join([(_KERNELS / f"{name}.cl").read_text() for name in ("common", *_BEHIND.get(file, ()), file)])
        with runtime.lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            try:
                program = cl.Program(context, source).build([*options, "-w", *_rounding(context.devices[0]), *_contraction(context.devices[0])])
            except cl.RuntimeError as error:
                if "unknown target CPU" not in str(error):
                    raise
                raise RuntimeError(
                    f"softcore.opencl: the compiler of {context.devices[0].platform.version} does not know this CPU; "
                    "install a newer runtime, such as pocl-opencl-icd or intel-opencl-rt"
                ) from error
        _programs[key] = program
    return program


def _contraction(device):
    # fma is a function there, which is called for each vector; what is contracted has the same bits.
    return ["-D", "CONTRACTS"] if runtime.PAST.search(device.platform.version) else []


def _rounding(device):
    import pyopencl as cl

    # A quotient of floats may be off by 2.5 units otherwise.
    exact = device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
    return ["-cl-fp32-correctly-rounded-divide-sqrt"] if exact else []


def kernel(context, op, options, size):
    """The kernel of an op, of this thread; its first argument takes `size` bytes, the others are buffers."""
    key = (context.int_ptr, op, options)
    kernel = _thread.kernels.get(key)
    if kernel is None:
        import pyopencl as cl

        kernel = cl.Kernel(_program(context, _FILE_OF[op], options), f"softcore_{op}")
        kernel.set_scalar_arg_dtypes([np.dtype(f"V{size}")] + [None] * (kernel.num_args - 1))
        _thread.kernels[key] = kernel
    return kernel
