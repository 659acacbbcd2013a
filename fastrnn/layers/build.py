"""Construction of a network of one kind of cell from its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn._check import memory as check_memory
from fastrnn._check import stacked as check_stacked
from fastrnn._types import Seed
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked

_LAYER_OBJECT_BYTES = 10_000  # memory of a layer's Python objects


def make(
    cell: type[Recurrent[Any]], input_size: int, hidden_size: int | Sequence[int], num_layers: int = 1, *,
    dropout: float = 0.0, variational: bool = False, residual: bool = False, context_size: int = 0, seed: Seed = None,
    **options: Any,
) -> Recurrent[Any] | Stacked:  # fmt: skip
    """Construct a network of one kind of cell: one RNN, GRU or LSTM if all layers are alike, otherwise a `Stacked`.

    Parameters
    ----------
    cell : {fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM}
        Class of the layers.
    input_size : int
        Number of input features.
    hidden_size : int or sequence of int
        Number of hidden units of all layers, or of each layer.
    num_layers : int, default 1
        Number of layers. Not needed if `hidden_size` is a sequence.
    dropout : float, default 0.0
        Dropout probability between layers.
    variational : bool, default False
        Use one dropout mask for all steps of a sequence.
    residual : bool, default False
        Add the input of each layer but the first to its output.
    context_size : int, default 0
        Number of features of a context vector.
    seed : int or numpy.random.Generator, optional
        Source of the initial values and the dropout masks.
    **options
        Other options of `cell`, the same for all layers.

    Returns
    -------
    RNN, GRU, LSTM or Stacked
        The network.

    Examples
    --------
    >>> import fastrnn
    >>> make(fastrnn.GRU, 3, 8, 2)
    GRU(3, 8, num_layers=2)
    >>> make(fastrnn.GRU, 3, (8, 4), bidirectional=True)
    Stacked([GRU(3, 8, bidirectional=True), GRU(16, 4, bidirectional=True)])
    """
    sizes = check_stacked.layer_sizes(hidden_size, num_layers)
    if isinstance(sizes, int) and not residual:
        more = dict(dropout=dropout, variational=variational, context_size=context_size, seed=seed)
        return cell(input_size, sizes, num_layers, **more, **options)
    if isinstance(sizes, int):
        check_memory.fits(
            f"the parameters of {num_layers:,} layers", num_layers * _LAYER_OBJECT_BYTES, "use fewer layers"
        )
        sizes = [sizes] * num_layers
    rng, layers = np.random.default_rng(seed), []
    for size in sizes:
        layers.append(
            cell(input_size, size, context_size=0 if layers else context_size, seed=int(rng.integers(2**63)), **options)
        )
        input_size = layers[-1].output_size
    return Stacked(layers, dropout=dropout, variational=variational, residual=residual)
