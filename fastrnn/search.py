"""Generation with a decoder: greedy, sampled, or by beam search, for many sequences at a time, in one compiled loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import attention as check_attention
from fastrnn._check import memory as check_memory
from fastrnn._core import stack
from fastrnn._core.batch import even_batch
from fastrnn._core.decoder import Memory, MemoryRows, keys_of, prepare_decoder
from fastrnn._core.memory import StepArrays
from fastrnn._types import ArrayLike, IntArray, IntsLike, StateLike
from fastrnn.layers.attention import AttentionDecoder
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.recurrent import Recurrent

Decoder: TypeAlias = "Recurrent[Any] | AttentionDecoder"

_GROUP_ROWS = 256  # number of hypotheses computed together


class Hypothesis(NamedTuple):
    """Sequence that was generated.

    Parameters
    ----------
    ids : ndarray of int64, shape (n,)
        Symbols, without the end symbol.
    score : float
        Log-probability of the sequence, including its end symbol, divided by the length penalty.
    ended : bool
        Whether the end symbol was reached before max_length.
    """

    ids: IntArray
    score: float
    ended: bool


@dataclass
class _Start:
    """Checked initial state, context and memory, with one row for each sequence."""

    state: tuple | None
    context: np.ndarray | None
    memory: Memory | None


def search(
    decoder: Decoder, embedding: Embedding, linear: Linear, state: StateLike | None = None, *, rows: int, start: int,
    end: int, max_length: IntsLike, context: ArrayLike | None = None, memory: ArrayLike | None = None,
    memory_lengths: IntsLike | None = None, beam: int = 1, n_best: int = 1, length_penalty: float = 0.0,
    temperature: float | None = None, key: int = 0,
) -> list[list[Hypothesis]]:  # fmt: skip
    """Generate a sequence of symbols for each row.

    Parameters
    ----------
    decoder : RNN, GRU, LSTM or AttentionDecoder
        Decoder, unidirectional.
    embedding : Embedding
        Input vectors of the symbols.
    linear : Linear
        Layer from the decoder's output to a score for each of V symbols.
    state : ndarray or pair of ndarrays, optional
        Initial state, (num_layers, rows, hidden_size). By default zeros, or the learned initial state.
    rows : int
        Number of sequences.
    start : int
        Id of the first input symbol.
    end : int
        Id that ends a sequence.
    max_length : int or array_like of int, shape (rows,)
        Largest number of symbols of a sequence, including the end symbol.
    context : ndarray, shape (rows, context_size), optional
        Context of each sequence. Required if the decoder has a `context_size`.
    memory : ndarray, shape (S, rows, memory_size), optional
        Steps to attend to. Required for an AttentionDecoder.
    memory_lengths : array_like of int, shape (rows,), optional
        Number of valid steps of the memory for each sequence.
    beam : int, default 1
        Number of hypotheses K that are kept for each sequence. 1 is greedy search.
    n_best : int, default 1
        Number of hypotheses to return for each sequence, at most `beam`.
    length_penalty : float, default 0.0
        Exponent alpha: the log-probability of n symbols is divided by ``((5 + n) / 6) ** alpha`` (Wu et al. 2016).
    temperature : float, optional
        Sample each symbol from softmax(score / temperature) instead of taking the most likely one. Requires beam = 1.
    key : int, default 0
        Key of the random numbers, 0 to 2**64 - 1. A sample depends on the key, the row and the step only.

    Returns
    -------
    list of list of Hypothesis
        Hypotheses of each row, the best first: those that ended before those that did not.

    Raises
    ------
    TypeError
        An argument has the wrong type or dtype.
    ValueError
        An argument is out of range or does not fit.
    RuntimeError
        The scores of the symbols are NaN.

    Notes
    -----
    The beam search is that of fairseq: at each step the 2K best continuations are considered; end symbols among the K
    best finish a hypothesis, and the K best of the others are kept. A sequence is done when K hypotheses are finished.
    The result for a row does not depend on the other rows.

    Examples
    --------
    >>> import fastrnn
    >>> rnn, symbols, linear = fastrnn.GRU(4, 8, seed=0), fastrnn.Embedding(5, 4, seed=1), fastrnn.Linear(8, 5, seed=2)
    >>> [best], _ = search(rnn, symbols, linear, rows=2, start=0, end=1, max_length=6)
    >>> best.ids.tolist(), best.ended
    ([2, 2, 2, 3, 3, 3], False)
    """
    beam, n_best = _checked_beam(beam, n_best, length_penalty, temperature)
    check_attention.writing(decoder, embedding, linear)
    start = check_attention.symbol("start", start, embedding.num_embeddings, "the embedding")
    end = check_attention.symbol("end", end, linear.out_features, "linear")
    rows = _check.size("rows", rows, least=0)
    limits = np.array(np.broadcast_to(_check.integers("max_length", max_length), (rows,)))
    if rows and limits.min() < 1:
        raise ValueError(f"max_length is {limits.min()}, but it must be at least 1")
    group = max(1, _GROUP_ROWS // beam)
    longest = int(limits.max(initial=1))
    needed = 16 * min(rows, group) * beam * longest
    check_memory.fits(f"sequences of {longest:,} symbols", needed, "use a smaller max_length")
    first = _start(decoder, rows, state, context, memory, memory_lengths)
    order = np.argsort(-limits if first.memory is None else -first.memory.count, kind="stable")
    found: list[list[Hypothesis]] = [[]] * rows
    writers = _Writers(decoder, embedding, linear, first, start, end, temperature or 0.0, _check.rng_key(key))
    for low in range(0, rows, group):
        some = order[low : low + group]
        for row, hypotheses in zip(some, writers.write(some, beam, limits[some], length_penalty)):
            if not hypotheses or any(np.isnan(hypothesis.score) for hypothesis in hypotheses):
                raise RuntimeError(
                    f"the scores of the symbols for row {row} are NaN: the decoder's input or its parameters are not "
                    "finite; check the input, or train again with a lower lr"
                )
            found[row] = hypotheses[:n_best]
    return found


def _checked_beam(beam, n_best, length_penalty, temperature):
    """Check the options of a search; returns beam and n_best as int."""
    most = _engine.max_hypotheses
    beam, n_best = _check.size("beam", beam), _check.size("n_best", n_best)
    if beam > most:
        raise ValueError(f"beam is {beam}, but it must be at most {most}")
    if n_best > beam:
        raise ValueError(f"n_best is {n_best}, but beam={beam} gives at most {beam} hypotheses: use a larger beam")
    _check.number("length_penalty", length_penalty, least=0)
    if temperature is not None:
        _check.number("temperature", temperature, above=0)
        if beam > 1:
            raise ValueError(f"temperature is {temperature}, but beam search (beam={beam}) does not sample: use beam=1")
    return beam, n_best


def own_inputs(
    decoder: Decoder, embedding: Embedding, linear: Linear, state: StateLike | None = None, *, given: IntsLike,
    context: ArrayLike | None = None, memory: ArrayLike | None = None, memory_lengths: IntsLike | None = None,
    temperature: float | None = None, key: int = 0,
) -> IntArray:  # fmt: skip
    """Replace some input symbols of a decoder by its own choices, for scheduled sampling (Bengio et al. 2015).

    Parameters
    ----------
    decoder : RNN, GRU, LSTM or AttentionDecoder
        Decoder, unidirectional.
    embedding : Embedding
        Input vectors of the symbols.
    linear : Linear
        Layer from the decoder's output to a score for each of V symbols.
    state : ndarray or pair of ndarrays, optional
        Initial state, (num_layers, B, hidden_size). By default zeros, or the learned initial state.
    given : array_like of int, shape (T, B)
        Input symbols. -1 stands for the symbol that the decoder chooses at the step before; not in the first step.
    context : ndarray, shape (B, context_size), optional
        Context of each sequence. Required if the decoder has a `context_size`.
    memory : ndarray, shape (S, B, memory_size), optional
        Steps to attend to. Required for an AttentionDecoder.
    memory_lengths : array_like of int, shape (B,), optional
        Number of valid steps of the memory for each sequence.
    temperature : float, optional
        Sample the choice, as in `search`, instead of taking the most likely symbol.
    key : int, default 0
        Key of the random numbers, 0 to 2**64 - 1.

    Returns
    -------
    ndarray of int64, shape (T, B)
        Input symbols, without -1.

    Raises
    ------
    TypeError
        An argument has the wrong type or dtype.
    ValueError
        An argument is out of range or does not fit.
    """
    check_attention.writing(decoder, embedding, linear)
    given = np.array(_check.integers("given", given))
    if given.ndim != 2:
        raise ValueError(f"given must be (T, B), got shape {given.shape}")
    T, B = given.shape
    if given.size and (given.min() < -1 or given.max() >= embedding.num_embeddings or given[0].min() < 0):
        wrong = given[0].min() if given[0].min() < 0 else given.min() if given.min() < -1 else given.max()
        raise ValueError(
            f"given has the id {wrong}, but ids must be from 0 to {embedding.num_embeddings - 1}, "
            "or -1 after the first step"
        )
    if T == 0 or B == 0:
        return given
    first = _start(decoder, B, state, context, memory, memory_lengths)
    writers = _Writers(decoder, embedding, linear, first, 0, -1, temperature or 0.0, _check.rng_key(key))
    chosen = writers.follow(given)
    return np.concatenate([given[:1], np.where(given[1:] < 0, chosen[:-1], given[1:])])


def _start(decoder, rows, state, context, memory, memory_lengths):
    rnn = decoder.rnn if isinstance(decoder, AttentionDecoder) else decoder
    if state is not None:
        state = _check.state(rnn, "state", state, rows, False)
    elif rnn.learn_initial_state:
        state = rnn._initial_rows(rows)
    context = _check.context(rnn, context, rows, False)
    if isinstance(decoder, AttentionDecoder):
        memory = check_attention.memory(decoder, memory, rows)
        memory = Memory(memory, check_attention.memory_lengths(memory_lengths, len(memory), rows))
    return _Start(state, context, memory)


class _Writers:
    """Run the engine's writer for one group of sequences after the other, with the arrays that the groups share."""

    def __init__(self, decoder, embedding, linear, first, start, end, temperature, key):
        self.attends = isinstance(decoder, AttentionDecoder)
        self.rnn = decoder.rnn if self.attends else decoder
        self.decoder, self.linear, self.first = decoder, linear, first
        self.start, self.end, self.temperature, self.key = start, end, temperature, key
        self.packed = decoder._packed()
        table = np.ascontiguousarray(embedding.params["weight"])
        self.tokens = stack.Tokens(None, table, None, stack.input_parts(self.packed, table, "_l0"))
        self.keys = keys_of(decoder._sizes, self.packed, first.memory) if self.attends else None

    def write(self, some, K, limits, length_penalty):
        """Generate some sequences; returns a list of Hypothesis for each, the best first."""
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
        """Return the decoder's choice at each step, (T, B), for given inputs."""
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
            h_prev, c_prev = np.empty((2 * rows, Hp), net.dtype), np.empty((2 * rows, Hp), net.dtype)
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
        """Arrays of the attention of one step. memory : MemoryRows"""
        sizes, dtype, rows = self.decoder._sizes, self.rnn.dtype, len(out)
        alpha, query = np.empty((rows, self.first.memory.longest), dtype), np.empty((rows, sizes.A), dtype)
        arrays = dict(joined=joined, a=out, alpha=alpha, query=query, feed=np.zeros((rows, sizes.F), dtype))
        return prepare_decoder(sizes, self.packed, layers, memory, arrays)


def _finished(N, K):
    """Arrays count, last, parent, ended, total of finished hypotheses for the engine's Writer; ended -1 means none."""
    last, parent = np.zeros((2, N, K), np.int64)
    return np.zeros(N, np.int64), last, parent, np.full((N, K), -1, np.int64), np.zeros((N, K))


def _trail(symbols, parents, t, k, ended):
    """Collect the ids of a hypothesis, from its last step back."""
    ids = []
    if ended:  # hypothesis k ends at step t; leave out the end symbol
        t -= 1
    while t >= 0:
        ids.append(symbols[t, k])
        t, k = t - 1, parents[t, k]
    return np.array(ids[::-1], np.int64)
