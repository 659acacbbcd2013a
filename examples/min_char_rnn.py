"""Karpathy's min-char-rnn: 100 tanh units read one stream of characters (a file's, or Python's documentation); Adagrad, 25 at a time.

python examples/min_char_rnn.py input.txt    prints the smoothed loss in nats per 25 characters, as the original does
python -m bench.min_char_rnn input.txt       the original in NumPy beside it, for its time
"""

import argparse
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import fastrnn

H, T = 100, 25


def iteration(V, w_xh, w_hh, w_hy, dtype="float32"):
    """A function that learns from T + 1 ids: the loss, and the state to go on from. The bias is the weight of an input that is always 1."""
    storage, inputs = fastrnn.Storage(dtype), np.hstack([np.eye(V), np.ones((V, 1))]).astype(dtype)
    rnn = fastrnn.RNN(V + 1, H, bias=False, dtype=dtype, storage=storage)
    linear = fastrnn.Linear(H, V, dtype=dtype, storage=storage)
    rnn.load_state_dict({"weight_ih_l0": np.hstack([w_xh, np.zeros((H, 1))]), "weight_hh_l0": w_hh})
    linear.load_state_dict({"weight": w_hy, "bias": np.zeros(V)})
    adagrad, grad = fastrnn.optim.Adagrad(storage, lr=0.1, eps=0), np.zeros_like(storage.flat)
    adagrad.load_state_dict(adagrad.state_dict() | {"s": np.full_like(grad, 1e-8)})  # sqrt(1e-8 + sum of squares)

    def iterate(ids, state):
        (y, state), rnn_backward = rnn.vjp(inputs[ids[:-1], None], state)
        (logits, linear_backward), grad[:] = linear.vjp(y), 0
        loss, loss_backward = fastrnn.losses.softmax_cross_entropy.vjp(logits, ids[1:, None], out=logits)
        rnn_backward(
            linear_backward(loss_backward(T), into=grad).x, need_x=False, into=grad
        )  # T: of the sum, not the mean
        fastrnn.optim.clip_by_value(grad, 5)
        adagrad.step(grad)
        return T * loss, state

    return iterate


def main(make=iteration):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    for option, value in {"iterations": 10_000, "seed": 0}.items():
        parser.add_argument("--" + option, type=int, default=value)
    arguments = parser.parse_args()
    ids = np.unique(
        list(arguments.file.read_text("utf-8") if arguments.file else "\n".join(topics.values())), return_inverse=True
    )[1]
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
