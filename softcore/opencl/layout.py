"""How operands lie, as kernels walk over them: strides in elements, and as few axes as will do."""

from __future__ import annotations

_DIMS = 8  # that a kernel can walk over: DIMS in common.cl


def steps(op, a):
    """Strides in elements."""
    item = a.dtype.itemsize
    if a.offset % item or any(s % item for s in a.strides):
        raise ValueError(f"{op}: the elements of a pyopencl array of {a.dtype} lie at fractions of {item} bytes, they must not")
    return [s // item for s in a.strides]


def padded(numbers):
    """Sizes or strides for each axis that a kernel can walk over."""
    return (*numbers, *(0,) * (_DIMS - len(numbers)))


def collapsed(op, shape, nouter, operands, along):
    """The outer dimensions, those along a row, and each operand's strides in elements; dimensions that follow each other are joined.

    For an element-wise op, a row is what is contiguous in `along`.
    """
    strides = [steps(op, a) for a in operands]
    strides = [steps + [0] * (len(shape) - len(steps)) for steps in strides]
    dims = sorted(range(nouter), key=lambda i: -abs((along or operands[0]).strides[i]))  # rows may come in any order, neighbours together
    outer, at_outer = joined([(shape[i], [s[i] for s in strides]) for i in dims])
    length, at_length = joined([(shape[i], [s[i] for s in strides]) for i in range(nouter, len(shape))])
    if along is not None and outer:
        length, at_length = [outer.pop()], [at_outer.pop()]
    if not length:
        length, at_length = [1], [[1] * len(operands)]
    if len(outer) + len(length) > _DIMS:
        raise ValueError(f"{op}: there are {len(outer) + len(length)} axes no two of which can be joined, the OpenCL core takes {_DIMS}")
    return outer, length, [list(s) for s in zip(*at_outer, *at_length)]


def joined(dims):
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
