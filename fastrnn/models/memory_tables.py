"""The parameters of a MemoryNetwork."""

from __future__ import annotations

import numpy as np

from fastrnn._check import memory as check_memory
from fastrnn.parameters import Layer

DEVIATION = 0.1  # standard deviation of the initial values of all parameters


class Tables(Layer):
    """Embeddings of words and of ages, the vectors of the answers, and the matrix between hops of layer-wise tying.

    Attributes
    ----------
    hops : list of tuple of int
        The table of the keys and the table of the values of each hop.
    of_memory : list of int
        The tables that sentences are read with.
    of_question : int
        The table that the question is read with.
    between : bool
        Whether there is a matrix between hops. Then the answers have vectors of their own; otherwise their vectors are
        the first rows of the last table.
    """

    kind = "MemoryNetwork"

    def __init__(self, model, seed):
        rng, V, A, d = np.random.default_rng(seed), len(model._word_id), len(model.answers_), model.size
        adjacent = model.tying == "adjacent"
        self.hops = [(k, k + 1) if adjacent else (0, 1) for k in range(model.hops)]
        self.of_memory = sorted({k for pair in self.hops for k in pair})
        self.of_question = 0 if adjacent else 2
        self.between = not adjacent
        shapes = {f"words_{k}": (V, d) for k in sorted({*self.of_memory, self.of_question})}
        if model.temporal_encoding:
            shapes |= {f"ages_{k}": (model.memory + 1, d) for k in self.of_memory}
        if not adjacent:
            shapes |= {"answers": (A, d), "between": (d, d)}
        what = f"MemoryNetwork(size={d}, hops={model.hops}, memory={model.memory})"
        check_memory.shaped(what, shapes, model.dtype, model.storage)
        self._num_answers = A
        initial = {name: DEVIATION * rng.standard_normal(shape) for name, shape in shapes.items()}
        self._own(model.storage, model.dtype, initial)

    def answers(self, views: dict[str, np.ndarray]) -> np.ndarray:
        """The vectors (A, d) of the answers, among views of the parameters or of their gradients."""
        return views["answers"] if self.between else views[f"words_{self.hops[-1][1]}"][: self._num_answers]

    def views(self, into: np.ndarray) -> dict[str, np.ndarray]:
        """The views of a flat gradient, by the names of the parameters."""
        return self._gradients(into)[0]
