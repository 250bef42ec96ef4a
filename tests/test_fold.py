"""The laws of the states in fold.py: identity, associativity, absorb as merge, and finish as the definition."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softcore import reference
from softcore.fold import ArgmaxState, MaxState, SoftmaxGateState, SoftmaxState, shift

AWKWARD = [-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, -1.0, 700.0, -700.0, 1e300, -1e300, 5e-324]
elements = st.one_of(st.sampled_from(AWKWARD), st.floats(-30, 30))
tiles = st.lists(st.integers(0, 4), min_size=3, max_size=3).flatmap(
    lambda lengths: hnp.arrays(float, (2, sum(lengths)), elements=elements).map(lambda x: np.split(x, np.cumsum(lengths)[:-1], axis=-1))
)


class Law(NamedTuple):
    """How one op uses a state: its empty state, how it absorbs the tiles that start at given indices, and its definition."""

    empty: tuple
    absorb: Callable
    reference: Callable
    exact: bool


def values(x):
    """Values for the scores x: any function of them that spreads, and is finite."""
    return np.stack([np.cos(np.nan_to_num(x)), np.ones(x.shape)], axis=-1)


def gate(x):
    with np.errstate(all="ignore"):
        return np.einsum("...n,...nd->...d", reference.softmax(x), values(x))


LAWS = {
    "max": Law(MaxState.empty((2,)), lambda s, x, start: s.absorb(x), lambda x: reference.max(x, initial=-np.inf), True),
    "argmax": Law(ArgmaxState.empty((2,)), lambda s, x, start: s.absorb(x, start), reference.argmax, True),
    "logsumexp": Law(SoftmaxState.empty((2,)), lambda s, x, start: s.absorb(x), reference.logsumexp, False),
    "softmax_gate": Law(SoftmaxGateState.empty((2,), d=2), lambda s, x, start: s.absorb(x, values(x)), gate, False),
}


def assert_same(actual, expected, exact):
    """Equal as results: states that differ in shift are compared by what they finish to, so only finished values come here."""
    if exact:
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def check_laws(law, parts, merge):
    """Raise AssertionError unless ``merge`` and ``law.absorb`` obey the laws on the three tiles ``parts``."""
    starts = np.cumsum([0, *(part.shape[-1] for part in parts)])
    a, b, c = (law.absorb(law.empty, x, start) for x, start in zip(parts, starts))

    for state in (law.empty, a, b, c):
        for merged in (merge(law.empty, state), merge(state, law.empty)):
            for actual, expected in zip(merged, state):
                assert_same(actual, expected, law.exact)

    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    one = law.absorb(law.absorb(law.absorb(law.empty, parts[0], 0), parts[1], starts[1]), parts[2], starts[2])
    whole = law.absorb(law.empty, np.concatenate(parts, axis=-1), 0)
    for state in (left, right, one):
        for actual, expected in zip(state, whole):
            assert_same(actual, expected, law.exact)

    for order in itertools.permutations([a, b, c]):
        assert_same(merge(merge(order[0], order[1]), order[2]).finish(), whole.finish(), law.exact)

    x = np.concatenate(parts, axis=-1)
    if x.shape[-1] > 0:
        assert_same(whole.finish(), law.reference(x), law.exact)


@pytest.mark.parametrize("op", LAWS)
@settings(deadline=None, max_examples=150)
@given(parts=tiles)
def test_laws(op, parts):
    check_laws(LAWS[op], parts, lambda a, b: a.merge(b))


SPECIAL = {"empty": [], "-inf": [-np.inf], "+inf": [np.inf], "nan": [np.nan], "0": [0.0], "two": [3.0, 3.0], "huge": [1e300]}


TRIPLES = [[np.tile(SPECIAL[name], (2, 1)) for name in names] for names in itertools.product(SPECIAL, repeat=3)]


@pytest.mark.parametrize("op", LAWS)
def test_laws_hold_for_special_tiles_in_every_order(op):
    for parts in TRIPLES:
        check_laws(LAWS[op], parts, lambda a, b: a.merge(b))


@settings(deadline=None, max_examples=100)
@given(parts=tiles)
def test_softmax_is_the_share_of_the_whole(parts):
    state = SoftmaxState.empty((2,))
    for part in parts:
        state = state.absorb(part)
    shares = np.concatenate([state.share(part) for part in parts], axis=-1)
    np.testing.assert_allclose(shares, reference.softmax(np.concatenate(parts, axis=-1)), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("state", [MaxState, SoftmaxState])
def test_a_fold_over_nothing_has_a_result(state):
    assert np.all(state.empty((3,)).finish() == -np.inf)


def test_shift_is_finite():
    np.testing.assert_array_equal(shift(np.array([2.0, -np.inf, np.inf, np.nan])), [2.0, 0.0, 0.0, 0.0])


# The law check must be able to fail: each of these merges has been seen in admired code.


def merge_without_shift(a, b):
    """Two empty states merge into NaN."""
    with np.errstate(all="ignore"):
        m = np.maximum(a.m, b.m)
        return SoftmaxState(m, a.l * np.exp(a.m - m) + b.l * np.exp(b.m - m))


def merge_from_minus_1e37(a, b):
    """-1e37 stands in for -inf, so that an empty state is no identity."""
    m = np.maximum(np.maximum(a.m, b.m), -1e37)
    return SoftmaxState(m, a.l * np.exp(a.m - m) + b.l * np.exp(b.m - m))


def merge_without_rescaling(a, b):
    return SoftmaxState(np.maximum(a.m, b.m), a.l + b.l)


def merge_by_lane(a, b):
    """Ties go to whoever comes first, not to the smaller index."""
    mine = a.m >= b.m
    return ArgmaxState(np.where(mine, a.m, b.m), np.where(mine, a.i, b.i))


def merge_dropping_nan(a, b):
    return MaxState(np.where(a.m > b.m, a.m, b.m))


@pytest.mark.parametrize(
    ("op", "merge"),
    [
        ("logsumexp", merge_without_shift),
        ("logsumexp", merge_from_minus_1e37),
        ("logsumexp", merge_without_rescaling),
        ("argmax", merge_by_lane),
        ("max", merge_dropping_nan),
    ],
)
def test_the_law_check_rejects_a_wrong_merge(op, merge):
    rejected = 0
    for parts in TRIPLES:
        try:
            check_laws(LAWS[op], parts, merge)
        except AssertionError:
            rejected += 1
    assert rejected > 0
