"""A network without input draws a curve: h_t = f(h_{t-1}) learns a closed path from its initial state alone, then goes round on its own.

    python examples/autonomous.py

The curve is a figure of eight of 50 points, 2 wide. The network learns two rounds of it and then runs for twenty. Printed is the mean
distance of the last round from the curve, point by point from where it fits best; standing still in the middle gives 0.73.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn.losses import mean_squared_error

PERIOD, ROUNDS, FAR, H = 50, 2, 20, 48


def curve(T):
    """(T, 1, 2) points."""
    phase = 2 * np.pi * np.arange(T) / PERIOD
    return np.stack([np.sin(phase), np.sin(2 * phase) / 2], axis=1)[:, None].astype("float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    T = ROUNDS * PERIOD
    nothing, targets = np.zeros((T, 1, 0), "float32"), curve(T)
    for seed in range(arguments.seeds):
        make = dict(storage=fastrnn.Storage(), seed=seed)
        rnn, linear = fastrnn.RNN(0, H, **make), fastrnn.Linear(H, 2, **make)
        fastrnn.parameters.initialise(rnn, "glorot", seed=seed)
        h0 = np.random.default_rng(seed).uniform(-1, 1, (1, 1, H)).astype("float32")
        adam, grad = fastrnn.optim.Adam(rnn.storage, lr=3e-3), np.zeros_like(rnn.storage.flat)
        cosine = fastrnn.optim.Cosine(arguments.updates)
        for update in range(arguments.updates):
            (y, _), rnn_backward = rnn.vjp(nothing, h0)
            points, linear_backward = linear.vjp(y)
            loss, loss_backward = mean_squared_error.vjp(points, targets)
            grad[:] = 0
            rnn_backward(linear_backward(loss_backward(), into=grad).x, need_x=False, into=grad)
            adam.lr = 3e-3 * cosine(update)
            adam.step(grad, fastrnn.optim.clip_by_global_norm(grad, 1.0)[1])
        far = linear(rnn(np.zeros((FAR * PERIOD, 1, 0), "float32"), h0)[0])[-PERIOD:]
        shifted = (np.roll(curve(PERIOD), shift, 0) for shift in range(PERIOD))
        distance = min(np.linalg.norm(far - points, axis=2).mean() for points in shifted)
        print(f"seed {seed}: error {loss:.6f} in the {ROUNDS} rounds learnt, distance {distance:.3f} in round {FAR}")


if __name__ == "__main__":
    main()
