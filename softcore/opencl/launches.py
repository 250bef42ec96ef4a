"""Launches: what a call makes of its views and keeps for the next one like it, and how that is handed to a queue."""

from __future__ import annotations

import atexit
import struct
import threading
from collections import deque
from math import isfinite, prod

import numpy as np

from softcore import planner
from softcore.opencl import layout, programs, runtime


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
    launches, states = once(key, _prepare, queue, op, storage, inputs, outputs, nouter, mask, scale, option, shape, numbers, names)
    if states:
        arrays.append(type(outputs[0]).empty(*states, outputs[0]).array)
    for launch in launches:
        enqueue(queue, op, launch, arrays)


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
    outer, length, _ = layout.collapsed("", shape, len(shape), [a for a in operands if a is not None], along)
    return prod(outer) * -(-length[0] // planner.CHUNK)


def in_place(outputs, read, dtypes, same=True):
    """Whether results can be written to `outputs` at once: asked of each view in turn."""
    return False


def _prepare(queue, op, storage, inputs, outputs, nouter, mask, scale, option, shape, numbers, names):
    """All that a call needs but the buffers: its launches, each ``(context, options, task, grid, group)``, and the shape and dtype
    of what the first leaves to the second, where rows are taken in parts.
    """
    device = queue.device
    inputs = [a for a in inputs if a is not None]
    outputs = [a for a in outputs if a is not None]
    operands = [*inputs, *outputs, *([] if mask is None else [mask])]
    accumulator, real, options = programs.common_options(device, op, storage, inputs, outputs)
    ndim = max([a.ndim for a in operands])
    shape = shape or next(a.shape for a in operands if a.ndim == ndim)
    elementwise = op in programs.ELEMENTWISE
    if elementwise:
        nouter = ndim
    along = next((a for a in (*outputs, *inputs) if any(a.strides)), outputs[0]) if elementwise else None
    outer, length, strides = layout.collapsed(op, shape, nouter, operands, along)
    rows, n = prod(outer), prod(length)
    facts = runtime.facts(device)
    apart = (mask, outputs[0] if "SUMS=1" in names else None)  # sums have no place among the elements
    whole = [(a, s) for a, s in zip(operands, strides) if a.ndim == ndim and a not in apart]
    converted = any(programs.conversion(a.dtype, accumulator) != "same" for a, _ in whole)
    tile = planner.choose_opencl(n, accumulator.itemsize, facts, converted)
    strided = any(s[len(outer) :] != [1] for _, s in whole)
    side_by_side = bool(outer) and outer[-1] >= tile.vec and len(length) == 1 and all(s[len(outer) - 1] == 1 for _, s in whole)
    optional = programs.optional(op, inputs)
    columns = strided and side_by_side and facts.cpu and op in programs.IN_COLUMNS and not optional
    columns = columns and (op not in programs.WITH_PLACES or n <= np.iinfo(f"i{accumulator.itemsize}").max)
    in_parts = n > planner.PART and op in programs.IN_PARTS and not optional and not columns
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
        "OPTION": 0 if op in programs.BY_NUMBER or names else int(option),
    }
    flags = {
        "MASKED": mask is not None,
        "STRIDED": strided and not columns,
        "COLUMNS": columns,
        "SCALED": scale != 1,
        "LOOSE": facts.cpu,
    }
    if elementwise and strided:  # along one dimension
        for name, step in (("FOLLOWING", 1), ("SPREAD_OUT", 0)):
            options[name] = sum([(s[-1] == step) << i for i, s in enumerate(strides)])
    if columns:
        options["SLAB"] = planner.SLAB
    keeps = op == "softmax" or (op == "cross_entropy" and "GRADIENT=1" in names)
    if keeps and facts.cpu and (columns or n <= planner.PART):
        kept = planner.opencl_kept(n, accumulator.itemsize, facts, tile.vec if columns else 0)
        options |= {"KEPT": kept // tile.vec} if kept else {}
    if optional:
        flags[optional] = True
    options |= {name: 1 for name, is_set in flags.items() if is_set} | dict(name.partition("=")[::2] for name in names)
    # A sign, a zero and the like are exact as factors; what is left of the scale comes in two parts.
    if numbers is None:
        factor, positive = (1.0 if scale > 0 else -1.0, abs(scale)) if isfinite(scale) and scale != 0 else (scale, 1.0)
        high = float(real.type(positive))
        numbers = (factor, high, positive - high, scale)
    task = struct.pack(
        f"@qqii8qq{9 * len(operands)}q6{real.char}qq",
        *(rows, n, len(outer), len(length)),
        *layout.padded([*outer, *length]),
        int(option),
        *[number for a, s in zip(operands, strides) for number in (a.offset // a.dtype.itemsize, *layout.padded(s))],
        *(*numbers, *(0.0,) * (6 - len(numbers))),
        int(facts.cpu and sum([prod(a.shape) * a.dtype.itemsize for a in (*inputs, *outputs)]) >= planner.LAST_LEVEL),
        planner.opencl_batch(op, n, accumulator.itemsize),
    )
    groups = min(tile.groups, units)
    group = (tile.wg, options["ROWS"])
    stages = [{"PART": planner.PART, "STAGE": stage} for stage in (1, 2)] if in_parts else [{}]
    launches = [(queue.context, programs.defined(options | stage), task, (tile.wg, groups * group[1]), group) for stage in stages]
    return launches, ((4 * units,), accumulator) if in_parts else None


cache: dict[tuple, tuple] = {}  # the launches of a call and the states between them, by all that it depends on; and replay.Replay


def once(key, prepare, queue, *arguments):
    """What `prepare` makes of a queue and arguments that the key tells apart."""
    key = (queue.int_ptr, key)
    kept = cache.get(key)
    if kept is None:
        kept = _keep_launches(key, (prepare(queue, *arguments), queue))  # which stays, so that no other gets its address
    return kept[0]


def _keep_launches(key, kept):
    if len(cache) >= 4096:
        cache.clear()
    cache[key] = kept
    return kept


# Steps of a call that goes the long way, for replay.py to learn from.


class _Thread(threading.local):
    call = None  # the replay.Call that is watched, as it goes the long way


_thread = _Thread()


def watch(call):
    _thread.call = call


def begun(op, operands):
    if _thread.call is not None and not _thread.call.begin(op, operands):
        _thread.call = None


def ended():
    call, _thread.call = _thread.call, None
    if call is not None and call.replay is not None:
        _keep_launches(call.key, call.replay)


def enqueue(queue, op, launch, arrays):
    """Launch a kernel, once what writes its operands is done."""
    runtime.touch()
    if _thread.call is not None and not _thread.call.launch(op, launch, arrays):
        _thread.call = None
    context, options, task, grid, group = launch
    kernel = programs.kernel(context, op, options, len(task))
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
    if not runtime.forked:
        for event, _ in list(_pending):
            event.wait()
