"""Attention and its gradients."""

from __future__ import annotations

import struct

import numpy as np

from softcore import planner
from softcore.opencl import launches, layout, programs, runtime

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
        launches.run("sink_gradients", delta.dtype, (*by_head, sinks), (dsinks,), 1)
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
        launches.run("merge_parts", storage, (*parts[i : i + 2], *state), results, lse.ndim, names=names)
        state = results


def _delta(storage, o, do):
    """The sum of do * o over each row."""
    delta = type(o).empty(o.shape[:-1], storage, o)
    if o.shape[-1] == 0:
        delta[...] = 0
    elif delta.size:
        launches.run("dot", storage, (do, o), (delta,), delta.ndim)
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
    launch = launches.once(key, _prepare_attention, queue, op, storage, inputs, rest, outputs, mask, how, numbers, given, pairs)
    if launch:
        launches.enqueue(queue, op, launch, arrays)


def _prepare_attention(queue, op, storage, inputs, rest, outputs, mask, how, numbers, given, pairs):
    """What `launches.enqueue` takes; None where there is nothing to do."""
    q, k, v = inputs[:3]
    sequences, queries, keys, offset, scale, softcap, causal, (left, right) = numbers
    heads, d, dv = k.shape[-3], q.shape[-1], v.shape[-1]
    group = q.shape[-3] // max(heads, 1)
    results = [a for a in outputs if a is not None]
    read = [*inputs, *rest.values()]
    operands = [*read, *results, *([] if mask is None else [mask])]
    facts = runtime.facts(queue.device)
    accumulator, real, options = programs.common_options(queue.device, op, storage, read, results)
    most = keys if op == "key_gradients" else group * queries
    converted = any(programs.conversion(a.dtype, accumulator) != "same" for a in inputs)
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
    return (queue.context, programs.defined(options), task, (units * tile.wg, 1), (tile.wg, 1)) if units else ()


def _layouts(op, operands, sinks, nbatch):
    """Of each operand the offset and the strides of the batch, the head, the row and the element; and the shape of the batch."""
    strides = [layout.steps(op, a) for a in operands]
    if sinks is not None:
        strides[sinks] = [0] * nbatch + strides[sinks] + [0, 0]
    shape = operands[0].shape
    batch, at_batch = layout.joined([(shape[i], [s[i] for s in strides]) for i in range(nbatch)])
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
