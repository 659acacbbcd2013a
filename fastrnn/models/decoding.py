"""Models that write a sequence of symbols, given something: teacher forcing, the search for the best sequence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastrnn import _check, search
from fastrnn._check import pairs as check_pairs
from fastrnn.layers.attention import AttentionDecoder
from fastrnn.layers.feedforward import Dropout, Embedding, Linear, random_key
from fastrnn.losses import softmax_linear, softmax_linear_nll
from fastrnn.models import unseen
from fastrnn.models.model import CELLS, DEFAULTS, Model, held_out_rows, remember_at_first
from fastrnn.models.pairs import Pairs
from fastrnn.models.schemas import LONGEST
from fastrnn.models.symbols import Symbols
from fastrnn.parameters import Slot, Storage
from fastrnn.settings import Settings


class Code(NamedTuple):
    """What a source becomes, or the gradients of that."""

    vector: np.ndarray | None = None  # (B, C), for the initial state through a bridge, and for every step
    state: object = None  # for the initial state as it is
    memory: np.ndarray | None = None  # (S, B, M), for attention
    lengths: np.ndarray | None = None  # (B,) of the memory


class Decoding(Model):
    """Base. The symbols are written by a recurrent network whose input is the symbol before. A subclass has

    context : None, "initial", "every" or "both": where the source's vector enters
    cell, size and number of layers in `_decoder`, and `min_count`, `tied`, `dropout`
    _checked(X, width, max_length) : the sources, checked; `width` is `_width_of` those that the model knows, None if it is new
    _known_of(X) : what is learnt from all sources before training
    _sources(X, known) : checked sources as N arrays of ids, or an array (N, D)
    _build_source(known, seed) : makes the source's layers; gives their names, the sizes of vector and memory, and whether the state fits
    _coded(source), _coded_vjp(source, rng) : the Code of a batch; also backward(dcode, into)
    """

    attention, attention_size, input_feeding = None, None, False
    _width, _label_smoothing = None, 0.0

    @staticmethod
    def _width_of(X):
        """Numbers of a vector, None if the sources are sequences."""

    def fit(
        self, X, y, *, epochs: int = 20, batch_size: int = 32, max_steps=None, max_length=None, validation=0.0,
        label_smoothing: float = 0.0, scheduled_sampling=0.0, verbose: bool = True, **settings,
    ):  # fmt: skip
        """Learn from pairs, anew, by teacher forcing. Ctrl-C ends the training; what was best so far is kept.

        Parameters
        ----------
        X : the N sources, as this class says
        y : list of N targets, each a list or tuple of symbols (non-empty str), or a str, which is the sequence of its characters. A target
            may be empty. ``</s>`` and ``<s>`` are the model's own and may not occur
        epochs : times through the data
        batch_size : pairs of an update; those of similar length come together
        max_steps : steps of an update with their padding, of sources or of targets, at most, optional
        max_length : a source or target of more symbols is an error, optional
        validation : a pair (X, y), or the fraction of the pairs, drawn with the seed, that is held out: the parameters that are best on
            it are kept, which may be the first ones. A warning names the symbols of held-out targets that the training part has not: they
            count as ``<unk>``, or, where training had no rare symbols to learn that from, have no loss. 0: the last parameters are kept
        label_smoothing : 0..1, part of a target's probability that is spread over all symbols, in training only
        scheduled_sampling : 0..1, or a function of the epoch (from 0) that gives such a number: probability that the input of a step is
            what the model itself draws after the step before, instead of the target's symbol (Bengio et al. 2015, who let it rise)
        verbose : show progress on stderr
        The others: those of ``fastrnn.settings.Settings`` (optimizer, lr, schedule, patience, checkpoint, resume, …); as default
            optimizer="adam", lr=2e-3, clip_norm=5., loss_limit=30.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError  numbers of sources and targets differ, a source is empty or has the wrong size, a sequence is longer than
            max_length, an argument is out of its range. Nothing has been changed or written then.

        Warns
        -----
        RuntimeWarning  if the loss rose above `loss_limit` times its first value or was NaN, or at Ctrl-C. See `outcome` and `message`.
        """
        settings = Settings(epochs=epochs, **{**DEFAULTS, "progress": verbose, **settings})
        _check.number("label_smoothing", label_smoothing, least=0, most=1)
        sampling = check_pairs.sampling(scheduled_sampling, settings.epochs)
        X, y = self._pairs(X, y, max_length)
        seed = self._drawn_seed(settings)
        held = None
        if isinstance(validation, (tuple, list)):
            held = self._pairs(*validation, max_length, self._width_of(X))
        else:
            out, kept = held_out_rows(len(y), validation, random_key(seed, 2))
            if len(out):
                held = _some(X, out), _some(y, out)
                X, y = _some(X, kept), _some(y, kept)
        known, vocabulary = self._known_of(X), Symbols.of(y, self.min_count, ends=True)
        options = dict(max_steps=max_steps, seed=random_key(seed, 1), sampling=sampling)
        data = Pairs(self._sources(X, known), [vocabulary.encode(one) for one in y], vocabulary, batch_size, **options)
        if held is not None:
            targets = vocabulary.encode_targets(held[1], unseen.HELD_OUT)
            held = Pairs(self._sources(held[0], known), targets, vocabulary, batch_size, max_steps=max_steps)

        def identity(data):
            sampled = "a function" if callable(scheduled_sampling) else scheduled_sampling
            sizes = {"batch_size": batch_size, "max_steps": max_steps}
            learning = {"label_smoothing": label_smoothing, "scheduled_sampling": sampled}
            found = self._fitted_config() | {name: array.tolist() for name, array in self._fitted_arrays().items()}
            return {"data": data.digest(found), **sizes, **learning}

        def build():
            self._build(known, vocabulary, seed)
            self._label_smoothing, self._longest = label_smoothing, max(map(len, y))
            self._joined = all(isinstance(sequence, str) for sequence in y)

        self._train(build, data, settings, seed=seed, validation=held, identity=identity, unit="symbols")
        return self

    def _pairs(self, X, y, max_length=None, width=None):
        """Checked sources and targets."""
        X, y = self._checked(X, width, max_length), check_pairs.sequences("y", y, empty=True)
        check_pairs.same_number(X, y)
        check_pairs.not_longer("targets", y, LONGEST if max_length is None else min(max_length, LONGEST))
        return X, y

    def _build(self, known, vocabulary, seed):
        """Make the layers, with first values drawn from `seed`, in one storage."""
        self._known, self.vocabulary = known, vocabulary
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        names, vector_size, memory_size, state_fits = self._build_source(known, seed)
        cell, H, L, E = self._decoder
        V, seeds = len(vocabulary), [random_key(seed, 10 + k) for k in range(5)]
        self.target_table = Embedding(V + 1, E, seed=seeds[0], **make)
        context_size = vector_size if self.context in ("every", "both") else 0
        dropout = self.dropout if L > 1 else 0.0
        self.rnn = CELLS[cell](E, H, L, context_size=context_size, dropout=dropout, seed=seeds[1], **make)
        self.decoder = self.rnn
        if self.attention is not None:
            options = dict(attention=self.attention, size=self.attention_size, input_feeding=self.input_feeding)
            self.decoder = AttentionDecoder(self.rnn, memory_size, seed=seeds[4], **options)
        table = self.target_table.slots["weight"]
        tied = Slot(table.offset, (V, E)) if self.tied else None  # <s>, in the last row, is never predicted
        self.linear = Linear(H, V, weight=tied, seed=seeds[2], **make)
        self.LAYERS = (*names, "target_table", "decoder", "linear")
        self.bridge = None
        if self.context in ("initial", "both") and not state_fits:
            self.bridge = Linear(vector_size, len(self.rnn.cell.states) * L * H, seed=seeds[3], **make)
            self.LAYERS += ("bridge",)
        self._dropout = Dropout(self.dropout) if self.dropout else None
        with self.storage.updating() as flat:
            table.view(flat)[...] *= 0.1
        remember_at_first(self.rnn, seeds[1])

    def _entries(self, code):
        """What the decoder is given of a source, by name; and the backward: (decoder's gradients, into) -> Code of gradients."""
        given, initial, bridge_backward = {}, self.context in ("initial", "both"), None
        given["state"] = code.state if initial else None
        if self.context in ("every", "both"):
            given["context"] = code.vector
        if initial and self.bridge is not None:
            z, bridge_backward = self.bridge.vjp(code.vector)
            np.tanh(z, out=z)
            given["state"] = self._as_state(z)
        if self.attention is not None:
            given |= {"memory": code.memory, "memory_lengths": code.lengths}

        def backward(g, into):
            dvector, dstate = g.context, g.state if initial else None
            if bridge_backward is not None:
                d = bridge_backward(self._as_rows(dstate) * (1 - z * z), into=into).x
                dvector, dstate = d if dvector is None else dvector + d, None
            return Code(dvector, dstate, getattr(g, "memory", None))

        return given, backward

    def _as_state(self, z):
        """(B, states * L * H) as the decoder's state."""
        B, H = len(z), self.rnn.hidden_size
        parts = z.reshape(B, -1, H).transpose(1, 0, 2).reshape(-1, self.rnn.num_layers, B, H)
        return tuple(parts) if self.rnn.cell.has_c else parts[0]

    def _as_rows(self, state):
        """What `_as_state` undoes."""
        parts = np.concatenate(state) if self.rnn.cell.has_c else state
        return np.ascontiguousarray(parts.transpose(1, 0, 2)).reshape(parts.shape[1], -1)

    def loss_and_gradient(self, batch, state=None, *, into, rng: int):
        """Mean NLL of the target symbols of a batch, ``</s>`` among them, and None; the gradient is added to `into`, laid out as
        ``storage.flat``. With scheduled sampling no gradient goes through the model's own choices."""
        code, code_backward = self._coded_vjp(batch.source, random_key(rng, 1))
        given, given_backward = self._entries(code)
        inputs = batch.inputs if not batch.sampling else self._own_inputs(batch, given, random_key(rng, 2))
        (y, _), decoder_backward = self.decoder.vjp(
            inputs, lengths=batch.lengths, embedding=self.target_table, rng=rng, **given
        )
        valid = batch.valid
        rows = y.reshape(-1, y.shape[2])[valid]
        if self._dropout is not None:
            rows, dropout_backward = self._dropout.vjp(rows, rng=random_key(rng, 3), out=rows)
        options = dict(label_smoothing=self._label_smoothing, into=into)
        loss, drows = softmax_linear(self.linear, rows, batch.targets.ravel()[valid], **options)
        if self._dropout is not None:
            dropout_backward(drows, out=drows)
        dy = np.zeros_like(y)
        dy.reshape(-1, y.shape[2])[valid] = drows
        g = decoder_backward(dy, need_x=False, into=into)
        decoder_backward.release()
        code_backward(given_backward(g, into), into)
        return loss, None

    def _own_inputs(self, batch, given, rng):
        """Inputs (T, B), some of which are the symbols that the model draws itself after the step before."""
        T, B = batch.inputs.shape
        own = np.random.default_rng(rng).random((T, B)) < batch.sampling
        own[0] = False
        asked = np.where(own, -1, batch.inputs)
        return search.own_inputs(
            self.decoder, self.target_table, self.linear, **given, given=asked, temperature=1.0, key=random_key(rng, 1)
        )  # fmt: skip

    def _nll(self, batch):
        """(symbols,) NLL of the target symbols of a batch, and their rows b."""
        given, _ = self._entries(self._coded(batch.source))
        y, _ = self.decoder(batch.inputs, lengths=batch.lengths, embedding=self.target_table, **given)
        valid = batch.valid
        nll = softmax_linear_nll(self.linear, y.reshape(-1, y.shape[2])[valid], batch.targets.ravel()[valid])
        return nll, valid % len(batch.rows)

    def evaluate(self, batches) -> dict:
        """{"loss": mean NLL of the target symbols, ``</s>`` among them} over some batches, teacher-forced.

        A symbol that the model does not know has no NLL if there is no ``<unk>``: the mean is over the others.
        """
        found = [self._nll(batch)[0] for batch in batches]
        return {"loss": sum(float(nll.sum()) for nll in found) / sum(map(len, found))}

    def _batches(self, X, y=None, batch_size=64):
        """Pairs of a fitted model, by length; without y all targets are empty."""
        self._check_fitted()
        if y is None:
            X = self._checked(X, self._width, None)
            targets = [np.empty(0, np.int32)] * len(X)
        else:
            X, y = self._pairs(X, y, width=self._width)
            targets = self.vocabulary.encode_targets(y, "y")
        return Pairs(self._sources(X, self._known), targets, self.vocabulary, batch_size)

    def predict(
        self, X, *, beam: int = 1, n_best: int | None = None, length_penalty: float = 0.0, max_length: int | None = None
    ) -> list:
        """The most likely target of each source.

        Parameters
        ----------
        X : as in `fit`
        beam : how many candidates are followed side by side; 1 takes the most likely symbol at each step
        n_best : give so many of the candidates, the best first, optional; at most `beam`
        length_penalty : candidates are compared by log-probability / ((5 + symbols) / 6) ** length_penalty (Wu et al. 2016)
        max_length : symbols of a prediction, its ``</s>`` among them, at most; by default those of the longest target in training

        Returns
        -------
        N lists of symbols, or N str if all targets of the training were str; with n_best N lists of pairs (those, score): those that
            came to their end come before those that did not

        Raises
        ------
        RuntimeError  the model has not been fitted.
        ValueError    a source has the wrong size or no symbols, n_best is more than beam, an argument is out of its range.
        """
        wanted = 1 if n_best is None else _check.size("n_best", n_best)
        if wanted > _check.size("beam", beam):
            raise ValueError(f"n_best is {n_best}, but beam={beam} gives no more than {beam}: raise beam")
        length_penalty = _check.number("length_penalty", length_penalty, least=0)
        found = self._found(X, max_length, beam=beam, n_best=wanted, length_penalty=length_penalty)
        if n_best is None:
            return [self._decoded(best[0].ids) for best in found]
        return [[(self._decoded(ids), score) for ids, score, _ in best] for best in found]

    def sample(self, X, *, temperature: float = 1.0, seed: int | None = None, max_length: int | None = None) -> list:
        """A target drawn for each source, as `predict` gives them.

        Parameters
        ----------
        temperature : > 0; below 1 bolder guesses are rarer
        seed : int, optional: the same seed draws the same for the same X
        X, max_length : as in `predict`
        """
        temperature = _check.number("temperature", temperature, above=0)
        seed = np.random.SeedSequence().generate_state(1, np.uint64)[0] if seed is None else _check.seed(seed)
        return [
            self._decoded(best[0].ids) for best in self._found(X, max_length, temperature=temperature, seed=int(seed))
        ]

    def _found(self, X, max_length, *, seed=None, **options):
        """What the search finds for each source, in the order of X."""
        batches = self._batches(X)
        longest = self._longest + 1 if max_length is None else _check.size("max_length", max_length)
        ends = dict(start=self.vocabulary.start, end=self.vocabulary.end, max_length=longest)
        found = [None] * len(batches.targets)
        for k, batch in enumerate(batches):
            given, _ = self._entries(self._coded(batch.source))
            key = 0 if seed is None else random_key(seed, k)
            rows = search.search(
                self.decoder, self.target_table, self.linear, **given, rows=len(batch.rows), key=key, **ends, **options
            )
            for row, best in zip(batch.rows, rows):
                found[row] = best
        return found

    def _decoded(self, ids):
        symbols = self.vocabulary.decode(ids)
        return "".join(symbols) if self._joined else symbols

    def log_likelihood(self, X, y) -> np.ndarray:
        """(N,) float64: log-probability of each target given its source, in nats, its ``</s>`` among the symbols. X and y as in `fit`.

        It is minus infinity where a symbol is not known and there is no ``<unk>``; a warning names it.
        """
        batches = self._batches(X, y)
        found = np.zeros(len(batches.targets))
        for batch in batches:
            nll, rows = self._nll(batch)
            found[batch.rows] = -np.bincount(rows, nll, len(batch.rows))
        found[[bool((target < 0).any()) for target in batches.targets]] = -np.inf
        return found

    def score(self, X, y) -> float:
        """Mean log-likelihood, in nats per target symbol, ``</s>`` among them (higher is better, at most 0). X and y as in `fit`.

        A symbol that the model does not know counts as ``<unk>``, or is left out of the mean if there is none; a warning names it.
        """
        return -self.evaluate(self._batches(X, y))["loss"]

    def _fitted_config(self):
        return {"symbols": self.vocabulary.symbols, "longest": self._longest, "joined": self._joined}

    def _rebuild(self, config, arrays):
        self._build(self._known_in(config, arrays), Symbols(config["symbols"]), 0)
        self._longest, self._joined = config["longest"], config["joined"]


def _some(values, rows):
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]
