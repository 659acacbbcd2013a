"""Drawing of the next symbol of a text."""

from __future__ import annotations

import numpy as np

from fastrnn import _check


class Sampler:
    """Draw a symbol from the logits of the next one.

    Parameters
    ----------
    temperature : float, default=1.0
        Divides the logits; 0 takes the most likely symbol.
    top_k : int, optional
        Draw only from the k most likely symbols.
    top_p : float, optional
        Draw only from the smallest set of symbols whose total probability is at least this.
    seed : int, optional
        Seed of the draws.

    Examples
    --------
    >>> Sampler(temperature=0)(np.array([0.1, 3.0, 0.2]))
    1
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, seed: int | None = None
    ):
        self._temperature = _check.number("temperature", temperature, least=0)
        self._top_k = None if top_k is None else _check.size("top_k", top_k)
        self._top_p = None if top_p is None else _check.number("top_p", top_p, above=0, most=1)
        self._rng = np.random.default_rng(seed)

    def __call__(self, logits) -> int:
        """Draw an id from logits (V,). Raises a RuntimeError if one of them is NaN or infinity."""
        if np.isnan(logits).any() or logits.max() == np.inf:
            raise RuntimeError(
                "the logits of the next symbol are NaN or infinite: the parameters have diverged; train with a lower lr"
            )
        if self._temperature == 0:
            return int(logits.argmax())
        z = logits.astype(np.float64)
        p = np.exp((z - z.max()) / self._temperature)
        if self._top_k is not None or self._top_p is not None:
            order = np.argsort(-p, kind="stable")
            kept = len(p) if self._top_k is None else min(self._top_k, len(p))
            if self._top_p is not None:
                cumulative = p[order].cumsum()
                kept = min(kept, int(np.searchsorted(cumulative, self._top_p * cumulative[-1])) + 1)
            p[order[kept:]] = 0
        cumulative = p.cumsum()
        return int(np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right"))
