"""Karpathy's min-char-rnn: a vanilla RNN of 100 units that learns to predict the next character of a text.

    python examples/min_char_rnn.py               the documentation that comes with Python
    python examples/min_char_rnn.py input.txt     a file (UTF-8)
    python -m bench.min_char_rnn input.txt        the same, and the original in NumPy, to compare their speed

The text is one stream, and Adagrad updates the parameters after every 25 characters. The script prints the smoothed
loss in nats per 25 characters, as the original does.
"""

import argparse
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import fastrnn

H, T = 100, 25


def iteration(V, w_xh, w_hh, w_hy, dtype="float32"):
    """Make a function that learns from T + 1 ids, and returns the loss and the next state.

    Instead of a bias, the network has one more input, which is always 1.
    """
    storage, inputs = fastrnn.Storage(dtype), np.hstack([np.eye(V), np.ones((V, 1))]).astype(dtype)
    rnn = fastrnn.RNN(V + 1, H, bias=False, dtype=dtype, storage=storage)
    linear = fastrnn.Linear(H, V, dtype=dtype, storage=storage)
    rnn.load_state_dict({"weight_ih_l0": np.hstack([w_xh, np.zeros((H, 1))]), "weight_hh_l0": w_hh})
    linear.load_state_dict({"weight": w_hy, "bias": np.zeros(V)})
    adagrad, grad = fastrnn.optim.Adagrad(storage, lr=0.1, eps=0), np.zeros_like(storage.flat)
    adagrad.load_state_dict(adagrad.state_dict() | {"s": np.full_like(grad, 1e-8)})  # sqrt(1e-8 + sum of squares)

    @fastrnn.planned
    def gradient(x, targets, state, *, into):
        (y, state), rnn_backward = rnn.vjp(x, state)
        logits, linear_backward = linear.vjp(y)
        loss, loss_backward = fastrnn.losses.softmax_cross_entropy.vjp(logits, targets, out=logits)
        dlogits = loss_backward(T)  # the gradient of the sum over T steps, not of the mean
        rnn_backward(linear_backward(dlogits, into=into).x, need_x=False, into=into)
        fastrnn.optim.clip_by_value(into, 5)
        return loss, state

    def iterate(ids, state):
        grad[:] = 0
        loss, state = gradient(inputs[ids[:-1], None], ids[1:, None], state, into=grad)
        adagrad.step(grad)
        return T * loss, state

    return iterate


def main(make=iteration):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    for option, value in {"iterations": 10_000, "seed": 0}.items():
        parser.add_argument("--" + option, type=int, default=value)
    arguments = parser.parse_args()
    text = arguments.file.read_text("utf-8") if arguments.file else "\n".join(topics.values())
    _, ids = np.unique(list(text), return_inverse=True)
    V, rng = ids.max() + 1, np.random.RandomState(arguments.seed)
    iterate = make(V, *(0.01 * rng.randn(*shape) for shape in ((H, V), (H, H), (V, H))))
    smooth, p, state, start = T * np.log(V), 0, None, time.perf_counter()
    for n in range(1, arguments.iterations + 1):
        loss, state = iterate(ids[p : p + T + 1], state)
        smooth = 0.999 * smooth + 0.001 * loss
        p, state = (p + T, state) if p + 2 * T + 1 < len(ids) else (0, None)
        if n % 1000 == 0:
            print(f"iteration {n}: smoothed loss {smooth:.2f}, {(time.perf_counter() - start) / n * 1e6:.0f} µs each")


if __name__ == "__main__":
    main()
