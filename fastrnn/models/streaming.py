"""Streams of fitted models: sequences that arrive step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn._check import data as check_data
from fastrnn._types import Array, ArrayLike, IntsLike
from fastrnn.layers.network import Network
from fastrnn.models.scaling import cast
from fastrnn.models.text import Bytes


class ModelStream:
    """Stream of a fitted model: the outputs after each step of sequences that arrive piece by piece.

    It computes what the model was when the stream was created: another `fit` makes new layers, which need a new stream.
    Construct it with ``model.stream(batch_size)``. Only one thread at a time may use a stream.

    Attributes
    ----------
    batch_size : int
        Number of sequences.
    """

    def __init__(self, network: Network, batch_size: int, finish: Callable[[Array], Array]):
        self._stream, self._finish = network.stream(batch_size), finish
        self.batch_size = self._stream.batch_size

    def __repr__(self):
        return f"<{type(self).__name__}: batch_size={self.batch_size}>"

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Begin new sequences.

        Parameters
        ----------
        rows : array_like, optional
            Indices or bool mask of the sequences. By default all.
        """
        self._stream.reset(rows)

    def refresh(self) -> None:
        """Use parameters of the layers that were changed in place from now on. The state does not change."""
        self._stream.refresh()

    @property
    def state(self) -> tuple[Any, ...]:
        """Copy of the states of the recurrent layers. It can be set; None is the initial state."""
        return self._stream.state

    @state.setter
    def state(self, value: tuple[Any, ...] | None) -> None:
        self._stream.state = value


class FeatureStream(ModelStream):
    """Stream of a SequenceClassifier or SequenceRegressor.

    Attributes
    ----------
    batch_size : int
        Number of sequences.

    Examples
    --------
    >>> from fastrnn.models import SequenceRegressor
    >>> X = np.random.default_rng(0).standard_normal((40, 9, 2))
    >>> model = SequenceRegressor("gru", 8, per_step=True, seed=0).fit(X, X.cumsum(1)[..., 0], epochs=1, verbose=False)
    >>> s = model.stream()
    >>> y = np.stack([s.step(x_t[None])[0, 0] for x_t in X[0]])
    >>> bool((y == model.predict(X[:1])[0]).all())
    True
    """

    def __init__(self, network, batch_size, finish, scaler, features):
        super().__init__(network, batch_size, finish)
        self._scaler, self._features, self._dtype = scaler, features, network.dtype
        self._width = next(iter(network.layers.values())).input_size

    def step(self, x_t: ArrayLike) -> Array:
        """Compute the outputs after one more step.

        Parameters
        ----------
        x_t : array_like or data frame, shape (batch_size, features)
            Next step of each sequence, in the units of the training data. Columns of data frames are matched by name.

        Returns
        -------
        ndarray, shape (batch_size, K)
            Probabilities of the classes, in the order of `classes_`, or predicted numbers (float64), for the sequences
            so far: those of `predict_proba` or `predict`, bit for bit.

        Raises
        ------
        ValueError
            The shape does not fit, or a value is NaN or infinite. The state does not change.
        """
        return self._finish(self._stream.step(self._scaled("x_t", x_t, 2)))

    def run(self, x: ArrayLike) -> Array:
        """Compute the outputs after each of several steps.

        Parameters
        ----------
        x : array_like, shape (T, batch_size, features)
            Next steps of each sequence.

        Returns
        -------
        ndarray, shape (T, batch_size, K)
            Outputs after each step.

        Raises
        ------
        ValueError
            The shape does not fit, or a value is NaN or infinite. The state does not change.
        """
        return self._finish(self._stream.run(self._scaled("x", x, 3)))

    def _scaled(self, name, x, ndim):
        x = np.asarray(check_data.by_name(name, x, self._features))
        if x.ndim != ndim or x.shape[-2:] != (self.batch_size, self._width):
            shape = ("T, " if ndim == 3 else "") + f"{self.batch_size}, {self._width}"
            hint = ": pass x_t[None]" if self.batch_size == ndim - 1 == 1 and x.shape == (self._width,) else ""
            raise ValueError(f"{name} has shape {x.shape}, but this stream takes ({shape}){hint}")
        if x.dtype.kind not in "fiub":
            raise TypeError(f"{name} has dtype {x.dtype}, but it must be real numbers")
        if not np.isfinite(x).all():
            place = tuple(np.argwhere(~np.isfinite(x))[0].tolist())
            raise ValueError(f"{name}{list(place)} is {x[place]}: replace such values")
        return cast(np.asarray(self._scaler(x)), self._dtype, name)


class TextStream(ModelStream):
    """Stream of a LanguageModel: how likely each symbol comes next, after each symbol of a text.

    Attributes
    ----------
    batch_size : int
        Number of texts.

    Examples
    --------
    >>> from fastrnn.models import LanguageModel
    >>> text = "the quick brown fox jumps over the lazy dog. " * 40
    >>> model = LanguageModel("gru", 32, seed=0).fit(text, epochs=25, batch_size=8, seq_len=20, lr=0.02, verbose=False)
    >>> s = model.stream()
    >>> logp = s.run("the qui")[-1, 0]
    >>> model.vocabulary.decode([logp.argmax()])
    'c'
    """

    def __init__(self, network, batch_size, vocabulary):
        super().__init__(network, batch_size, _log_softmax)
        self._vocabulary = vocabulary

    def step(self, symbol: str | bytes | IntsLike) -> Array:
        """Read one more symbol of each text.

        Parameters
        ----------
        symbol : str, bytes or array_like of int, shape (batch_size,)
            The symbol, if there is one text; otherwise ids, as of ``model.vocabulary.encode``. At the word level, a
            word begins with the blank before it: ``" fox"``.

        Returns
        -------
        ndarray, shape (batch_size, V)
            Log-probabilities of the next symbol, by id.

        Raises
        ------
        ValueError
            The model does not know the character, or there is not one symbol for each text. The state does not change.
            An unknown word counts as ``<unk>``.
        """
        return self._finish(self._stream.step(self._ids(symbol, 1)))

    def run(self, text: str | bytes | IntsLike) -> Array:
        """Read several symbols of each text.

        Parameters
        ----------
        text : str, bytes or array_like of int, shape (T, batch_size)
            The symbols, if there is one text; otherwise ids, as of ``model.vocabulary.encode``.

        Returns
        -------
        ndarray, shape (T, batch_size, V)
            Log-probabilities of the next symbol after each symbol, by id.

        Raises
        ------
        ValueError
            The model does not know a character, or the shape does not fit. The state does not change.
        """
        return self._finish(self._stream.run(self._ids(text, 2)))

    def _ids(self, symbols, ndim):
        if isinstance(symbols, bytes) and not isinstance(self._vocabulary, Bytes):
            raise TypeError("this model does not read bytes: give a str")
        if isinstance(symbols, (str, bytes)):
            if self.batch_size != 1:
                raise ValueError(
                    f"a {type(symbols).__name__} is one text, but this stream has {self.batch_size}: give ids, "
                    "model.vocabulary.encode(text)"
                )
            ids = self._vocabulary.encode(symbols)
            if ndim == 1 and len(ids) != 1:
                raise ValueError(f"{symbols!r} has {len(ids)} symbols, but a step reads one: use run")
            return ids.reshape(-1, 1) if ndim == 2 else ids
        if np.asarray(symbols).dtype.kind in "US":
            raise TypeError("symbols of several texts must be ids: give model.vocabulary.encode(…)")
        return np.reshape(symbols, (-1, 1)[-ndim:]) if self.batch_size == 1 and np.ndim(symbols) < ndim else symbols


def _log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
