"""The OpenCL core: devices, queues, programs and launches. The kernels are the ``.cl`` files in ``softcore/kernels``.

Nothing here touches a device before it is asked to: neither importing softcore nor importing this module does. Devices are
ranked, GPUs first, and never asked about on the terminal. The environment variable ``SOFTCORE_OPENCL`` names a device or a platform
by a part of its name. Oclgrind, a simulator a thousand times slower than a device, is left out unless so named.
"""

from __future__ import annotations

import atexit
import os
import re
import struct
import threading
import warnings
from collections import deque
from math import isfinite, prod
from pathlib import Path

import numpy as np

from softcore import planner, threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import pyopencl
    import pyopencl.array
    import pyopencl.tools

__all__ = ["available", "devices", "memory_pool", "queue", "to_device", "use"]


# ----------------------------------------------------------------------------------------------------------------- devices


def devices() -> list[pyopencl.Device]:
    """The OpenCL devices, best first: GPUs, accelerators, CPUs; of equals those with more compute units.

    Returns
    -------
    list of pyopencl.Device
        Those that ``SOFTCORE_OPENCL`` names, if it is set. Empty where pyopencl is not installed or finds no device.

    Examples
    --------
    >>> import softcore as sc
    >>> isinstance(sc.opencl.devices(), list)
    True
    """
    try:
        cl = _pyopencl()
    except ImportError:
        return []
    _alive()
    global _touched
    _touched = True
    named = os.environ.get("SOFTCORE_OPENCL", "").lower()
    found = []
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # there is none
        return []
    for platform in platforms:
        try:
            of_platform = platform.get_devices()
        except cl.Error:  # a platform without devices
            continue
        for device in of_platform:
            if named in f"{platform.name} {device.name}".lower() and (named or "oclgrind" not in platform.name.lower()):
                found.append(device)
    kinds = (cl.device_type.GPU, cl.device_type.ACCELERATOR, cl.device_type.CPU)
    return sorted(found, key=lambda d: (next((i for i, k in enumerate(kinds) if d.type & k), 3), -d.max_compute_units))


def available() -> bool:
    """Whether there is an OpenCL device to run on.

    Examples
    --------
    >>> import softcore as sc
    >>> sc.opencl.available() == bool(sc.opencl.devices())
    True
    """
    return bool(devices())


def use(device: pyopencl.Device | str) -> pyopencl.Device:
    """Choose the device that `queue` and `to_device` stand for from now on.

    Parameters
    ----------
    device : pyopencl.Device or str
        One of `devices`, or a part of the name of it or of its platform.

    Returns
    -------
    pyopencl.Device
        The device.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If no device has that name.
    RuntimeError
        If there is no device at all.

    Examples
    --------
    >>> import softcore as sc
    >>> sc.opencl.use("GeForce")  # doctest: +SKIP
    <pyopencl.Device 'NVIDIA GeForce RTX 4090' on 'NVIDIA CUDA' at 0x55d8c6a1a2c0>
    """
    if not isinstance(device, (str, _pyopencl().Device)):
        raise TypeError(f"opencl.use: device is a {type(device).__name__}, it must be a pyopencl.Device or a str")
    if isinstance(device, str):
        every = _some_devices()
        found = [d for d in every if device.lower() in f"{d.platform.name} {d.name}".lower()]
        if not found:
            raise ValueError(f"opencl.use: no device is named {device!r}; there are {', '.join(repr(d.name) for d in every)}")
        device = found[0]
    global _queue, _context
    cl = _pyopencl()
    _context = cl.Context([device])
    _queue = cl.CommandQueue(_context, device)
    return device


def queue() -> pyopencl.CommandQueue:
    """The queue of the device in use: an in-order one, always the same until `use` chooses another device.

    Raises
    ------
    ImportError
        If pyopencl is not installed.
    RuntimeError
        If there is no device, or after ``os.fork()`` in a process that had used one.

    Examples
    --------
    >>> import softcore as sc
    >>> sc.opencl.queue().device in sc.opencl.devices()  # doctest: +SKIP
    True
    """
    _alive()
    if _queue is None:
        with _lock:
            if _queue is None:
                use(_some_devices()[0])
    return _queue


def memory_pool() -> pyopencl.tools.MemoryPool:
    """An allocator for arrays on `queue`, always the same until `use` chooses another device: it keeps the memory of arrays that are gone.

    Results come from the allocator of the first pyopencl array of a call. So where the first arrays are of the pool, no step of a loop
    asks the device for memory that the step before it had. ``memory_pool().free_held()`` gives back what no array has.

    Raises
    ------
    ImportError, RuntimeError
        As `queue`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = sc.opencl.to_device(np.zeros((2, 4)), allocator=sc.opencl.memory_pool())  # doctest: +SKIP
    >>> y = sc.softmax(x)  # doctest: +SKIP
    >>> sc.opencl.memory_pool().active_blocks  # doctest: +SKIP
    2
    """
    global _pool
    own = queue()
    with _lock:
        if _pool is None or _pool[0] is not own:
            import pyopencl.tools

            _pool = own, pyopencl.tools.MemoryPool(pyopencl.tools.ImmediateAllocator(own))
    return _pool[1]


def to_device(a: Any, *, allocator: Any = None) -> pyopencl.array.Array:
    """A copy of an array on the device in use.

    Parameters
    ----------
    a : array_like
        Of any shape, layout and supported dtype.
    allocator : callable, optional
        Where its memory comes from, such as `memory_pool()`; the default asks the device for it.

    Returns
    -------
    pyopencl.array.Array
        Of the same shape and values, contiguous, on `queue`.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> x = sc.opencl.to_device(np.zeros((2, 4)))  # doctest: +SKIP
    >>> sc.softmax(x).get()  # doctest: +SKIP
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """
    from softcore import check

    if type(a).__module__.partition(".")[0] == "pyopencl":
        raise TypeError("opencl.to_device: a is a pyopencl array already")
    (a,) = check.arrays("opencl.to_device", a=a)
    a = np.asarray(a, a.dtype.newbyteorder("="), order="C")  # what is not C-contiguous would arrive in another order
    _pyopencl()
    import pyopencl.array

    return pyopencl.array.to_device(queue(), a, allocator=allocator)


_EXTRA = "install it with `pip install softcore[opencl]`, which brings PoCL, a device for any CPU"
_lock = threading.RLock()
_queue = None
_pool = None  # (queue, pool)
_context = None  # of the queue, which under Intel's runtime does not keep it alive
_touched = False  # devices were enumerated in this process
_forked = False  # or in one that it was forked from


def _pyopencl():
    try:
        import pyopencl
    except ImportError as error:
        raise ImportError(f"softcore.opencl needs pyopencl: {_EXTRA}") from error
    return pyopencl


def _some_devices():
    _pyopencl()
    found = devices()
    if not found:
        named = os.environ.get("SOFTCORE_OPENCL")
        raise RuntimeError(f"softcore.opencl found no OpenCL device{f' named {named!r} (SOFTCORE_OPENCL)' if named else ''}: {_EXTRA}")
    return found


def _after_fork():
    global _forked
    _forked = _touched


def _alive():
    # Runtimes keep threads and locks that a fork does not take along: PoCL waits for them for ever.
    if _forked or threads.devices_lost:
        raise RuntimeError("softcore.opencl: OpenCL does not survive os.fork(); start processes by 'spawn', or fork before its first use")


os.register_at_fork(after_in_child=_after_fork)


# ---------------------------------------------------------------------------------------------------------------- programs

_KERNELS = Path(__file__).parent / "kernels"
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
_WITH_PLACES = {"argmax", "max_with_argmax", "hardmax", "max_backward"}  # which are counted in integers as wide as elements
_IN_COLUMNS = {*_FILES["softmax"], "max", *_WITH_PLACES, "sum", "dot"}  # that can take rows side by side
_IN_PARTS = {"softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "logsumexp", "max", "argmax", "max_with_argmax"}
_BEHIND = {"losses": ("softmax",)}  # files that others are compiled behind
_FILE_OF = {op: file for file, ops in _FILES.items() for op in ops}
_ELEMENTWISE = {*_FILES["map"], *_FILES["gates"], "product", "binary_cross_entropy"} - {"maximum_backward_sum", "gate_backward_sum"}
# Kernels that are no public function.
_PARTS = {"copy", "is_max", "maximum_backward_sum", "gate_backward_sum", *_FILES["mixtures"], *_FILES["attention"]}
_BY_NUMBER = {"largest", "take", "spread"}  # kernels whose option is a number of elements, which they are not compiled for
#: Public functions that take pyopencl arrays.
OPS = frozenset(_FILE_OF) - _PARTS | {
    *("softmax_gate", "softmax_gate_backward", "topk_gate", "topk_gate_backward"),
    *("attention", "attention_backward", "merge_attention", "KVCache.append"),
    *(f"{op}{end}" for op in _FILES["losses"] for end in ("_with_grad", "_backward")),
}
# Ops with an optional operand: how many inputs they have with it, and what kernels call that.
_OPTIONAL = {"logsumexp": (2, "WEIGHTED"), "logsumexp_backward": (4, "WEIGHTED"), "max_backward": (3, "INDEXED")}
_DIMS = 8  # that a kernel can walk over: DIMS in common.cl

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

_programs: dict[tuple, Any] = {}  # (context, file, options): pyopencl.Program
_launches: dict[tuple, tuple] = {}  # the launches of a call and the states between them, by all that it depends on; and replay.Replay


class _Thread(threading.local):
    call = None  # the replay.Call that is watched, as it goes the long way

    def __init__(self):
        self.kernels = {}  # a kernel holds its arguments, so that no two threads may share one


_thread = _Thread()


def _way(dtype, accumulator):
    """How elements in memory become the accumulator's, or those become them."""
    if dtype.name in ("float16", "bfloat16"):
        return {"float16": "half", "bfloat16": "bfloat16"}[dtype.name]
    if _TYPES[dtype.name] == _TYPES[accumulator.name]:
        return "same"
    return "each" if dtype.itemsize > accumulator.itemsize else "convert"  # a vector of them would have more than 256 bits


def _program(context, file, options):
    key = (context.int_ptr, file, options)
    program = _programs.get(key)
    if program is None:
        cl = _pyopencl()
        source = "\n".join([(_KERNELS / f"{name}.cl").read_text() for name in ("common", *_BEHIND.get(file, ()), file)])
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            try:
                program = cl.Program(context, source).build([*options, *_rounding(context.devices[0]), *_contraction(context.devices[0])])
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
    return ["-D", "CONTRACTS"] if _PAST.search(device.platform.version) else []


def _rounding(device):
    # A quotient of floats may be off by 2.5 units otherwise.
    exact = device.single_fp_config & _pyopencl().device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
    return ["-cl-fp32-correctly-rounded-divide-sqrt"] if exact else []


def _kernel(context, op, options, size):
    """The kernel of an op, of this thread; its first argument takes `size` bytes, the others are buffers."""
    key = (context.int_ptr, op, options)
    kernel = _thread.kernels.get(key)
    if kernel is None:
        cl = _pyopencl()
        kernel = cl.Kernel(_program(context, _FILE_OF[op], options), f"softcore_{op}")
        kernel.set_scalar_arg_dtypes([np.dtype(f"V{size}")] + [None] * (kernel.num_args - 1))
        _thread.kernels[key] = kernel
    return kernel


# ---------------------------------------------------------------------------------------------------------------- launches


def run(op, storage, inputs, outputs, nouter, mask=None, scale=1.0, option=0, shape=None, numbers=None, names=()):
    """Run one kernel over arranged views, as ``kernels.core.run`` does over ndarrays.

    Parameters
    ----------
    op : str
        The kernel's name.
    storage : numpy.dtype
        The dtype it computes in.
    inputs, outputs : tuple of View
        An input may be None. Those with more axes than `nouter` are whole rows, the others have one value a row.
    nouter : int
        How many axes come before those along a row.
    mask : View, optional
        True where an element takes part.
    shape : tuple of int, optional
        The shape of whole rows, where there are rows of another length beside them.
    numbers : tuple of float, optional
        What the kernel takes in place of the parts of the scale.
    names : tuple of str, optional
        What else to define as it is compiled.
    """
    operands = (*inputs, *outputs, mask)
    arrays = [a.array for a in operands if a is not None]
    queue = arrays[0].queue
    described = tuple([None if a is None else (a.dtype, a.offset, a.shape, a.strides) for a in operands])
    key = (op, storage, described, len(inputs), nouter, scale, option, shape, numbers, names)
    launches, states = _once(key, _prepare, queue, op, storage, inputs, outputs, nouter, mask, scale, option, shape, numbers, names)
    if states:
        arrays.append(type(outputs[0]).empty(*states, outputs[0]).array)
    for launch in launches:
        _launch(queue, op, launch, arrays)


def _once(key, prepare, queue, *arguments):
    """What `prepare` makes of a queue and arguments that the key tells apart."""
    key = (queue.int_ptr, key)
    kept = _launches.get(key)
    if kept is None:
        kept = _keep_launches(key, (prepare(queue, *arguments), queue))  # which stays, so that no other gets its address
    return kept[0]


def _keep_launches(key, kept):
    if len(_launches) >= 4096:
        _launches.clear()
    _launches[key] = kept
    return kept


# Steps of a call that goes the long way, for replay.py to learn from.


def watch(call):
    _thread.call = call


def begun(op, operands):
    if _thread.call is not None and not _thread.call.begin(op, operands):
        _thread.call = None


def ended():
    call, _thread.call = _thread.call, None
    if call is not None and call.replay is not None:
        _keep_launches(call.key, call.replay)


def in_place(outputs, read, dtypes, same=True):
    """Whether results can be written to `outputs` at once: asked of each view in turn."""
    return False


def run_loss(op, storage, inputs, outputs, nouter, sums, keep, spread, z, weights, factor, ignored):
    """Run a loss, as ``kernels.core.run_loss`` does; of one that is summed, return the parts of the sum."""
    logits, target = inputs[:2]
    value, gradient = outputs
    kernel = op.removesuffix("_with_grad").removesuffix("_backward")
    soft = kernel == "cross_entropy" and target.dtype.kind not in "iu"
    rest = {name: a for name, a in zip(("WEIGHT", "POS_WEIGHT", "DLOSS"), inputs[2:]) if a is not None}
    names = [f"HAS_{name}=1" for name in rest] + [f"I_{name}={2 + i}" for i, name in enumerate(rest)]
    parts = None
    if sums:
        by_row = kernel == "cross_entropy"
        count = prod(logits.shape[:nouter]) if by_row else _units(logits.shape, [*inputs, gradient], gradient or logits)
        parts = type(logits).empty((count,), np.dtype(np.float32) if storage.itemsize == 2 else storage, logits)
        # Those of chunks have no place among the elements.
        value = parts.reshape(logits.shape[:nouter]) if by_row else type(logits)(parts.array, logits.shape, (0,) * logits.ndim)
    given = {"VALUE": value is not None, "GRADIENT": gradient is not None, "SOFT": soft, "SHARED_OUT": soft or spread != 0, "SUMS": sums}
    names += [f"{name}=1" for name, is_so in given.items() if is_so]
    results = tuple([a for a in (value, gradient) if a is not None])
    numbers, operands = (keep, spread, z, weights, factor), (logits, target, *rest.values())
    run(kernel, storage, operands, results, nouter, option=ignored, shape=logits.shape, numbers=numbers, names=tuple(names))
    return parts


def _units(shape, operands, along):
    """How many chunks an element-wise op works on."""
    outer, length, _ = _collapsed("", shape, len(shape), [a for a in operands if a is not None], along)
    return prod(outer) * -(-length[0] // planner.CHUNK)


_STRETCH = 32  # vectors side by side that a work-item of a CPU takes before it asks where the next are


def pool(op, storage, inputs, outputs, axes, padding, dry=False):
    """Run one kernel on windows, as ``kernels.core.pool`` does; sums are taken in float64 where the device has it."""
    empty, double = type(outputs[0]).empty, _facts(outputs[0].array.queue.device).double
    if op == "max_pool_backward" and outputs[0].dtype.itemsize == 2:  # rounded once
        sums = empty(outputs[0].shape, np.dtype(np.float32), outputs[0])
        pool(op, sums.dtype, inputs, (sums,), axes, padding)
        np.copyto(outputs[0], sums)
        return
    options = {}
    if not op.startswith("max"):
        options = {"ROUNDED": 1} if double and storage.itemsize < 8 else {}
        storage = np.dtype(np.float64 if double or storage.itemsize == 8 else np.float32)
    elif len(outputs) == 2 and storage.itemsize < 4 and storage.kind in "biu":
        storage = np.dtype(np.int32)  # as wide as the places
    elif op == "max_unpool" and storage.itemsize == 2:
        storage = np.dtype(np.uint16)  # bits are put as they are
        options = {"IN0": "ushort", "READ0": "same", "OUT0": "ushort", "WRITE0": "same"}
    if op == "softmax_pool_backward":
        # What all elements of a window ask for, in the order of the memory of x.
        dy, x = inputs
        order = (0, 2, 3, 4, 1) if _steps(op, x)[1] == 1 else (0, 1, 2, 3, 4)
        states = [empty(tuple([dy.shape[i] for i in order]), storage, dy).transpose(np.argsort(order)) for _ in range(3)]
        _run_windows("softmax_pool", storage, (x,), states, axes, padding, options)
        inputs = (dy, x, *states)
    _run_windows(op, storage, inputs, outputs, axes, padding, options)


def _run_windows(op, storage, inputs, outputs, axes, padding, options):
    """Run one kernel on windows in this dtype, compiled with these options besides."""
    operands = (*inputs, *outputs)
    arrays = [a.array for a in operands]
    queue = arrays[0].queue
    facts = _facts(queue.device)
    planes = op in ("max_pool_backward", "max_unpool")
    if planes:
        axes = [(size, count, 1, 1, 1, 0, 0) for size, count in zip(outputs[0].shape[2:], inputs[0].shape[2:])]
    accumulator, _, common = _options(queue.device, op, storage, inputs, outputs)
    tile = planner.choose_opencl(1 << 10, accumulator.itemsize, facts, any(a.dtype != accumulator for a in operands))
    options = common | {"VEC": tile.vec, "WG": tile.wg, "ROWS": 1} | ({"LOOSE": 1} if facts.cpu else {}) | options
    strides = [_steps(op, a) for a in operands]
    shape, along, stretch = list(outputs[0].shape), 1, 1
    if planes:
        shape[2:] = 1, 1, 1
        joined = [_joined([(n, [step]) for n, step in zip(a.shape[2:], s[2:])])[1] for a, s in zip(operands, strides)]
        if all(len(steps) <= 1 for steps in joined):
            options["JOINED"] = 1 if all(steps in ([], [[1]]) for steps in joined) else 2
            strides = [[*s[:4], *steps[0]] if steps else s for s, steps in zip(strides, joined)]
    elif facts.cpu:
        side, along, beside = _beside(op, outputs[0].shape, strides, axes, len(inputs), tile.vec)
        stretch = _STRETCH * tile.vec
        shape[side] = -(-along // stretch)
        options |= beside
    task = struct.pack(
        f"@8q{9 * len(operands)}q22q",
        *(prod(shape), *shape, along, stretch),
        *[number for a, s in zip(operands, strides) for number in (a.offset // a.dtype.itemsize, *_padded(s))],
        *[number for a in axes for number in a],
        padding,
    )
    groups = min(tile.groups, -(-prod(shape) // tile.wg))
    _launch(queue, op, (queue.context, _defined(options), task, (groups * tile.wg, 1), (tile.wg, 1)), arrays)


def _beside(op, shape, strides, axes, ninputs, vec):
    """Along which dimension a work-item takes vectors, how many elements there are, and what a kernel is compiled with for it."""
    gradient = op.endswith("backward")
    elements = {1, len(strides) - 1} if gradient else {0}  # the operands that have those, and not windows
    steps = strides[min(elements)]
    if gradient:  # elements that lie the stride of windows apart
        shape = (*shape[:2], *[-(-n // a[3]) for n, a in zip(shape[2:], axes)])
    if steps[1] == 1 and shape[1] >= vec:  # channels that are neighbours in memory
        side = 1
    else:  # columns, or where there is the most room
        side = max(range(5), key=lambda d: (min(shape[d], 4 * vec), d))
    stride = axes[side - 2][3] if side >= 2 else 1
    options = {"SIDE": side}
    for i, s in enumerate(strides):
        apart = s[side] * (stride if i in elements else 1)
        options[f"APART_IN{i}" if i < ninputs else f"APART_OUT{i - ninputs}"] = apart if apart in (1, 2) else 0
    if gradient and stride == 2 and options["APART_OUT0"] == 2:
        options["PAIRS"] = 1
    return side, shape[side], options


def _launch(queue, op, launch, arrays):
    global _touched
    _alive()
    _touched = True
    if _thread.call is not None and not _thread.call.launch(op, launch, arrays):
        _thread.call = None
    context, options, task, grid, group = launch
    kernel = _kernel(context, op, options, len(task))
    buffers = [a.base_data for a in arrays]
    event = kernel(queue, grid, group, task, *buffers, wait_for=[event for a in arrays for event in a.events])
    for a in arrays:
        a.events[:] = [event]  # it waits for those that were there
    _keep(event, buffers)


_pending = deque()  # (event, buffers) of kernels that may not have finished: some runtimes crash if their buffers are freed before


def _keep(event, buffers):
    while _pending and _pending[0][0].command_execution_status <= 0:
        try:
            _pending.popleft()
        except IndexError:  # another thread was faster
            break
    _pending.append((event, buffers))


@atexit.register
def _finish():
    if not _forked:
        for event, _ in list(_pending):
            event.wait()


def _prepare(queue, op, storage, inputs, outputs, nouter, mask, scale, option, shape, numbers, names):
    """All that a call needs but the buffers: its launches, each ``(context, options, task, grid, group)``, and the shape and dtype
    of what the first leaves to the second, where rows are taken in parts.
    """
    device = queue.device
    inputs = [a for a in inputs if a is not None]
    outputs = [a for a in outputs if a is not None]
    operands = [*inputs, *outputs, *([] if mask is None else [mask])]
    accumulator, real, options = _options(device, op, storage, inputs, outputs)
    ndim = max([a.ndim for a in operands])
    shape = shape or next(a.shape for a in operands if a.ndim == ndim)
    elementwise = op in _ELEMENTWISE
    if elementwise:
        nouter = ndim
    along = next((a for a in (*outputs, *inputs) if any(a.strides)), outputs[0]) if elementwise else None
    outer, length, strides = _collapsed(op, shape, nouter, operands, along)
    rows, n = prod(outer), prod(length)
    facts = _facts(device)
    apart = (mask, outputs[0] if "SUMS=1" in names else None)  # sums have no place among the elements
    whole = [(a, s) for a, s in zip(operands, strides) if a.ndim == ndim and a not in apart]
    tile = planner.choose_opencl(n, accumulator.itemsize, facts, any(_way(a.dtype, accumulator) != "same" for a, _ in whole))
    strided = any(s[len(outer) :] != [1] for _, s in whole)
    side_by_side = bool(outer) and outer[-1] >= tile.vec and len(length) == 1 and all(s[len(outer) - 1] == 1 for _, s in whole)
    in_parts = n > planner.PART and op in _IN_PARTS and not _has_optional(op, inputs)
    columns = strided and side_by_side and facts.cpu and op in _IN_COLUMNS and not _has_optional(op, inputs) and not in_parts
    columns = columns and (op not in _WITH_PLACES or n <= np.iinfo(f"i{accumulator.itemsize}").max)
    if elementwise:
        units = rows * -(-n // planner.CHUNK)
    elif in_parts:
        units = rows * -(-n // planner.PART)
    elif columns:
        units = rows // outer[-1] * -(-outer[-1] // tile.vec)
    else:
        units = -(-rows // tile.rows)
    options |= {
        "VEC": tile.vec,
        "WG": tile.wg,
        "ROWS": 1 if elementwise or in_parts else tile.rows,
        "CHUNK": planner.CHUNK,
        "OPTION": 0 if op in _BY_NUMBER or names else int(option),
    }
    flags = {
        "MASKED": mask is not None,
        "STRIDED": strided and not columns,
        "COLUMNS": columns,
        "SCALED": scale != 1,
        "LOOSE": facts.cpu,
        "KEEP": op == "softmax" and columns and outputs[0].dtype == accumulator,
    }
    if elementwise and strided:  # along one dimension
        for name, step in (("FOLLOWING", 1), ("SPREAD_OUT", 0)):
            options[name] = sum([(s[-1] == step) << i for i, s in enumerate(strides)])
    keeps = op == "softmax" or (op == "cross_entropy" and "GRADIENT=1" in names)
    if keeps and facts.cpu and not columns and n <= planner.PART:
        kept = planner.opencl_kept(n, accumulator.itemsize, facts)
        options |= {"KEPT": kept // tile.vec} if kept else {}
    if _has_optional(op, inputs):
        flags[_OPTIONAL[op][1]] = True
    options |= {name: 1 for name, is_set in flags.items() if is_set} | dict(name.partition("=")[::2] for name in names)
    # A sign, a zero and the like are exact as factors; what is left of the scale comes in two parts.
    if numbers is None:
        factor, positive = (1.0 if scale > 0 else -1.0, abs(scale)) if isfinite(scale) and scale != 0 else (scale, 1.0)
        high = float(real.type(positive))
        numbers = (factor, high, positive - high, scale)
    task = struct.pack(
        f"@qqii8qq{9 * len(operands)}q6{real.char}qq",
        *(rows, n, len(outer), len(length)),
        *_padded([*outer, *length]),
        int(option),
        *[number for a, s in zip(operands, strides) for number in (a.offset // a.dtype.itemsize, *_padded(s))],
        *(*numbers, *(0.0,) * (6 - len(numbers))),
        int(facts.cpu and sum([prod(a.shape) * a.dtype.itemsize for a in (*inputs, *outputs)]) >= planner.LAST_LEVEL),
        planner.opencl_batch(op, n, accumulator.itemsize),
    )
    groups = min(tile.groups, units)
    group = (tile.wg, options["ROWS"])
    stages = [{"PART": planner.PART, "STAGE": stage} for stage in (1, 2)] if in_parts else [{}]
    launches = [(queue.context, _defined(options | stage), task, (tile.wg, groups * group[1]), group) for stage in stages]
    return launches, ((4 * units,), accumulator) if in_parts else None


def _options(device, op, storage, inputs, outputs):
    """The dtypes of arithmetic and of scalar arguments, and what every kernel is compiled with."""
    facts = _facts(device)
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
            options |= {f"{name}{i}": _TYPES[a.dtype.name], f"{way}{i}": _way(a.dtype, accumulator)}
    return accumulator, real, options


def _defined(options):
    return tuple([f"-D{name}={value}" for name, value in options.items()])


def _steps(op, a):
    """Strides in elements."""
    item = a.dtype.itemsize
    if a.offset % item or any(s % item for s in a.strides):
        raise ValueError(f"{op}: the elements of a pyopencl array of {a.dtype} lie at fractions of {item} bytes, they must not")
    return [s // item for s in a.strides]


def _has_optional(op, inputs):
    return op in _OPTIONAL and len(inputs) == _OPTIONAL[op][0]


def _least(dtype):
    """The least value of an integer dtype, or False, in OpenCL C."""
    least = 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)
    return f"({least + 1}-1)" if least else "0"  # the magnitude of the least long is no long


def _padded(numbers):
    return (*numbers, *(0,) * (_DIMS - len(numbers)))


def _collapsed(op, shape, nouter, operands, along):
    """The outer dimensions, those along a row, and each operand's strides in elements; dimensions that follow each other are joined.

    For an element-wise op, a row is what is contiguous in `along`.
    """
    strides = [_steps(op, a) for a in operands]
    strides = [steps + [0] * (len(shape) - len(steps)) for steps in strides]
    dims = sorted(range(nouter), key=lambda i: -abs((along or operands[0]).strides[i]))  # rows may come in any order, neighbours together
    outer, at_outer = _joined([(shape[i], [s[i] for s in strides]) for i in dims])
    length, at_length = _joined([(shape[i], [s[i] for s in strides]) for i in range(nouter, len(shape))])
    if along is not None and outer:
        length, at_length = [outer.pop()], [at_outer.pop()]
    if not length:
        length, at_length = [1], [[1] * len(operands)]
    if len(outer) + len(length) > _DIMS:
        raise ValueError(f"{op}: there are {len(outer) + len(length)} axes no two of which can be joined, the OpenCL core takes {_DIMS}")
    return outer, length, [list(s) for s in zip(*at_outer, *at_length)]


def _joined(dims):
    """Dimensions as (size, strides), those of one left out and those that follow each other in every operand made one."""
    sizes, strides = [], []
    for n, steps in dims:
        if n == 1:
            continue
        if sizes and all(s == t * n for s, t in zip(strides[-1], steps)):
            sizes[-1] *= n
            strides[-1] = steps
        else:
            sizes.append(n)
            strides.append(steps)
    return sizes, strides


_facts_of = {}
_PAST = re.compile(r"PoCL.*LLVM (\d|1[0-4])\b")  # compilers that inline no function, and hang on those of 512 bits


def _facts(device):
    """What the planner asks of a device."""
    facts = _facts_of.get(device.int_ptr)
    if facts is None:
        cl = _pyopencl()
        facts = planner.Device(
            cpu=bool(device.type & cl.device_type.CPU),
            units=device.max_compute_units,
            largest=device.max_work_group_size,
            double="cl_khr_fp64" in device.extensions.split(),
            fused=bool(device.single_fp_config & cl.device_fp_config.FMA),
            width=64 if device.native_vector_width_float == 16 and not _PAST.search(device.platform.version) else 32,
            local=device.local_mem_size,
        )
        _facts_of[device.int_ptr] = facts
    return facts


# --------------------------------------------------------------------------------------------------------------- attention

_BATCH = 4  # axes of a batch: LAYOUT_AXES in attention.cl


def attend(storage, arrays, how, gradients=False):
    """Run attention, or its gradients, as ``kernels.core.attend`` does: `arrays` by `Operands` of ``attention.h``, each a View."""
    q, k, v, o, lse, mask, bias, do, dq, dk, dv, _ = arrays
    if not gradients:
        _attention("attend", storage, (q, k, v), (o, lse), how, mask, bias)
        return
    saved = (q, k, v, do, lse, _delta(storage, o, do))
    _attention("query_gradients", storage, saved, (dq,), how, mask, bias)
    _attention("key_gradients", storage, saved, (dk, dv), how, mask, bias)


def bias_gradients(storage, arrays, how, queries, keys, threads=None):
    """The gradient of the bias, into the last of the arrays, as ``kernels.core.bias_gradients`` makes it."""
    q, k, v, o, lse, mask, bias, do, *_, dbias = arrays
    _attention("bias_gradients", storage, (q, k, v, do, lse, _delta(storage, o, do)), (dbias,), how, mask, bias)


def sink_gradients(storage, arrays, how):
    """The gradients of the sinks, as a View."""
    q, _, _, o, lse, _, _, do, *_ = arrays
    sinks, heads = how["sinks"], lse.ndim - 2
    delta = _delta(storage, o, do)
    dsinks = type(q).empty(sinks.shape, delta.dtype, q)
    if 0 in lse.shape:
        dsinks[...] = 0
    else:
        by_head = [np.moveaxis(a, heads, 0) for a in (lse, delta)]
        run("sink_gradients", delta.dtype, (*by_head, sinks), (dsinks,), 1)
    return dsinks


def merge_parts(arrays, threads=None):
    """Fold o and lse of each part into the last two of the arrays, which are of the result."""
    *parts, o, lse = arrays
    storage = lse.dtype
    state = ()
    for i in range(0, len(parts), 2):
        last = i == len(parts) - 2
        shapes = () if last else (o.shape, lse.shape, lse.shape)
        results = (o, lse) if last else tuple([type(o).empty(shape, storage, o) for shape in shapes])
        names = (*(["FIRST=1"] if i == 0 else []), *(["LAST=1"] if last else []))
        run("merge_parts", storage, (*parts[i : i + 2], *state), results, lse.ndim, names=names)
        state = results


def _delta(storage, o, do):
    """The sum of do * o over each row."""
    delta = type(o).empty(o.shape[:-1], storage, o)
    if o.shape[-1] == 0:
        delta[...] = 0
    elif delta.size:
        run("dot", storage, (do, o), (delta,), delta.ndim)
    return delta


def _attention(op, storage, inputs, outputs, how, mask, bias):
    """Run one kernel of attention.cl; the first inputs are q, k and v, as (batch..., heads, rows, elements)."""
    q = inputs[0]
    rest = {"BIAS": bias, "SINKS": how["sinks"] if op == "attend" else None}
    rest = {name: a for name, a in rest.items() if a is not None}
    operands = [a for a in (*inputs, *rest.values(), *outputs, mask) if a is not None]
    queries, keys, offset, table = _sequences(how, q)
    more = [a for a in (_slopes(how, storage, q), table, _sharers(how, outputs[0], q) if op == "bias_gradients" else None) if a is not None]
    arrays = [a.array for a in (*operands, *more)]
    queue = arrays[0].queue
    described = tuple([(a.dtype, a.offset, a.shape, a.strides) for a in operands])
    numbers = (how["sequences"], queries, keys, offset, how["scale"], how["softcap"], how["causal"], how["window"])
    given = (*rest, *(name for name, a in (("MASKED", mask), ("SLOPES", how["slopes"]), ("RAGGED", table)) if a is not None))
    pairs = more[-1].size if op == "bias_gradients" else 0  # says how many biases there are, beside the shapes
    key = (op, storage, described, numbers, given, pairs, outputs[-1] is None)
    launch = _once(key, _prepare_attention, queue, op, storage, inputs, rest, outputs, mask, how, numbers, given, pairs)
    if launch:
        _launch(queue, op, launch, arrays)


def _prepare_attention(queue, op, storage, inputs, rest, outputs, mask, how, numbers, given, pairs):
    """What `_launch` takes; None where there is nothing to do."""
    q, k, v = inputs[:3]
    sequences, queries, keys, offset, scale, softcap, causal, (left, right) = numbers
    heads, d, dv = k.shape[-3], q.shape[-1], v.shape[-1]
    group = q.shape[-3] // max(heads, 1)
    results = [a for a in outputs if a is not None]
    read = [*inputs, *rest.values()]
    operands = [*read, *results, *([] if mask is None else [mask])]
    facts = _facts(queue.device)
    accumulator, real, options = _options(queue.device, op, storage, read, results)
    most = keys if op == "key_gradients" else group * queries
    converted = any(_way(a.dtype, accumulator) != "same" for a in inputs)
    tile = planner.choose_opencl_attention(op, d, dv, most, accumulator.itemsize, facts, converted)
    options |= {"VEC": tile.vec, "WG": tile.wg, "ROWS": 1, "ACROSS": tile.across, "PASSING": tile.passing}
    options |= {"QW": planner.whole_width(d, tile.vec), "VW": planner.whole_width(dv, tile.vec)}
    options |= {f"I_{name}": len(inputs) + i for i, name in enumerate(rest)}
    right = 0 if causal else right
    layouts, batch = _layouts(op, operands, options.get("I_SINKS"), q.ndim - 3)
    flags = {
        **{name: True for name in ("MASKED", "SLOPES", "RAGGED") if name in given},
        "RANGED": left >= 0 or right >= 0,
        "SOFTCAP": softcap != 0,
        "HAS_LSE": op == "attend" and len(results) > 1,
        "APART": any(layouts[i][-1] != 1 for i in range(4 if len(inputs) > 3 else 3)),
        "LOOSE": facts.cpu,
    }
    blocks = -(-most // tile.across)
    units = sequences * heads * blocks
    if op == "bias_gradients":
        gradient = outputs[0]
        flags |= {"ONE_ROW": gradient.strides[-2] == 0, "ONE_COLUMN": gradient.strides[-1] == 0}
        blocks = 1 if flags["ONE_ROW"] else -(-queries // tile.across)
        biases = pairs - 1 - 2 * sequences * heads * group
        units = biases * blocks * (1 if flags["ONE_COLUMN"] else -(-keys // tile.passing))
    options |= {name: 1 for name, is_set in flags.items() if is_set}
    task = struct.pack(
        f"@{_BATCH + 10}q{(_BATCH + 4) * len(operands)}q4{real.char}",
        *(*batch, heads, group, d, dv, queries, keys, offset, left, right, blocks),
        *[number for layout in layouts for number in layout],
        *(scale, softcap, 1 / softcap if softcap else 0.0, 0.0),
    )
    return (queue.context, _defined(options), task, (units * tile.wg, 1), (tile.wg, 1)) if units else ()


def _layouts(op, operands, sinks, nbatch):
    """Of each operand the offset and the strides of the batch, the head, the row and the element; and the shape of the batch."""
    strides = [_steps(op, a) for a in operands]
    if sinks is not None:
        strides[sinks] = [0] * nbatch + strides[sinks] + [0, 0]
    shape = operands[0].shape
    batch, at_batch = _joined([(shape[i], [s[i] for s in strides]) for i in range(nbatch)])
    if len(batch) > _BATCH:
        raise ValueError(f"{op}: the batch has {len(batch)} axes no two of which can be joined, the OpenCL core takes {_BATCH}")
    missing = _BATCH - len(batch)
    layouts = [
        (a.offset // a.dtype.itemsize, *[at[i] for at in at_batch], *(0,) * missing, *(*s[nbatch:], 0)[:3])
        for i, (a, s) in enumerate(zip(operands, strides))
    ]
    return layouts, [*batch, *(1,) * missing]


def _sequences(how, q):
    """The longest sequences of queries and keys and the offset of positions, and where these differ a table of them on the device."""
    queries, keys, offset, starts_q, starts_k = (how[name] for name in ("queries", "keys", "offset", "first_q", "first_k"))
    if type(queries) is int and type(keys) is int:
        return queries, keys, keys - queries if offset is None else offset, None
    table = np.zeros((how["sequences"], 5), np.int64)
    if starts_q is not None:
        table[:, 0], table[:, 2] = starts_q[:-1], starts_k[:-1]
    table[:, 1], table[:, 3] = queries, keys
    table[:, 4] = table[:, 3] - table[:, 1] if offset is None else offset
    return *(int(table[:, i].max(initial=0)) for i in (1, 3)), 0, type(q).of(table, q) if table.size else None


def _slopes(how, storage, q):
    return None if how["slopes"] is None or not how["slopes"].size else type(q).of(how["slopes"].astype(storage), q)


def _sharers(how, dbias, q):
    """For each bias, the pairs (sequence, query head) that share it: where those of each begin and where the last end, and then they."""
    batch = q.shape[:-2]
    at = np.zeros(batch, np.int64)
    for axis, (n, stride) in enumerate(zip(batch, dbias.strides)):
        at += stride * np.arange(n).reshape((-1,) + (1,) * (len(batch) - 1 - axis))
    _, which, counts = np.unique(at, return_inverse=True, return_counts=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    firsts = len(counts) + 1 + 2 * np.concatenate([[0], np.cumsum(counts)])
    pairs = np.stack([order // batch[-1], order % batch[-1]], axis=1)
    return type(q).of(np.concatenate([firsts, pairs.reshape(-1)]).astype(np.int32), q)
