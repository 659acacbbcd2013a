"""Decoding: compared with a beam search written step by step in Python, and its laws, bit for bit."""

import numpy as np
import pytest
from nets import as_state, as_tuple, make
from numpy.testing import assert_allclose

import fastrnn
from fastrnn import AttentionDecoder, Embedding, Linear
from fastrnn.search import own_inputs, search

V, START, END, ROWS = 11, 0, 1, 7


def net_of(cell="gru", attention=None, layers=1, feeds=True, dtype="float64", sharp=8.0):
    """Return decoder, embedding, linear and the arguments of a search; sharp: the spread of the scores of symbols."""
    rng = np.random.default_rng(5)
    decoder = make(cell, 4, 9, layers, dtype=dtype, seed=1, context_size=0 if attention else 3)
    given = {}
    if attention:
        decoder = AttentionDecoder(decoder, 9, attention=attention, input_feeding=feeds, seed=2)
        given = dict(
            memory=rng.standard_normal((6, ROWS, 9)).astype(dtype), memory_lengths=np.array([6, 1, 3, 4, 2, 6, 5])
        )
    else:
        given = dict(context=rng.standard_normal((ROWS, 3)).astype(dtype))
    states = [0.5 * rng.standard_normal((layers, ROWS, 9)).astype(dtype) for _ in range(2 if cell == "lstm" else 1)]
    linear = Linear(9, V, dtype=dtype, seed=4)
    with linear.updating() as flat:
        flat *= sharp
        linear.slots["bias"].view(flat)[END] += 0.46 * sharp
    return decoder, Embedding(V, 4, dtype=dtype, seed=3), linear, as_state(tuple(states)), given


NETS = [("gru", None, 1, False), ("lstm", None, 2, False), ("rnn_tanh", None, 1, False), ("gru_before", None, 2, False)]
NETS += [("gru", attention, 1, True) for attention in ("additive", "dot", "general")] + [
    ("lstm", "additive", 2, True),
    ("gru", "general", 2, False),
]


def row_of(state, given, row):
    some = slice(row, row + 1)
    one = (
        {"memory_lengths": given["memory_lengths"][some], "memory": given["memory"][:, some]}
        if "memory" in given
        else {"context": given["context"][some]}
    )
    return as_state(tuple(s[:, some] for s in as_tuple(state))), one


def log_probabilities(decoder, embedding, linear, state, given, ids):
    """Return (len(ids)+1, V), the scores of each next symbol after the start and ids of one row, by one call."""
    x = np.array([START, *ids])[:, None]
    memory = (given["memory"],) if "memory" in given else ()
    rest = {name: a for name, a in given.items() if name != "memory"}
    logits = linear(decoder(x, *memory, state, embedding=embedding, **rest)[0][:, 0]).astype("float64")
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def beam_search(net, state, given, limit, K, alpha):
    """Return [(ids, score, ended)], the best first: the same definition, each hypothesis from its beginning."""
    live, finished = [((), 0.0)], []
    for _ in range(limit):
        found = []
        for ids, score in live:
            last = log_probabilities(*net, state, given, ids)[-1]
            found += [(ids, symbol, score + last[symbol]) for symbol in range(V)]
        found = sorted(found, key=lambda c: -c[2])[: 2 * K]
        for ids, symbol, score in found[:K]:
            if symbol == END and len(finished) < K:
                finished.append((ids, score / ((5 + len(ids) + 1) / 6) ** alpha, True))
        live = [((*ids, symbol), score) for ids, symbol, score in found if symbol != END][:K]
        if len(finished) == K:
            break
    else:
        finished += [(ids, score / ((5 + len(ids)) / 6) ** alpha, False) for ids, score in live[: K - len(finished)]]
    return sorted(finished, key=lambda h: (not h[2], -h[1]))


@pytest.mark.parametrize("K, alpha", [(1, 0.0), (3, 0.0), (4, 0.8)])
@pytest.mark.parametrize("cell, attention, layers, feeds", NETS)
def test_a_beam_is_what_step_by_step_gives(isa, cell, attention, layers, feeds, K, alpha):
    *net, state, given = net_of(cell, attention, layers, feeds)
    limits = np.array([9, 1, 4, 12, 2, 6, 12])
    found = search(
        *net, state, rows=ROWS, start=START, end=END, max_length=limits, beam=K, n_best=K, length_penalty=alpha, **given
    )
    ended = set()
    for row in range(ROWS):
        one_state, one_given = row_of(state, given, row)
        want = beam_search(net, one_state, one_given, limits[row], K, alpha)
        assert [(tuple(h.ids), h.ended) for h in found[row]] == [(ids, done) for ids, _, done in want]
        assert_allclose([h.score for h in found[row]], [score for _, score, _ in want], rtol=1e-10)
        ended |= {h.ended for h in found[row]}
    assert ended == {True, False}


def test_a_beam_of_one_is_greedy_and_a_wider_one_finds_what_is_more_likely():
    gained = 0
    for case in NETS:
        *net, state, given = net_of(*case)
        options = dict(rows=ROWS, start=START, end=END, max_length=12, **given)
        greedy, wide = search(*net, state, **options), search(*net, state, beam=8, **options)
        for row in range(ROWS):
            ids, one = [], row_of(state, given, row)
            while len(ids) < 12 and END not in ids:
                ids.append(int(log_probabilities(*net, *one, ids)[-1].argmax()))
            assert greedy[row][0].ids.tolist() == [i for i in ids if i != END]
            if greedy[row][0].ended and wide[row][0].ended:
                gained += wide[row][0].score - greedy[row][0].score
    assert gained > 1


@pytest.mark.parametrize("K", [1, 5])
@pytest.mark.parametrize("cell, attention, layers, feeds", NETS[1:5:3])
def test_what_is_written_for_a_row_does_not_depend_on_the_others_or_on_threads(isa, cell, attention, layers, feeds, K):
    *net, state, given = net_of(cell, attention, layers, feeds, "float32")
    options = dict(start=START, end=END, max_length=20, beam=K, n_best=K)
    found = search(*net, state, rows=ROWS, **options, **given)
    for row in range(ROWS):
        one_state, one_given = row_of(state, given, row)
        [alone] = search(*net, one_state, rows=1, **options, **one_given)
        assert [(h.ids.tolist(), h.score, h.ended) for h in alone] == [
            (h.ids.tolist(), h.score, h.ended) for h in found[row]
        ]
    many = {name: np.repeat(a, 60, axis=0 if name in ("context", "memory_lengths") else 1) for name, a in given.items()}
    many_state = as_state(tuple(np.repeat(s, 60, axis=1) for s in as_tuple(state)))
    for threads in (1, 3):
        with fastrnn.threads(threads):
            for i, hypotheses in enumerate(search(*net, many_state, rows=60 * ROWS, **options, **many)):
                assert [(h.ids.tolist(), h.score) for h in hypotheses] == [
                    (h.ids.tolist(), h.score) for h in found[i // 60]
                ]


def test_draws_have_the_probabilities_of_the_softmax_and_depend_on_the_key():
    *net, state, given = net_of("gru", None, sharp=2.0)
    one_state, one_given = row_of(state, given, 0)
    many = 4000
    states = np.repeat(one_state, many, axis=1)
    options = dict(
        rows=many,
        start=START,
        end=END,
        max_length=2,
        temperature=0.7,
        context=np.repeat(one_given["context"], many, axis=0),
    )
    found = search(*net, states, key=3, **options)
    first = np.bincount([h.ids[0] if len(h.ids) else END for [h] in found], minlength=V) / many
    p = np.exp(log_probabilities(*net, one_state, one_given, [])[0] / 0.7)
    assert_allclose(first, p / p.sum(), atol=0.03)
    common = int(np.argmax(np.where(np.arange(V) == END, 0, first)))
    second = [h.ids[1] if len(h.ids) > 1 else END for [h] in found if len(h.ids) and h.ids[0] == common]
    p = np.exp(log_probabilities(*net, one_state, one_given, [common])[1] / 0.7)
    assert len(second) > 300
    assert_allclose(np.bincount(second, minlength=V) / len(second), p / p.sum(), atol=0.06)
    assert [h.ids.tolist() for [h] in found] == [h.ids.tolist() for [h] in search(*net, states, key=3, **options)]
    assert [h.ids.tolist() for [h] in found] != [h.ids.tolist() for [h] in search(*net, states, key=4, **options)]
    for [h] in found[:20]:
        steps = [*h.ids, END][: 2 if h.ended else len(h.ids)] if len(h.ids) < 2 else h.ids
        logs = log_probabilities(*net, one_state, one_given, steps[:-1])
        assert_allclose(h.score, sum(logs[t, symbol] for t, symbol in enumerate(steps)), rtol=1e-10)


@pytest.mark.parametrize("cell, attention, layers, feeds", NETS[:1] + NETS[4:5])
def test_own_inputs_are_given_or_the_choice_of_the_step_before(cell, attention, layers, feeds):
    *net, state, given = net_of(cell, attention, layers, feeds)
    ids = np.random.default_rng(0).integers(2, V, (8, ROWS))
    ids[0] = START
    ids[2:, ::2] = -1
    ids[5, 1] = -1
    found = own_inputs(*net, state, given=ids, **given)
    assert (found[ids >= 0] == ids[ids >= 0]).all() and found.min() >= 0
    for row in range(ROWS):
        logs = log_probabilities(*net, *row_of(state, given, row), found[1:, row])
        for t in np.flatnonzero(ids[:, row] < 0):
            assert found[t, row] == logs[t - 1].argmax()
    drawn = own_inputs(*net, state, given=ids, temperature=2.0, key=1, **given)
    assert (drawn != found).any() and (drawn[ids >= 0] == ids[ids >= 0]).all()


def test_no_rows():
    *net, _, _ = net_of("gru", None)
    assert search(*net, rows=0, start=0, end=1, max_length=3, context=np.empty((0, 3))) == []
    assert own_inputs(*net, given=np.empty((0, 2), int), context=np.ones((2, 3))).shape == (0, 2)


def test_more_hypotheses_than_symbols_and_scores_that_are_no_numbers():
    *net, state, given = net_of("gru", None)
    found = search(*net, state, rows=ROWS, start=START, end=END, max_length=2, beam=40, n_best=40, **given)
    assert all(len({tuple(h.ids) for h in hypotheses}) == len(hypotheses) == 40 for hypotheses in found)
    with net[2].updating() as flat:
        flat[:] = np.nan
    for options in ({"beam": 1}, {"beam": 3}, {"temperature": 1.0}):
        with pytest.raises(
            RuntimeError,
            match="the scores of the symbols for row 0 are NaN: the decoder's input or its parameters are not finite",
        ):
            search(*net, state, rows=ROWS, start=START, end=END, max_length=5, **options, **given)


@pytest.mark.parametrize("change, message", [
    (dict(beam=0), "beam is 0"),
    (dict(beam=65), "beam is 65, but it must be at most 64"),
    (dict(beam=2, n_best=3), "n_best is 3, but beam=2"),
    (dict(length_penalty=-1), "length_penalty"),
    (dict(temperature=0), "temperature"),
    (dict(temperature=1.0, beam=2), "does not sample: use beam=1"),
    (dict(max_length=0), "max_length is 0"),
    (dict(context=np.ones((3, 3))), "3"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(change, message):
    *net, state, given = net_of("gru", None)
    options = {**dict(rows=ROWS, start=START, end=END, max_length=5), **given, **change}
    with pytest.raises(ValueError, match=message):
        search(*net, state, **options)
