"""Operations on sentences: ages, memories, ids outside."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastrnn import _engine
from fastrnn.models import story_network


def shifted(first, count, noise, memory, key):
    """The ages, story by story."""
    draw, ends = np.random.default_rng(key), first + count
    number = draw.integers(0, np.ceil(noise * (count - 1)).astype(int) + 1)
    places = draw.integers(0, count, (int(np.ceil(noise * (count - 1)).max()), len(count)))
    ages = np.empty(ends[-1], np.int64)
    for b, (start, end) in enumerate(zip(first, ends)):
        mine = np.arange(end - start)[::-1]
        mine = np.minimum(mine + (places[: number[b], b, None] <= mine).sum(0), memory - 1)
        mine[0] = memory
        ages[start:end] = mine
    return ages


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 1.0])
def test_ages_are_shifted(noise):
    rng = np.random.default_rng(int(10 * noise))
    for key in range(20):
        count = rng.integers(1, 30, rng.integers(1, 40))
        first, memory = np.cumsum(count) - count, int(count.max() - 1 + rng.integers(0, 3)) or 1
        given, ages = np.full((2, int(count.sum()) + 3), -7)  # longer than needed, as in a plan
        given[:-3] = np.concatenate([[memory, *range(n - 2, -1, -1)] for n in count])
        story_network._shift(key, first, count, given, memory, noise, ages)
        assert_array_equal(ages[:-3], shifted(first, count, noise, memory, key))
        assert (ages[-3:] == -7).all()


@pytest.mark.parametrize("B, most, distinct", [(1, 1, 1), (5, 4, 64), (7, 9, 65), (30, 40, 200), (3, 6, 1000)])
def test_memories_lie_one_after_another(B, most, distinct):
    rng = np.random.default_rng(B)
    stories = [rng.integers(0, distinct, rng.integers(1, most + 1)) for _ in range(2 * B)]
    start = np.concatenate([[0], np.cumsum([len(s) for s in stories])])
    rows = np.repeat(rng.permutation(2 * B)[:B], 2)[::2]  # as a process of several has them: not contiguous
    first, count, sentence, used, which, ages, size, greatest = _engine.memories(
        rows, start, np.concatenate(stories), distinct, 77
    )
    together = np.concatenate([stories[k] for k in rows])
    assert_array_equal(count, [len(stories[k]) for k in rows])
    assert_array_equal(first, np.cumsum(count) - count)
    assert size[0] == len(together) and used[0] == len(np.unique(together))
    assert_array_equal(sentence[: used[0]], np.unique(together))
    assert_array_equal(sentence[which[: size[0]]], together)
    assert_array_equal(ages[: size[0]], np.concatenate([[77, *range(n - 2, -1, -1)] for n in count]))
    assert len(which) == len(ages) == len(sentence) == max(16, 1 << int(size[0] - 1).bit_length())
    assert greatest == max(16, 1 << int(count.max() - 1).bit_length())


@pytest.mark.parametrize("outside", [-1, 4, 10**12])
def test_an_index_outside_is_an_error(outside):
    start, values, bad = np.array([0, 3, 3, 7, 10]), np.arange(10), np.array([0, outside])
    ramp, table, out = np.ones(2, "float32"), np.ones((10, 2), "float32"), np.zeros((2, 2), "float32")
    weights = np.ones(10, "float32"), np.ones(10, "float32")
    two = np.array([2])
    for call in (
        lambda: _engine.memories(bad, start, values, 10, 5),
        lambda: _engine.bag(bad, start, values, *weights, ramp, table, out),
        lambda: _engine.bag_backward(bad, start, values, *weights, ramp, out, table),
        lambda: _engine.check_within(bad, 0, 3, two),
    ):
        with pytest.raises(IndexError):
            call()
    assert not out.any() and (table == 1).all()
    _engine.check_within(bad, 0, 3, np.array([1]))  # the other id is not used


@pytest.mark.parametrize("first, count", [(-1, 1), (4, 2), (0, 4), (0, -1), (5, 1)])
def test_a_memory_outside_of_its_keys_is_an_error(first, count):
    keys, query, alpha, out = (np.ones(shape, "float32") for shape in ((5, 2), (1, 2), (1, 3), (1, 2)))
    attended = query, keys, keys, np.array([first]), np.array([count]), alpha, out
    for call in (
        lambda: _engine.attend(*attended),
        lambda: _engine.attend_backward(*attended, dquery=query, dkeys=keys, dvalues=keys),
    ):
        with pytest.raises(IndexError, match="is not in 5 keys, or has more than 3"):
            call()
