"""All validation of arguments. Every function here raises before any output is written, and names the argument, what it was and
what it must be; what it returns is what the kernels may trust.

``op`` is the public name of the function the user called. Callers write ``check.arrays``, ``check.axes``, ...; the files are by what is
checked: operands and their dtypes, shapes, options, and then what belongs to rows, windows, losses, attention and results.
"""

from __future__ import annotations

from softcore.check._attention import causal_offset, count_of, lengths, per_head, sequences, softcap, window
from softcore.check._dtypes import computing, is_floating, scaled, selecting
from softcore.check._operands import arrays, not_masked, on_host, same_kind
from softcore.check._outputs import new, out, outs
from softcore.check._rows import count, index, indices, initial, mask, taking_part
from softcore.check._scalars import choice, flag, integer, scale, within
from softcore.check._shapes import axes, broadcast, broadcast_shape, common_shape, halves, one_axis, reduced, shape, whole_shape
from softcore.check._targets import class_weight, label, target
from softcore.check._windows import places, unpooled, windows
