"""The adding problem: read a long sequence of numbers, and return the sum of the two that are marked.

    python examples/adding_problem.py                a vanilla RNN (IRNN)
    python examples/adding_problem.py --cell lstm    an LSTM whose forget gates start with bias 1

Each step has a number from 0 to 1 and a marker, which is 1 at one step of each half of the sequence and 0 elsewhere
(Hochreiter & Schmidhuber 1997). The IRNN has ReLU units, and its recurrent weights start as the identity (Le, Jaitly &
Hinton 2015). Every update uses new sequences. The script prints the mean squared error on a fixed test set, next to
that of always answering 1 (1/6 on average), and stops as soon as it is below 0.01.
"""

import argparse
import time

import numpy as np

import fastrnn
from fastrnn import losses, optim


def draw(rng, T, B):
    """Draw inputs (T, B, 2) and their sums (B, 1)."""
    x = np.zeros((T, B, 2), "float32")
    x[..., 0] = rng.random((T, B))
    for low, high in ((0, T // 2), (T // 2, T)):
        x[rng.integers(low, high, B), np.arange(B), 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(0)[:, None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=("irnn", "lstm"), default="irnn")
    for option, value in {"length": 200, "hidden": 100, "batch": 16, "updates": 40_000, "seed": 0}.items():
        parser.add_argument("--" + option, type=int, default=value)
    arguments = parser.parse_args()
    T, H, rng = arguments.length, arguments.hidden, np.random.default_rng(arguments.seed)

    lstm, storage = arguments.cell == "lstm", fastrnn.Storage()  # one buffer for the parameters of both layers
    linear = fastrnn.Linear(H, 1, seed=rng, storage=storage)
    rnn = fastrnn.LSTM(2, H, storage=storage) if lstm else fastrnn.RNN(2, H, nonlinearity="relu", storage=storage)
    fastrnn.parameters.initialise(rnn, "glorot", forget_bias=1 if lstm else None, seed=rng)
    if not lstm:
        rnn.load_state_dict({"weight_ih_l0": rng.normal(0, 0.001, (H, 2)), "weight_hh_l0": np.eye(H)}, strict=False)
    adam, grad = optim.Adam(storage, lr=5e-3 if lstm else 1e-4), np.zeros_like(storage.flat)

    x_test, sums = draw(np.random.default_rng(1997), T, 1000)
    print(f"always 1: test error {np.mean((sums - 1) ** 2):.4f}")
    start = time.perf_counter()
    for update in range(1, arguments.updates + 1):
        x, targets = draw(rng, T, arguments.batch)
        (y, _), rnn_backward = rnn.vjp(x)
        answers, linear_backward = linear.vjp(y[-1])
        _, loss_backward = losses.mean_squared_error.vjp(answers, targets)
        dy, grad[:] = np.zeros_like(y), 0
        dy[-1] = linear_backward(loss_backward(), into=grad).x
        rnn_backward(dy, need_x=False, into=grad)
        adam.step(grad, optim.clip_by_global_norm(grad, 1)[1])
        if update % 500 == 0 or update == arguments.updates:
            error = losses.mean_squared_error(linear(rnn(x_test)[0][-1]), sums)
            print(f"update {update}: test error {error:.4f} ({time.perf_counter() - start:.0f} s)", flush=True)
            if error < 0.01:
                print(f"solved after {update} updates")
                break


if __name__ == "__main__":
    main()
