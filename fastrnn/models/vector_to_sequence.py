"""A vector to a sequence: a picture to its name, properties to a caption."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fastrnn import _check
from fastrnn._check import pairs as check_pairs
from fastrnn.models.decoder_network import Code
from fastrnn.models.decoding import Decoding
from fastrnn.models.model import CELLS
from fastrnn.models.scaling import Scaler, Unscaled, cast, from_arrays, to_arrays


class VectorToSequence(Decoding):
    """Write a sequence of symbols about a vector (Vinyals et al. 2015; Karpathy & Fei-Fei 2015).

    Parameters
    ----------
    cell : {"gru", "lstm", "rnn"}, default="gru"
        Kind of recurrent layer; "rnn" has the tanh activation.
    hidden_size : int, default=128
        Units of each recurrent layer.
    num_layers : int, default=1
        Number of recurrent layers.
    context : {"both", "initial", "every"}, default="both"
        Where the vector enters: as the initial state of all layers, through ``tanh(W v + b)``; at every step as an
        additional bias; or both.
    embedding_size : int, default=64
        Size of the embedding of symbols.
    min_count : int, default=1
        Symbols that occur less often in the training data become ``<unk>``. If no symbol is rare there is no ``<unk>``.
    tied : bool, default=False
        Share the weight of the embedding with the softmax (Press & Wolf 2017). `embedding_size` and `hidden_size` must
        be equal.
    dropout : float, default=0.0
        Dropout probability between layers and in the network's output (training only), 0 <= dropout < 1.
    standardize : bool, default=True
        Shift and scale each element of the vectors to mean 0 and standard deviation 1 over the training data. The scale
        is saved with the model.
    dtype : {"float32", "float64"}, default="float32"
        What the network computes in.
    seed : int, optional
        Seed of the initial parameters, the order of the batches and dropout. The same seed gives the same training run,
        bit for bit, on any number of threads. By default a random one is drawn.

    Attributes
    ----------
    vocabulary : Symbols
        The symbols of the targets.
    history : list of dict
        An entry for each evaluation: `epoch`, `update`, `lr`, `train_loss` and, with validation data,
        `validation_loss`.
    outcome : str or None
        How training ended: "finished", "stopped early", "interrupted" (by Ctrl-C) or "diverged"; None before `fit`.
    message : str or None
        Details of the outcome, if there are any.
    speed : float or None
        Target symbols per second in the last training.

    Notes
    -----
    The sources X of `fit`, `predict` and the other methods are N vectors, an array (N, D) of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> names = ["zero", "one", "two", "three"]
    >>> model = VectorToSequence("gru", 32, embedding_size=8, seed=0)
    >>> model = model.fit(np.eye(4), names, epochs=100, batch_size=4, lr=0.02, verbose=False)
    >>> model.predict(np.eye(4)[[3, 0]])
    ['three', 'zero']
    """

    ARGUMENTS = (
        "cell", "hidden_size", "num_layers", "context", "embedding_size", "min_count", "tied", "dropout", "standardize",
    )  # fmt: skip

    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn"] = "gru",
        hidden_size: int = 128,
        num_layers: int = 1,
        *,
        context: Literal["both", "initial", "every"] = "both",
        embedding_size: int = 64,
        min_count: int = 1,
        tied: bool = False,
        dropout: float = 0.0,
        standardize: bool = True,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.cell = _check.choice("cell", cell, tuple(CELLS))
        for name in ("hidden_size", "num_layers", "embedding_size", "min_count"):
            setattr(self, name, _check.size(name, locals()[name]))
        self.context = _check.choice("context", context, ("both", "initial", "every"))
        self.tied, self.standardize = bool(tied), bool(standardize)
        check_pairs.tied(self.tied, "embedding_size", embedding_size, "hidden_size", hidden_size)
        self.dropout = _check.probability("dropout", dropout)
        self.dtype = _check.dtype(dtype)
        self.seed = _check.seed(seed)
        self.history = []

    @property
    def _decoder(self):
        return self.cell, self.hidden_size, self.num_layers, self.embedding_size

    @staticmethod
    def _width_of(X):
        return X.shape[1]

    @property
    def _width(self):
        return self._known[0]

    def _checked(self, X, width, max_length):
        return check_pairs.vectors(X, width)

    def _known_of(self, X):
        return X.shape[1], Scaler.of([X]) if self.standardize else Unscaled()

    def _sources(self, X, known):
        with np.errstate(over="ignore"):  # `cast` names the value that is too large
            return np.ascontiguousarray(cast(known[1](X), self.dtype, lambda place: f"vector {place[0]}"))

    def _build_source(self, known, seed):
        return (), known[0], 0, False

    def _coded(self, vectors):
        return Code(vectors)

    def _coded_vjp(self, vectors, rng):
        return Code(vectors), lambda dcode, into: None

    def _fitted_config(self):
        return {**super()._fitted_config(), "width": self._known[0]}

    def _fitted_arrays(self):
        return to_arrays("scaler", self._known[1])

    def _known_in(self, config, arrays):
        return config["width"], from_arrays("scaler", arrays, config["width"], self.standardize)
