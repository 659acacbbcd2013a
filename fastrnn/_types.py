"""Type aliases of the public signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Activation", "Array", "ArrayLike", "DTypeLike", "IntArray", "IntsLike", "MemberStates", "MemberStatesLike",
    "Seed", "State", "StateLike",
]  # fmt: skip

Array: TypeAlias = NDArray[np.floating[Any]]  # float32 or float64, the dtype of the layer
IntArray: TypeAlias = NDArray[np.int64]
IntsLike: TypeAlias = ArrayLike  # what NumPy converts to an array of whole numbers
Seed: TypeAlias = "int | np.random.Generator | None"  # a string: np.random is imported when it is used
Activation: TypeAlias = str | tuple[str] | tuple[str, float] | tuple[str, float, float]

State: TypeAlias = Array | tuple[Array, Array]  # h of RNN and GRU, (h, c) of LSTM
StateLike: TypeAlias = ArrayLike | Sequence[ArrayLike]
MemberStates: TypeAlias = tuple[State, ...]  # of Stacked: a state for each member
MemberStatesLike: TypeAlias = Sequence[StateLike | None]
