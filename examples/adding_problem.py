"""The adding problem (Hochreiter & Schmidhuber 1997): two of T numbers in 0..1 are marked; after the last one, say their sum.

    python examples/adding_problem.py            IRNN and LSTM, T = 200
    python examples/adding_problem.py lstm       one of them

Always saying 1 has a mean squared error of 0.167; below 0.01 the problem counts as solved. No update sees a batch twice.
IRNN (Le, Jaitly & Hinton 2015): a plain relu network whose recurrent weights start as the identity.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn.losses import mean_squared_error

H, LR = 100, {"irnn": 1e-3, "lstm": 2e-3}


def batch(rng, T, B):
    """x (T, B, 2), a number and whether it is marked, one in each half; targets (B, 1)."""
    x, rows = np.zeros((T, B, 2), "float32"), np.arange(B)
    x[..., 0] = rng.random((T, B))
    marked = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B)
    for t in marked:
        x[t, rows, 1] = 1
    return x, sum(x[t, rows, :1] for t in marked)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", nargs="?", choices=tuple(LR))
    for name, value in (("T", 200), ("updates", 10_000), ("seeds", 1), ("lr", None)):
        parser.add_argument(f"--{name}", type=float if name == "lr" else int, default=value)
    arguments = parser.parse_args()
    test_x, test_y = batch(np.random.default_rng(2**32), arguments.T, 1000)
    for cell, seed in ((cell, seed) for cell in [arguments.cell] * bool(arguments.cell) or LR for seed in range(arguments.seeds)):
        rng, make = np.random.default_rng(seed), dict(storage=fastrnn.Storage(), seed=seed)
        rnn = fastrnn.LSTM(2, H, **make) if cell == "lstm" else fastrnn.RNN(2, H, nonlinearity="relu", **make)
        linear = fastrnn.Linear(H, 1, **make)
        if cell == "irnn":
            start = {"weight_ih_l0": 0.001 * rng.standard_normal((H, 2)), "weight_hh_l0": np.eye(H)}
            rnn.load_state_dict(start | {name: np.zeros(H) for name in ("bias_ih_l0", "bias_hh_l0")})
        adam, grad, error = fastrnn.optim.Adam(rnn.storage, lr=arguments.lr or LR[cell]), np.zeros_like(rnn.storage.flat), 1.0
        while adam.updates < arguments.updates and error > 0.001:
            x, targets = batch(rng, arguments.T, 100)
            (y, _), rnn_backward = rnn.vjp(x)
            sums, linear_backward = linear.vjp(y[-1])
            grad[:], dy = 0, np.zeros_like(y)
            dy[-1] = linear_backward(mean_squared_error.vjp(sums, targets)[1](), into=grad).x
            rnn_backward(dy, need_x=False, into=grad)
            adam.step(grad, fastrnn.optim.clip_by_global_norm(grad, 1.0)[1])
            if adam.updates % 500 == 0 or adam.updates == arguments.updates:
                error = mean_squared_error(linear(rnn(test_x)[0][-1]), test_y)
                print(f"{cell}, seed {seed}, update {adam.updates}: error {error:.5f}", flush=True)
        print(f"{cell}, seed {seed}: {'solved' if error < 0.01 else 'not solved'} after {adam.updates} updates, error {error:.5f}")


if __name__ == "__main__":
    main()
