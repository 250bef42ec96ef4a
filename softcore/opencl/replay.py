"""The short way of calls on pyopencl arrays: what an earlier call like it launched is launched again, neither checked nor planned.

A call is *like* another if the op, its options and the queue are the same, and its arrays are of the same dtypes and lie the same way in
buffers of the same sizes; those that were one array are one again; where results are given, the buffers have the same flags too and are
shared where those were. Nothing else decides what a call does. It is learned from a call that takes the long way, step by step: `again`
does not know the call and has it watched, ``launches.begun`` sees its operands checked, ``launches.enqueue`` what it launches, and
``launches.ended`` that it returns. Only what runs one kernel, on what it was given and what it returns, is kept, in ``launches.cache``.
"""

from __future__ import annotations

import sys
import weakref
from itertools import combinations
from typing import NamedTuple

from pyopencl import mem_info
from pyopencl.array import Array

from softcore import kernels
from softcore.opencl import launches


class Replay(NamedTuple):
    """What a call launches, on which of its arrays, and the results that it makes."""

    launch: tuple
    places: tuple[int, ...]  # of the kernel's buffers, among the arrays that are given or made
    made: tuple[tuple, ...]  # (shape, dtype, size, strides, whose allocator)


class Call:
    """A call that is watched while it goes the long way; it keeps none of its arrays alive. Its steps return whether they are what one
    that can be replayed does: any step may be interrupted, and the next one be another call's.
    """

    def __init__(self, key, op, given, operands, frame):
        self.key, self.op, self.operands, self.frame = key, op, operands, frame
        self.given = [weakref.ref(a) for a in given]
        self.replay = None

    def begin(self, op, operands):
        frame, self.frame = self.frame, None
        same = op == self.op and len(operands) == self.operands and all(a is b() for a, b in zip(operands, self.given))
        return same and frame is not None and _runs(frame)

    def launch(self, op, launch, arrays):
        given = [a() for a in self.given]
        if self.replay is not None or self.frame is not None or op != self.op or any(a is None for a in given):
            return False
        made = []
        for a in arrays:
            if not any(a is b for b in (*given, *made)):
                made.append(a)
        places = [next(i for i, b in enumerate((*given, *made)) if a is b) for a in arrays]
        owners = [next((i for i, b in enumerate(given) if b.allocator is a.allocator), None) for a in made]
        results = tuple([(a.shape, a.dtype, a.size, a.strides, i) for a, i in zip(made, owners)])
        self.replay = Replay(launch, tuple(places), results)
        brought = len(given) > self.operands  # results were given, and so none is made; those that are made are the last
        new = [i >= len(given) for i in places]
        return None not in owners and any(new) != brought and new == sorted(new)


def memory_of(buffer):
    """The address that tells a buffer from others, of a part of one that of the whole, and where the part starts in it."""
    whole = buffer.get_info(mem_info.ASSOCIATED_MEMOBJECT)
    return (buffer.int_ptr, 0) if whole is None else (whole.int_ptr, buffer.offset)


def _runs(frame):
    """Whether a function is on its way still, of those that called this one."""
    caller = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is frame


def again(op, inputs, axis, scale, out, option):
    """Launch once more what a call like it launched, and return its results; or return None, and watch this one.

    The arguments are those of ``kernels.core.plain``.
    """
    launches.watch(None)
    given = inputs if out is None else (*inputs, *out) if type(out) is tuple else (*inputs, out)
    queue = getattr(given[0], "queue", None)
    key, places = [queue, op, axis, scale, option, type(out), len(inputs)], []
    for a in given:
        data = a.base_data if type(a) is Array and a.queue is queue else None
        if not hasattr(data, "int_ptr"):  # None, or shared virtual memory
            return None
        key += (a.dtype, a.shape, a.strides, a.offset, data.size)
        if out is not None:  # what is written must not be read-only, and may be what is read
            buffer, start = memory_of(data)
            places.append(buffer)
            key += (data.flags, places.index(buffer), start)
    if queue is None:
        return None
    if out is None and len(given) > 1:  # an array given twice is found once among those that were launched
        key += [a is b for a, b in combinations(given, 2)]
    key = tuple(key)
    known = launches.cache.get(key)
    if known is None:
        launches.watch(Call(key, op, given, len(inputs), sys._getframe(1)))
        return None
    results = []
    for shape, dtype, size, strides, owner in known.made:
        # As pyopencl makes one like another.
        place = {"_fast": True, "_size": size, "_context": given[0].context, "_queue": queue}
        results.append(Array(None, shape, dtype, allocator=given[owner].allocator, strides=strides, **place))
    arrays = (*given, *results)
    launches.enqueue(queue, op, known.launch, [arrays[i] for i in known.places])
    return out if out is not None else results[0] if len(results) == 1 else tuple(results)


kernels.set_elsewhere(again)
