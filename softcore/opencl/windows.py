"""Ops on windows, which is pooling."""

from __future__ import annotations

import struct
from math import prod

import numpy as np

from softcore import planner
from softcore.opencl import launches, layout, programs, runtime

_STRETCH = 32  # vectors side by side that a work-item of a CPU takes before it asks where the next are


def pool(op, storage, inputs, outputs, axes, padding, dry=False):
    """Run one kernel on windows, as ``kernels.core.pool`` does; sums are taken in float64 where the device has it."""
    empty, double = type(outputs[0]).empty, runtime.facts(outputs[0].array.queue.device).double
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
        order = (0, 2, 3, 4, 1) if layout.steps(op, x)[1] == 1 else (0, 1, 2, 3, 4)
        states = [empty(tuple([dy.shape[i] for i in order]), storage, dy).transpose(np.argsort(order)) for _ in range(3)]
        _run_windows("softmax_pool", storage, (x,), states, axes, padding, options)
        inputs = (dy, x, *states)
    _run_windows(op, storage, inputs, outputs, axes, padding, options)


def _run_windows(op, storage, inputs, outputs, axes, padding, options):
    """Run one kernel on windows in this dtype, compiled with these options besides."""
    operands = (*inputs, *outputs)
    arrays = [a.array for a in operands]
    queue = arrays[0].queue
    facts = runtime.facts(queue.device)
    planes = op in ("max_pool_backward", "max_unpool")
    if planes:
        axes = [(size, count, 1, 1, 1, 0, 0) for size, count in zip(outputs[0].shape[2:], inputs[0].shape[2:])]
    accumulator, _, common = programs.common_options(queue.device, op, storage, inputs, outputs)
    tile = planner.choose_opencl(1 << 10, accumulator.itemsize, facts, any(a.dtype != accumulator for a in operands))
    options = common | {"VEC": tile.vec, "WG": tile.wg, "ROWS": 1} | ({"LOOSE": 1} if facts.cpu else {}) | options
    strides = [layout.steps(op, a) for a in operands]
    shape, along, stretch = list(outputs[0].shape), 1, 1
    if planes:
        shape[2:] = 1, 1, 1
        joined = [layout.joined([(n, [step]) for n, step in zip(a.shape[2:], s[2:])])[1] for a, s in zip(operands, strides)]
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
        *[number for a, s in zip(operands, strides) for number in (a.offset // a.dtype.itemsize, *layout.padded(s))],
        *[number for a in axes for number in a],
        padding,
    )
    groups = min(tile.groups, -(-prod(shape) // tile.wg))
    launches.enqueue(queue, op, (queue.context, programs.defined(options), task, (groups * tile.wg, 1), (tile.wg, 1)), arrays)


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
