"""The choice of how to run a call: pure, and visible as :func:`softcore.plan`.

A plan depends on shapes, layouts and the machine, never on values, and never changes a bit of the result: every
executor adds in the same order.  The figures below were measured; what each one trades is said beside it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

#: Elements below which a call is run as it comes, on the calling thread, without asking for a plan (about 10 us).
SMALL = 1 << 13
#: Elements a thread must have to be worth waking: a parallel region costs a few microseconds.
GRAIN = 1 << 15
#: Rows longer than this are split over threads when there are too few rows to go round.
LONG = 1 << 16
#: Ops that do so little with an element that bytes say how much work there is: as many as sixteen bytes count as an element.
CHEAP = frozenset(["max", "argmax", "max_with_argmax", "hardmax", "relu", "relu_backward", "maximum", "step"])

#: In the order the kernels number them.
EXECUTORS = ("rows", "split", "map", "columns", "short", "plain", "windows", "channels", "strips", "chunks")


class Plan(NamedTuple):
    """What will happen to a call."""

    executor: str  #: ``rows``, ``split``, ``map``, ``columns``, ``short`` or ``plain``; of windows ``windows`` or ``channels``, of attention ``strips`` or ``chunks``
    threads: int  #: threads that take part
    streaming: bool  #: results are written past the cache
    ahead: bool  #: the next row is asked for while this one is computed
    isa: str  #: the build of the kernels


def cache_sizes() -> tuple[int, int]:
    """Bytes of the second-level and the last-level cache of the first processor, with fallbacks."""
    sizes = {}
    base = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for index in os.listdir(base):
            if index.startswith("index"):
                with open(f"{base}/{index}/level") as level, open(f"{base}/{index}/size") as size:
                    text = size.read().strip()
                    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
                    sizes[int(level.read())] = int(text.rstrip("KM")) * unit
    except (OSError, ValueError):
        pass
    return sizes.get(2, 1 << 19), max(sizes.values(), default=1 << 23)


L2, LAST_LEVEL = cache_sizes()


def threads_allowed(work: int) -> int:
    """How many threads may take part; where one will do, nobody is asked how many there are (2 us)."""
    if work < 2 * GRAIN:
        return 1
    from . import threads

    return threads.get_num_threads()


def threads_for(work: int, units: int, limit: int) -> int:
    """As many threads as have ``GRAIN`` elements and a unit of work each."""
    return max(1, min(limit, work // GRAIN, units))


def choose(op, rows, length, inner, itemsize, operands, contiguous, columns, short, elementwise, writes, whole, limit=None):
    """The plan of one call as ``(executor, threads, streaming, ahead)``, numbered as the kernels want it.

    ``rows`` reductions of ``length`` elements; ``inner`` rows lie side by side; ``operands`` arrays of ``itemsize``
    bytes an element are read or written.  ``contiguous``, ``columns`` and ``short`` say which walks the layout and
    the op allow, ``writes`` that the result has the input's size, ``whole`` that a row cannot be cut.
    """
    work = rows * length
    moved = work * itemsize * operands
    if op in CHEAP:
        work = work * itemsize // 16
    limit = threads_allowed(work) if limit is None else limit
    streaming = writes and moved >= LAST_LEVEL
    ahead = moved > L2
    if elementwise:
        return 2, threads_for(work, rows * -(-length // GRAIN), limit), streaming, False
    if short:
        return 4, threads_for(work, -(-rows // 16), limit), False, ahead
    if columns and not contiguous and inner > 1:
        return 3, threads_for(work, rows // inner * -(-inner // 64), limit), streaming, ahead
    threads = threads_for(work, rows, limit)
    if threads < threads_for(work, work, limit) and length >= LONG and not whole:
        return 1, threads_for(work, work, limit), streaming, ahead
    return 0, threads, streaming, ahead


def choose_windows(work, units, itemsize, across, limit=None):
    """The plan of one op on windows, as `choose` gives it: ``work`` elements, in ``units`` that threads may share.

    ``across`` says that lanes run across channels that lie side by side.
    """
    limit = threads_allowed(work) if limit is None else limit
    streaming = work * itemsize >= LAST_LEVEL
    return 7 if across else 6, threads_for(work, units, limit), streaming, False


def choose_attention(work, strips, chunks, gradients, limit=None):
    """The plan of attention as ``(executor, threads, streaming, ahead)``, or of its gradients, which go by chunks of keys.

    ``work`` counts sixteen multiplications as one element. Where the strips of query rows are too few to go round, the chunks of
    their keys are handed out instead.
    """
    limit = threads_allowed(work) if limit is None else limit
    wanted = max(1, min(limit, work // GRAIN))
    if gradients or (strips < wanted and chunks > strips):
        return 9, max(1, min(wanted, chunks)), False, False
    return 8, max(1, min(wanted, strips)), False, False


#: Elements of a row that an OpenCL work-group takes at once where an op is element-wise.
CHUNK = 1 << 12

#: Elements of a row that an OpenCL work-group takes where rows are longer.
PART = 1 << 16


class Device(NamedTuple):
    """What the choice of a tile depends on."""

    cpu: bool
    units: int  #: compute units
    largest: int  #: work-items in a work-group
    double: bool = True  #: whether it has float64
    fused: bool = False  #: whether it has fused multiply-add
    width: int = 32  #: bytes of a vector, of a CPU
    local: int = 1 << 15  #: bytes of local memory; no device has less


class Tile(NamedTuple):
    """How an OpenCL kernel is cut into pieces."""

    wg: int  #: work-items that share a row
    rows: int  #: rows side by side in a work-group
    vec: int  #: elements that a work-item takes at once
    groups: int  #: work-groups to start, if there are rows for so many


def choose_opencl(length: int, itemsize: int, device: Device, converted: bool = False) -> Tile:
    """The tile for rows of ``length`` elements, of an accumulator of ``itemsize`` bytes.

    ``converted`` says that some operand has another type in memory: the functions of OpenCL C that convert are asked for no more than
    256 bits, beyond which compilers were seen to crash.

    A CPU runs work-groups on threads: a single work-item takes whole rows, as wide as its registers, and needs no barrier. A GPU runs
    them on lanes: as many work-items as a row feeds, in vectors of 128 bits, and at least 64 in a work-group. The order of a sum
    depends on this choice, and so on the device and the length, but on nothing else.
    """
    if device.cpu:
        return Tile(1, 1, min(16, (32 if converted else device.width) // itemsize), 4 * device.units)
    vec = max(2, 16 // max(itemsize, 4))
    wg = 1
    while wg < min(256, device.largest) and 4 * wg * vec < length:
        wg *= 2
    return Tile(wg, max(1, 64 // wg), vec, 32 * device.units)


#: Bytes of rows that a CPU's first cache has room for beside others.
BATCH = 1 << 14


def opencl_batch(op: str, length: int, itemsize: int) -> int:
    """How many rows a work-item of a CPU takes one step further before it takes the next.

    The end of a step, one number out of many, is a chain of some hundred cycles, and those of several rows are worked on in lanes: of as
    many rows as stay in the first cache, or in the second if nothing is written.
    """
    return max(1, min(16, (4 if op == "logsumexp" else 1) * BATCH // (_whole(length) * itemsize)))


#: Vectors of rows side by side that a work-item of a CPU takes at once.
SLAB = 16


def opencl_kept(length: int, itemsize: int, device: Device, columns: int = 0) -> int:
    """How many exponentials a work-item of a CPU keeps in local memory: of a batch, or of the longest row; none where that is too small.

    With ``columns``, of a slab of vectors of so many, if half of the memory has room for all of it: what passes by wants room too.
    """
    if columns:
        kept = device.local // itemsize // 2
        return kept if -(-length // (4 * columns)) * 4 * columns * SLAB * columns <= kept else 0
    kept = BATCH // itemsize if _whole(length) * itemsize <= BATCH else PART
    return kept if kept * itemsize <= device.local else 0


def _whole(length):
    return -(-length // 16) * 16  # in vectors of any width


class AttentionTile(NamedTuple):
    """How attention is cut into pieces on an OpenCL device: `Tile` for tiles of scores."""

    wg: int  #: work-items of a group
    vec: int  #: elements that a work-item takes at once
    across: int  #: queries or keys of a tile that stay and lie across lanes
    passing: int  #: keys or queries that pass by together


def whole_width(n: int, vec: int) -> int:
    """Elements of a head as attention keeps it in local memory: in whole vectors, and in whole patches of four."""
    step = max(vec, 4)
    return max(1, -(-n // step)) * step


# What a kernel of attention keeps in local memory: how often an element of a query or key and one of a value, that stay; whether rows
# that pass by share their place; and how many tiles of scores.
_KEPT = {"attend": (1, 1, True, 1), "query_gradients": (2, 1, False, 2), "key_gradients": (2, 2, False, 2), "bias_gradients": (1, 1, False, 4)}


def choose_opencl_attention(
    op: str, d: int, dv: int, most: int, itemsize: int, device: Device, converted: bool = False
) -> AttentionTile:
    """The tile of a kernel of attention for heads of `d` and `dv` elements, of an accumulator of ``itemsize`` bytes.

    ``most`` is how many queries or keys of a head there are to lie across lanes. How many rows pass by together decides the order of sums:
    it follows from the sizes of heads and the device alone. As much is chosen as local memory holds, on a CPU rather in rows that pass by,
    since those are copied for each block.
    """
    stay_q, stay_v, shared, tiles = _KEPT[op]

    def fits(wg, vec, across, passing):
        qw, vw = whole_width(d, vec), whole_width(dv, vec)
        rows = max(qw, vw) if shared else qw + vw
        elements = (stay_q * qw + stay_v * vw) * across + rows * passing + tiles * across * passing
        if op == "attend":  # the state, and what each work-item finds
            elements += 3 * across + 3 * max(across, wg * vec)
        return elements * itemsize + (4 * itemsize + 20) * max(across, passing) + 128 <= device.local

    largest = min(256, device.largest)
    wg = 1 if device.cpu else 1 << min(64, largest).bit_length() - 1
    vec = (32 if converted else device.width) // itemsize if device.cpu else max(2, 16 // itemsize)
    across, passing = vec if device.cpu else 32, 32
    while not fits(wg, vec, across, passing):
        if across > max(vec, passing // 2):
            across //= 2
        elif passing > 4:
            passing //= 2
        elif vec > 2:
            vec = across = vec // 2
        else:
            raise ValueError(f"attention: heads of {d} and {dv} elements are too large for the {device.local} bytes of local memory of the device")
    if device.cpu:
        while across < min(64, most) and fits(wg, vec, 2 * across, passing):
            across *= 2
    else:
        patches = across // vec * max(passing, whole_width(max(d, dv), vec)) // 4
        while 2 * wg <= min(patches, largest) and fits(2 * wg, vec, across, passing):
            wg *= 2
    return AttentionTile(wg, vec, across, passing)


def plan(op: str, x, axis=-1, *, where=None, scale=1.0, window=None, layout="channels_first") -> Plan:
    """How a call of an op on arrays laid out like `x` would run; nothing is computed.

    Parameters
    ----------
    op : str
        The name of a public function, of those in `softcore.reference.OPS`.
    x : array_like
        Stands for every operand of x's shape, layout and dtype.
    axis : int, tuple of ints or None, optional
        The reduced axes; element-wise ops have none.
    where : array_like of bool, optional
        A mask, if the call has one.
    scale : real number, optional
        The call's scale: one that float32 cannot hold makes it run in float64.
    window, layout
        Of a pooling op, whose `x` is that before pooling. The default is a window of two along each of the last two axes.

    Returns
    -------
    Plan
        A named tuple: executor, threads, streaming, ahead, isa.

    Raises
    ------
    TypeError
        If `op` is no string, x is complex, an object or a string, or another argument has the wrong type.
    ValueError
        If there is no such op, x is empty, or `where` does not broadcast.
    numpy.exceptions.AxisError
        If `axis` is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> sc.plan("softmax", np.zeros((4, 1000), np.float32)).executor
    'plain'
    >>> with sc.num_threads(1):
    ...     sc.plan("softmax", np.zeros((4096, 1024), np.float32), axis=0).executor
    'columns'
    """
    import numpy as np

    from . import check, kernels
    from .reference import OPS

    check.choice("plan", "op", op, tuple(OPS))
    kind = OPS[op]
    (x,) = check.arrays("plan", x=x)
    axes = check.axes("plan", axis, x.ndim) if kind.kind in ("fold", "rows") else ()
    mask = check.mask("plan", where, x.shape, x)
    scale = check.scale("plan", scale)
    if x.size == 0:
        raise ValueError(f"plan: x is empty (its shape is {x.shape}), it must have elements to plan for")
    if kind.kind == "halves":
        x, _ = check.halves("plan", "x", x, axis)
    if kind.family == "mixtures":
        if op.startswith("topk"):
            axis = check.one_axis("plan", "x", axis, x.ndim)
        elif x.ndim < 2:
            raise ValueError(f"plan: x has shape {x.shape}, it must have at least two axes, (..., n, d)")
        return _plan_mixture(op, x, axis)
    if kind.family == "attention":
        from .ops.attention import _planned

        executor, threads, streaming, ahead = _planned(op, x)
        return Plan(EXECUTORS[executor], threads, streaming, ahead, kernels.core.isa)
    storage = check.scaled(check.selecting(x) if kind.integers == "keep" else check.computing(x), scale)
    if kind.kind == "windows":
        return _plan_windows(op, kind, x, storage, window, layout)
    order = [i for i in range(x.ndim) if i not in axes] + list(axes)
    view = x.transpose(order)
    value = np.empty(view.shape[: x.ndim - len(axes)], storage)
    index = np.empty(value.shape, np.int64)
    full = np.empty_like(x, dtype=storage).transpose(order)
    inputs, outputs = {
        "max": ((view,), (value,)),
        "argmax": ((view,), (index,)),
        "max_with_argmax": ((view,), (value, index)),
        "logsumexp": ((view, None), (value,)),
        "logsumexp_backward": ((value, view, value, None), (full,)),
        "max_backward": ((value, view, None), (full,)),
        "cross_entropy": ((view, index, None, None, None), (value, None)),
        "cross_entropy_with_grad": ((view, index, None, None, None), (value, full)),
        "cross_entropy_backward": ((view, index, None, None, value), (None, full)),
        "binary_cross_entropy": ((view, view, None, None, None), (full, None)),
        "binary_cross_entropy_with_grad": ((view, view, None, None, None), (full, full)),
        "binary_cross_entropy_backward": ((view, view, None, None, view), (None, full)),
        "maximum_backward": ((view,) * 3, (full,) * 2),
        "gate": ((view,) * 3, (full,)),
        "gate_backward": ((view,) * 4, (full,) * 3),
        "glu": ((view,) * 2, (full,)),
        "glu_backward": ((view,) * 3, (full,) * 2),
    }.get(op, ((view,) * (2 if kind.direction == "backward" or op == "maximum" else 1), (full,)))
    nouter = x.ndim - len(axes)
    if kind.family == "losses":
        numbers = (False, 1.0, 0.0, 0.0, 0.0, 1.0, -100)
        executor, threads, streaming, ahead = kernels.core.run_loss(op, storage, inputs, outputs, nouter, *numbers, dry=True)
    else:
        mask = None if mask is None else mask.transpose(order)
        executor, threads, streaming, ahead = kernels.core.run(op, storage, inputs, outputs, nouter, mask, scale, dry=True)
    return Plan(EXECUTORS[executor], threads, bool(streaming), bool(ahead), kernels.core.isa)


def _plan_windows(op, kind, x, storage, window, layout):
    import numpy as np

    from . import check, kernels, windows
    from .ops.run import run_windows

    if window is None:
        window = tuple(min(2, n) for n in x.shape[-2:])
    places, axes = check.windows("plan", x.shape, window, None, 0, 1, False, layout)
    y = np.empty_like(x[tuple(slice(n) for n in windows.pooled_shape(x.shape, places, axes))], dtype=storage)  # laid out like x
    full, index = np.empty_like(x, dtype=storage), np.empty_like(y, dtype=np.int64)
    inputs, outputs = {
        "max_pool_backward": ((y, index), (full,)),
        "max_unpool": ((y, index), (full,)),
        "avg_pool_backward": ((y,), (full,)),
        "softmax_pool_backward": ((y, x), (full,)),
    }.get(op, ((x,), (y,)))
    executor, threads, streaming, ahead = run_windows(op, storage, inputs, outputs, places, axes, dry=True)
    return Plan(EXECUTORS[executor], threads, bool(streaming), bool(ahead), kernels.core.isa)


def _plan_mixture(op, x, axis):
    """Plans whose x is that of `softmax_gate`, or the r of `topk_gate`."""
    import numpy as np

    from . import check, kernels

    core = kernels.core
    dtype = check.computing(x)
    wide = dtype if dtype.itemsize == 8 else np.dtype(np.float32)
    x = x.reshape((1,) * (2 - x.ndim) + x.shape)
    if op.startswith("topk_gate"):
        r = np.moveaxis(x, axis, -1)
        few = np.empty((*r.shape[:-1], 1), dtype), np.empty((*r.shape[:-1], 1), np.intp)
        if op == "topk_gate":
            executor, threads, streaming, ahead = core.choose_largest(dtype, r, *few, True, dry=True)
        else:
            executor, threads, streaming, ahead = core.choose_backward(wide, few[0], r, few[1], r, True, dry=True)
    else:
        r, o = np.empty(x.shape[:-1], dtype), np.empty((*x.shape[:-2], x.shape[-1]), dtype)
        gradients = () if op == "softmax_gate" else (np.broadcast_to(np.empty((), dtype), x.shape), r)
        executor, threads, streaming, ahead = core.mix(op, wide, x, r, o, None, None, *gradients, dry=True)
    return Plan(EXECUTORS[executor], threads, bool(streaming), bool(ahead), core.isa)
