"""What OpenCL runtimes offer: devices, the queue in use and its memory, what is known of a device, and what a fork leaves of it."""

from __future__ import annotations

import os
import re
import threading

import numpy as np

from softcore import planner, threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import pyopencl
    import pyopencl.array
    import pyopencl.tools


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
    touch()
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
    """Whether there is an OpenCL device to run on; False after ``os.fork()`` in a process that had used one.

    Examples
    --------
    >>> import softcore as sc
    >>> sc.opencl.available() == bool(sc.opencl.devices())
    True
    """
    return not _lost() and bool(devices())


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
    touch()
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
        with lock:
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
    with lock:
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
lock = threading.RLock()  # of what is made once: the queue, its pool, programs
_queue = None
_pool = None  # (queue, pool)
_context = None  # of the queue, which under Intel's runtime does not keep it alive
_touched = False  # devices were enumerated in this process, or used
forked = False  # or in one that it was forked from


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
    global forked
    forked = _touched


def _lost():
    # Runtimes keep threads and locks that a fork does not take along: PoCL waits for them for ever.
    return forked or threads.devices_lost


def _alive():
    if _lost():
        raise RuntimeError("softcore.opencl: OpenCL does not survive os.fork(); start processes by 'spawn', or fork before its first use")


def touch():
    """Raise an error where a fork left nothing to use, and otherwise remember that runtimes are used, for the next fork."""
    global _touched
    _alive()
    _touched = True


os.register_at_fork(after_in_child=_after_fork)


_facts_of = {}
PAST = re.compile(r"PoCL.*LLVM (\d|1[0-4])\b")  # compilers that inline no function, and hang on those of 512 bits


def facts(device):
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
            width=64 if device.native_vector_width_float == 16 and not PAST.search(device.platform.version) else 32,
            local=device.local_mem_size,
        )
        _facts_of[device.int_ptr] = facts
    return facts
