"""Compare examples/min_char_rnn.py with the original in NumPy: same initial weights, same windows, the time of both.

python -m bench.min_char_rnn [input.txt]        from the source folder
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[1] / "examples" / "min_char_rnn.py"


def numpy_iteration(V, w_xh, w_hh, w_hy):
    """Return Karpathy's iteration in float64: ids (T+1,), h (H,1) or None -> loss, h.

    Source: gist.github.com/karpathy/d4dee566867f8291f086
    """
    H = len(w_hh)
    w_xh, w_hh, w_hy, b_h, b_y = weights = [w_xh.copy(), w_hh.copy(), w_hy.copy(), np.zeros((H, 1)), np.zeros((V, 1))]
    sums = [np.zeros_like(w) for w in weights]

    def iterate(ids, h):
        hs, ps, loss = [np.zeros((H, 1)) if h is None else h], [], 0.0
        xs = np.eye(V)[ids[:-1], :, None]
        for x, target in zip(xs, ids[1:]):
            hs.append(np.tanh(w_xh @ x + w_hh @ hs[-1] + b_h))
            y = w_hy @ hs[-1] + b_y
            ps.append(np.exp(y) / np.sum(np.exp(y)))
            loss -= np.log(ps[-1][target, 0])
        grads, dh_next = [np.zeros_like(w) for w in weights], np.zeros((H, 1))
        for t in reversed(range(len(xs))):
            dy = ps[t].copy()
            dy[ids[t + 1]] -= 1
            dh = (w_hy.T @ dy + dh_next) * (1 - hs[t + 1] ** 2)
            for grad, change in zip(grads, (dh @ xs[t].T, dh @ hs[t].T, dy @ hs[t + 1].T, dh, dy)):
                grad += change
            dh_next = w_hh.T @ dh
        for w, grad, s in zip(weights, grads, sums):
            np.clip(grad, -5, 5, out=grad)
            s += grad * grad
            w -= 0.1 * grad / np.sqrt(s + 1e-8)
        return loss, hs[-1]

    return iterate


def main():
    example = runpy.run_path(str(EXAMPLE))
    for name, make in (("fastrnn", example["iteration"]), ("NumPy", numpy_iteration)):
        print(f"{name}:")
        example["main"](make)


if __name__ == "__main__":
    main()
