"""What a decoder writes: greedy, drawn, or by beam search, many sequences at a time, in one compiled loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import attention as check_attention
from fastrnn._check import memory as check_memory
from fastrnn._core import stack
from fastrnn._core.batch import even_batch
from fastrnn._core.decoder import Memory, MemoryRows, keys_of, prepare_decoder
from fastrnn._core.memory import StepArrays
from fastrnn.layers.attention import AttentionDecoder

_GROUP_ROWS = 256  # hypotheses that are computed together


class Hypothesis(NamedTuple):
    """What was written for one sequence.

    ids : (n,) without the end
    score : log-probability of it, of the end too, divided by the length penalty
    ended : whether it came to its end before the limit
    """

    ids: np.ndarray
    score: float
    ended: bool


@dataclass
class Start:
    """Where the decoder begins: arrays of checked arguments, a row for each sequence."""

    state: tuple | None
    context: np.ndarray | None
    memory: Memory | None


def search(decoder, embedding, linear, state=None, *, rows: int, start: int, end: int, max_length, context=None, memory=None,
           memory_lengths=None, beam: int = 1, n_best: int = 1, length_penalty: float = 0.0, temperature: float | None = None,
           key: int = 0) -> list:  # fmt: skip
    """Let a decoder write a sequence of symbols for each row.

    Parameters
    ----------
    decoder : RNN, GRU, LSTM or AttentionDecoder
    embedding : Embedding of the symbols that enter
    linear : Linear from the decoder's output to a score for each of V symbols
    state, context, memory, memory_lengths : as for the decoder, of `rows` rows
    rows : number of sequences
    start, end : id that enters first, id that ends a sequence
    max_length : most symbols of a sequence, the end among them; one for all, or (rows,)
    beam : K hypotheses of each sequence that live at a time; 1 is greedy
    n_best : how many to give of each, at most `beam`
    length_penalty : alpha of ``((5 + n) / 6) ** alpha`` (Wu et al. 2016), by which the log-probability of n symbols is divided; 0: not
    temperature : draw each symbol with probability softmax(score / temperature); with beam 1
    key : 64-bit number that the draws depend on, and on the row and step, and nothing else

    Returns
    -------
    For each row a list of Hypothesis, the best first: those that ended before those that did not.

    Raises
    ------
    ValueError, TypeError  an argument is out of its range or does not fit.
    RuntimeError  scores of symbols are NaN, so that none is the most likely one.

    Notes
    -----
    The beam is that of fairseq: at each step the 2K best continuations are looked at; an end among the K best is finished, the K best
    others live on; a sequence is done with K finished. With K = 1 this is greedy. What is written for a row does not depend on the others.

    Examples
    --------
    >>> import fastrnn
    >>> rnn, symbols, linear = fastrnn.GRU(4, 8, seed=0), fastrnn.Embedding(5, 4, seed=1), fastrnn.Linear(8, 5, seed=2)
    >>> [best], _ = search(rnn, symbols, linear, rows=2, start=0, end=1, max_length=6)
    >>> best.ids.tolist(), best.ended
    ([2, 2, 2, 3, 3, 3], False)
    """
    beam = _check.size("beam", beam)
    if beam > _engine.max_hypotheses:
        raise ValueError(f"beam is {beam}, but it can be {_engine.max_hypotheses} at most")
    n_best = _check.size("n_best", n_best)
    if n_best > beam:
        raise ValueError(f"n_best is {n_best}, but beam={beam} finds no more than {beam}: raise beam")
    _check.number("length_penalty", length_penalty, least=0)
    if temperature is not None:
        _check.number("temperature", temperature, above=0)
        if beam > 1:
            raise ValueError(
                f"temperature is {temperature}, but beam search with beam={beam} draws nothing: leave one of them out"
            )
    check_attention.writing(decoder, embedding, linear)
    start = check_attention.symbol("start", start, embedding.num_embeddings, "the embedding")
    end = check_attention.symbol("end", end, linear.out_features, "linear")
    rows = _check.size("rows", rows, least=0)
    limits = np.array(np.broadcast_to(_check.integers("max_length", max_length), (rows,)))
    if rows and limits.min() < 1:
        raise ValueError(f"max_length is {limits.min()}, but it must be at least 1")
    longest, together = int(limits.max(initial=1)), min(rows, max(1, _GROUP_ROWS // beam))
    check_memory.fits(f"sequences of {longest:,} symbols", 16 * together * beam * longest, "give a smaller max_length")
    first = _start(decoder, rows, state, context, memory, memory_lengths)
    order = np.argsort(-limits if first.memory is None else -first.memory.count, kind="stable")
    group, found = max(1, _GROUP_ROWS // beam), [None] * rows
    writers = _Writers(decoder, embedding, linear, first, start, end, temperature or 0.0, _check.random_key(key))
    for low in range(0, rows, group):
        some = order[low : low + group]
        for row, hypotheses in zip(some, writers.write(some, beam, limits[some], length_penalty)):
            if not hypotheses or any(np.isnan(hypothesis.score) for hypothesis in hypotheses):
                raise RuntimeError(
                    f"the scores of the symbols for row {row} are NaN: what enters the decoder is not finite, or its parameters have left all "
                    "bounds; train again with a lower lr"
                )
            found[row] = hypotheses[:n_best]
    return found


def own_inputs(decoder, embedding, linear, state=None, *, given, context=None, memory=None, memory_lengths=None,
               temperature: float | None = None, key: int = 0):  # fmt: skip
    """The symbols that enter a decoder where some are its own: for scheduled sampling (Bengio et al. 2015).

    Parameters
    ----------
    given : (T, B) ids; where one is -1 the decoder's choice of the step before enters. The first step has none.
    temperature : the choice is drawn, as in `search`; None: it is the most likely symbol
    The others as for `search`.

    Returns
    -------
    (T, B) int64 ids without a -1
    """
    check_attention.writing(decoder, embedding, linear)
    given = np.array(_check.integers("given", given))
    if given.ndim != 2:
        raise ValueError(f"given must be (T, B), got shape {given.shape}")
    T, B = given.shape
    if given.size and (given.min() < -1 or given.max() >= embedding.num_embeddings or given[0].min() < 0):
        wrong = given[0].min() if given[0].min() < 0 else given.min() if given.min() < -1 else given.max()
        raise ValueError(
            f"given has the id {wrong}, but it must be from 0 to {embedding.num_embeddings - 1}, or after the first step -1"
        )
    if T == 0 or B == 0:
        return given
    first = _start(decoder, B, state, context, memory, memory_lengths)
    writers = _Writers(decoder, embedding, linear, first, 0, -1, temperature or 0.0, _check.random_key(key))
    chosen = writers.follow(given)
    return np.concatenate([given[:1], np.where(given[1:] < 0, chosen[:-1], given[1:])])


def _start(decoder, rows, state, context, memory, memory_lengths):
    rnn = decoder.rnn if isinstance(decoder, AttentionDecoder) else decoder
    state = rnn._state_or_learnt(_check.state(rnn, "state", state, rows, False), rows)
    context = _check.context(rnn, context, rows, False)
    if isinstance(decoder, AttentionDecoder):
        memory = check_attention.memory(decoder, memory, rows)
        memory = Memory(memory, check_attention.memory_lengths(memory_lengths, len(memory), rows))
    return Start(state, context, memory)


class _Writers:
    """Makes the engine's writer for one group of sequences after the other; what they share is made once."""

    def __init__(self, decoder, embedding, linear, first, start, end, temperature, key):
        self.attends = isinstance(decoder, AttentionDecoder)
        self.decoder, self.rnn, self.linear, self.first = (
            decoder,
            decoder.rnn if self.attends else decoder,
            linear,
            first,
        )
        self.start, self.end, self.temperature, self.key = start, end, temperature, key
        self.packed = decoder._packed()
        table = np.ascontiguousarray(embedding.params["weight"])
        self.tokens = stack.Tokens(None, table, None, stack.input_parts(self.packed, table, "_l0"))
        self.keys = keys_of(decoder._sizes, self.packed, first.memory) if self.attends else None

    def write(self, some, K, limits, length_penalty):
        """A list of Hypothesis, the best first, of each of some sequences."""
        N, T = len(some), int(limits.max())
        symbols, parents = np.zeros((T, N * K), np.int64), np.zeros((T, N * K), np.int64)
        finished = _finished(N, K)
        _, last, parent, ended, total = finished
        ids = np.full(N * K, self.start, np.int64)
        self._run(some, K, ids, limits, None, (symbols, parents), finished)
        found = []
        for n in range(N):
            hypotheses = []
            for k in np.flatnonzero(ended[n] >= 0):
                ids = _trail(
                    symbols[:, n * K : (n + 1) * K],
                    parents[:, n * K : (n + 1) * K],
                    last[n, k],
                    parent[n, k],
                    ended[n, k],
                )
                score = total[n, k] / ((5 + len(ids) + ended[n, k]) / 6) ** length_penalty
                hypotheses.append(Hypothesis(ids, float(score), bool(ended[n, k])))
            found.append(sorted(hypotheses, key=lambda h: (not h.ended, -h.score)))
        return found

    def follow(self, given):
        """(T, B) the choice at each step, when what is given enters."""
        T, B = given.shape
        symbols, parents = np.zeros((T, B), np.int64), np.zeros((T, B), np.int64)
        self._run(np.arange(B), 1, given[0].copy(), np.full(B, T), given, (symbols, parents), _finished(B, 1))
        return symbols

    def _run(self, some, K, ids, limits, given, trail, finished):
        N, rnn, packed, first = len(some), self.rnn, self.packed, self.first
        net, rows, Hp, V = rnn._net, N * K, packed.Hp, self.linear.out_features

        def repeated(array):
            return None if array is None else np.repeat(array[some], K, axis=0)

        state = None if first.state is None else tuple(np.repeat(s[:, some], K, axis=1) for s in first.state)
        below = stack.Tokens(ids, self.tokens.table, None, self.tokens.parts)
        call = stack.Call(net, packed, even_batch(1, rows), below, repeated(first.context))
        h, c = call.state_rows(state)
        out = np.empty((rows, self.decoder.output_size), net.dtype)
        joined = np.empty((rows, self.decoder.memory_size + net.hidden_size), net.dtype) if self.attends else None
        layers = []
        for layer in range(net.num_layers):
            top = layer == net.num_layers - 1
            y = (out if joined is None else joined) if top else np.empty((rows, net.hidden_size), net.dtype)
            gates = np.empty((rows, net.cell.blocks * Hp), net.dtype)
            h_prev, c_prev = (np.empty((2 * rows, Hp), net.dtype) for _ in range(2))
            arrays = StepArrays(gates, h_prev, c_prev if net.cell.has_c else None, False)
            states = h[layer], None if c is None else c[layer]
            column = self.decoder.memory_size if top and self.attends else 0
            layers.append(stack.prepare_layer(call, layer, 0, below, arrays, states, y, column=column))
            below = y
        attention = None
        if self.attends:
            memory = first.memory
            memory = MemoryRows(repeated(memory.first), repeated(memory.count), memory.values, self.keys)
            attention = self._attention(layers, memory, joined, out)
        score = np.full(rows, -np.inf)
        score[::K] = 0
        _engine.Writer(
            layers, attention, out=out, w=self.linear._packed_weight()[0], bias=self.linear.params.get("bias"),
            logits=np.empty((rows, V), net.dtype), swap=np.empty((rows, Hp), net.dtype), ids=ids, end=self.end,
            limits=np.ascontiguousarray(limits, np.int64), given=given, temperature=self.temperature, key=self.key,
            row_id=some.astype(np.uint64), score=score, symbols=trail[0], parents=trail[1], finished=finished,
        ).run()  # fmt: skip

    def _attention(self, layers, memory, joined, out):
        """The engine's decoder of one step. memory : MemoryRows"""
        sizes, dtype, rows = self.decoder._sizes, self.rnn.dtype, len(out)
        alpha, query = np.empty((rows, self.first.memory.longest), dtype), np.empty((rows, sizes.A), dtype)
        arrays = dict(joined=joined, a=out, alpha=alpha, query=query, feed=np.zeros((rows, sizes.F), dtype))
        return prepare_decoder(sizes, self.packed, layers, memory, arrays)


def _finished(N, K):
    """count, last, parent, ended and total of finished hypotheses, which the engine's Writer fills in; ended -1: there is none."""
    last, parent = np.zeros((2, N, K), np.int64)
    return np.zeros(N, np.int64), last, parent, np.full((N, K), -1, np.int64), np.zeros((N, K))


def _trail(symbols, parents, t, k, ended):
    """The ids of a hypothesis, back from its last step."""
    ids = []
    if ended:  # k is the hypothesis that ends at step t; the end itself is left out
        t -= 1
    while t >= 0:
        ids.append(symbols[t, k])
        t, k = t - 1, parents[t, k]
    return np.array(ids[::-1], np.int64)
