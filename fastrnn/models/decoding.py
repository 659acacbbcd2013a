"""Models that write a sequence of symbols about a source: training, search for the best sequence, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastrnn import _check, search
from fastrnn._check import pairs as check_pairs
from fastrnn.layers.feedforward import random_key
from fastrnn.models import unseen
from fastrnn.models.decoder_network import DecoderNetwork
from fastrnn.models.model import Examples, Setup
from fastrnn.models.pairs import Pairs
from fastrnn.models.schemas import LONGEST
from fastrnn.models.symbols import Symbols

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from fastrnn.settings import TrainingOptions


class Decoding(DecoderNetwork):
    """Base of EncoderDecoder and VectorToSequence.

    Beside what DecoderNetwork needs, a subclass has `min_count` and defines

    - ``_width_of(X)``: size of the vectors; None if the sources are sequences
    - ``_checked(X, width, max_length)``: the sources, checked; `width` is that of the training data, None if X is these
    - ``_known_of(X)``: what is learnt from all sources before training, such as a vocabulary or a scale
    - ``_known_in(config, arrays)``: the same from a saved model
    - ``_sources(X, known)``: checked sources as N arrays of ids, or as an array (N, D)
    """

    _width: int | None = None

    @staticmethod
    def _width_of(X):
        return None

    def fit(
        self,
        X: Sequence | np.ndarray,
        y: Sequence,
        *,
        epochs: int = 20,
        batch_size: int = 32,
        max_steps: int | None = None,
        max_length: int | None = None,
        validation: float | tuple = 0.0,
        label_smoothing: float = 0.0,
        scheduled_sampling: float | Callable[[int], float] = 0.0,
        verbose: bool = True,
        **settings: Unpack[TrainingOptions],
    ) -> Self:
        """Train a new network on pairs, by teacher forcing.

        Ctrl-C ends training and keeps the best parameters so far.

        Parameters
        ----------
        X : list of N sequences, or (N, D) array_like
            The sources, as described in the notes of the class.
        y : list of N sequences of str
            The targets, each a list or tuple of symbols (non-empty str), or a str, which is the sequence of its
            characters. A target may be empty. ``</s>`` and ``<s>`` are reserved.
        epochs : int, default=20
            Number of passes over the training data.
        batch_size : int, default=32
            Pairs in each update. Pairs of similar length are batched together.
        max_steps : int, optional
            Upper limit of the symbols in an update, padding included, of the sources and of the targets.
        max_length : int, optional
            Sources and targets of more symbols are an error.
        validation : float or tuple (X, y), default=0.0
            The held-out data, or the fraction of the pairs to hold out, drawn with the seed. The parameters with the
            lowest validation loss are kept, which may be the initial ones; with 0, the last ones. A warning names
            symbols of held-out targets that the training part does not have. They count as ``<unk>``, or have no loss
            if training had no rare symbols to learn ``<unk>`` from.
        label_smoothing : float, default=0.0
            Fraction of each target's probability that is spread over all symbols, in training only, 0 to 1.
        scheduled_sampling : float or callable, default=0.0
            Probability that the input of a step is drawn from the model's own prediction at the step before, instead of
            the target's symbol, 0 to 1; or a function of the epoch, counted from 0, that returns it (Bengio et al.
            2015, who increase it).
        verbose : bool, default=True
            Show the progress on stderr.
        **settings
            Other fields of ``fastrnn.settings.Settings``: `optimizer`, `lr`, `schedule`, `patience`, `checkpoint`,
            `resume` and so on. The defaults are optimizer="adam", lr=2e-3, clip_norm=5.0 and loss_limit=30.0.

        Returns
        -------
        EncoderDecoder or VectorToSequence
            This model, fitted.

        Raises
        ------
        ValueError, TypeError
            If the numbers of sources and targets differ, if a source is empty or has the wrong size, if a sequence is
            longer than `max_length`, or if an argument is out of its range. The model and the checkpoint directory are
            unchanged then.

        Warns
        -----
        RuntimeWarning
            If training diverged or was interrupted; see `outcome` and `message`.
        """
        settings = self._settings(epochs, verbose, settings)
        _check.number("label_smoothing", label_smoothing, least=0, most=1)
        sampling = check_pairs.sampling(scheduled_sampling, settings.epochs)
        sizes = dict(batch_size=batch_size, max_steps=max_steps)
        learning = dict(label_smoothing=label_smoothing, sampling=sampling, scheduled_sampling=scheduled_sampling)
        return self._fit((X, y, max_length), validation, settings, **sizes, **learning)

    def _read(self, X, y, max_length=None, *, like=None):
        width = None
        if like is not None:
            width, max_length = self._width_of(like.columns[0]), like.common["max_length"]
        return Examples(self._pairs(X, y, max_length, width), {"max_length": max_length})

    def _prepare(
        self, data, held, seed, settings, *, batch_size, max_steps, label_smoothing, sampling, scheduled_sampling
    ):  # fmt: skip
        X, y = data.columns
        known, vocabulary = self._known_of(X), Symbols.of(y, self.min_count, ends=True)
        options = dict(max_steps=max_steps, seed=random_key(seed, 1), sampling=sampling)
        targets = [vocabulary.encode(one) for one in y]
        training, held_out = Pairs(self._sources(X, known), targets, vocabulary, batch_size, **options), None
        if held is not None:
            targets = vocabulary.encode_targets(held.columns[1], unseen.HELD_OUT)
            sources = self._sources(held.columns[0], known)
            held_out = Pairs(sources, targets, vocabulary, batch_size, max_steps=max_steps)

        def identity(training):
            sampled = "a function" if callable(scheduled_sampling) else scheduled_sampling
            sizes = {"batch_size": batch_size, "max_steps": max_steps}
            learning = {"label_smoothing": label_smoothing, "scheduled_sampling": sampled}
            learnt = self._fitted_config() | {name: array.tolist() for name, array in self._fitted_arrays().items()}
            return {"data": training.digest(learnt), **sizes, **learning}

        def build():
            self._build(known, vocabulary, seed)
            self._label_smoothing, self._longest = label_smoothing, max(map(len, y))
            self._joined = all(isinstance(sequence, str) for sequence in y)

        return Setup(build, lambda: (training, held_out), identity)

    def _pairs(self, X, y, max_length=None, width=None):
        """The sources and the targets, checked."""
        X, y = self._checked(X, width, max_length), check_pairs.sequences("y", y, empty=True)
        check_pairs.same_number(X, y)
        check_pairs.not_longer("targets", y, LONGEST if max_length is None else min(max_length, LONGEST))
        return X, y

    def _batches(self, X, y=None, batch_size=64):
        """Batches of pairs for a fitted model; without y all targets are empty."""
        self._check_fitted()
        if y is None:
            X = self._checked(X, self._width, None)
            targets = [np.empty(0, np.int32)] * len(X)
        else:
            X, y = self._pairs(X, y, width=self._width)
            targets = self.vocabulary.encode_targets(y, "y")
        return Pairs(self._sources(X, self._known), targets, self.vocabulary, batch_size)

    def predict(
        self,
        X: Sequence | np.ndarray,
        *,
        beam: int = 1,
        n_best: int | None = None,
        length_penalty: float = 0.0,
        max_length: int | None = None,
    ) -> list[str] | list[list[str]] | list[list[tuple[str | list[str], float]]]:
        """Predict the most likely target of each source.

        Parameters
        ----------
        X : list of N sequences, or (N, D) array_like
            The sources, as in `fit`.
        beam : int, default=1
            Beam width. 1 takes the most likely symbol at each step.
        n_best : int, optional
            Return this many candidates for each source, the best first; at most `beam`.
        length_penalty : float, default=0.0
            Candidates are compared by log-probability / ((5 + symbols) / 6) ** length_penalty (Wu et al. 2016), >= 0.
        max_length : int, optional
            Upper limit of the symbols of a prediction, ``</s>`` included; by default the length of the longest target
            in training.

        Returns
        -------
        list of N lists of str, or of N str if all targets in training were str
            The predictions. With `n_best`, N lists of pairs (prediction, score), in which complete predictions come
            before those that `max_length` cut off.

        Raises
        ------
        RuntimeError
            If the model has not been fitted.
        ValueError
            If a source has the wrong size or no symbols, if n_best is larger than beam, or if an argument is out of its
            range.
        """
        wanted = 1 if n_best is None else _check.size("n_best", n_best)
        if wanted > _check.size("beam", beam):
            raise ValueError(f"n_best is {n_best}, but beam={beam} gives no more than {beam}: raise beam")
        length_penalty = _check.number("length_penalty", length_penalty, least=0)
        found = self._search(X, max_length, beam=beam, n_best=wanted, length_penalty=length_penalty)
        if n_best is None:
            return [self._decoded(best[0].ids) for best in found]
        return [[(self._decoded(ids), score) for ids, score, _ in best] for best in found]

    def sample(
        self,
        X: Sequence | np.ndarray,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        max_length: int | None = None,
    ) -> list[str] | list[list[str]]:
        """Draw a target for each source.

        Parameters
        ----------
        X : list of N sequences, or (N, D) array_like
            The sources, as in `fit`.
        temperature : float, default=1.0
            Divides the logits, > 0. Below 1, unlikely symbols are drawn less often.
        seed : int, optional
            Seed of the draws: the same seed gives the same results for the same X. By default a random one is drawn.
        max_length : int, optional
            Upper limit of the symbols, as in `predict`.

        Returns
        -------
        list of N lists of str, or of N str if all targets in training were str
            The targets drawn.
        """
        temperature = _check.number("temperature", temperature, above=0)
        seed = np.random.SeedSequence().generate_state(1, np.uint64)[0] if seed is None else _check.seed(seed)
        return [
            self._decoded(best[0].ids) for best in self._search(X, max_length, temperature=temperature, seed=int(seed))
        ]

    def _search(self, X, max_length, *, seed=None, **options):
        """The result of the search for each source, in the order of X."""
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

    def log_likelihood(self, X: Sequence | np.ndarray, y: Sequence) -> np.ndarray:
        """Compute the log-probability of each target given its source.

        Parameters
        ----------
        X : list of N sequences, or (N, D) array_like
            The sources, as in `fit`.
        y : list of N sequences of str
            The targets, as in `fit`.

        Returns
        -------
        (N,) ndarray
            Log-probabilities in nats, float64, ``</s>`` included. Minus infinity if a target has a symbol that the
            model does not know and there is no ``<unk>``; a warning names it.
        """
        batches = self._batches(X, y)
        found = np.zeros(len(batches.targets))
        for batch in batches:
            nll, rows = self._nll(batch)
            found[batch.rows] = -np.bincount(rows, nll, len(batch.rows))
        found[[bool((target < 0).any()) for target in batches.targets]] = -np.inf
        return found

    def score(self, X: Sequence | np.ndarray, y: Sequence) -> float:
        """Compute the mean log-likelihood of the target symbols.

        Parameters
        ----------
        X : list of N sequences, or (N, D) array_like
            The sources, as in `fit`.
        y : list of N sequences of str
            The targets, as in `fit`. A symbol that the model does not know counts as ``<unk>``, or is left out of the
            mean if there is none; a warning names it.

        Returns
        -------
        float
            Nats per target symbol, ``</s>`` included, at most 0; higher is better.
        """
        return -self.evaluate(self._batches(X, y))["loss"]

    def _fitted_config(self):
        return {"symbols": self.vocabulary.symbols, "longest": self._longest, "joined": self._joined}

    def _rebuild(self, config, arrays):
        self._build(self._known_in(config, arrays), Symbols(config["symbols"]), 0)
        self._longest, self._joined = config["longest"], config["joined"]
