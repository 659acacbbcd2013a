"""A network without input, h_t = f(h_{t-1}), learns to draw a figure eight again and again.

    python examples/autonomous.py

A GRU and its initial state are trained on three rounds of 100 steps; noise is added to the initial state at each
update. Then the network draws 100 rounds. For some of them the script prints two root mean square distances: to where
the pen should be at that step, and to the nearest point of the curve, which ignores being early or late.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import losses, optim

STEPS, ROUNDS = 100, 3


def eight(steps):
    """Compute points (len(steps), 2). The curve crosses itself, so a point does not determine the next one."""
    angle = 2 * np.pi / STEPS * np.asarray(steps)
    return np.stack([np.sin(angle), np.sin(2 * angle)], -1).astype("float32")


def rms(vectors):
    """Compute the root mean square length of vectors."""
    return np.sqrt((vectors**2).sum(-1).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in {"hidden": 64, "batch": 8, "updates": 3000, "seed": 0}.items():
        parser.add_argument("--" + option, type=int, default=value)
    arguments = parser.parse_args()
    T, B, H = ROUNDS * STEPS, arguments.batch, arguments.hidden

    rng, storage = np.random.default_rng(arguments.seed), fastrnn.Storage()
    rnn, linear = fastrnn.GRU(0, H, storage=storage), fastrnn.Linear(H, 2, seed=rng, storage=storage)
    initial = storage.add(rng.uniform(-0.5, 0.5, (1, 1, H)))  # a parameter like the others
    fastrnn.parameters.initialise(rnn, "glorot", seed=rng)
    adam, grad, cosine = optim.Adam(storage), np.zeros_like(storage.flat), optim.Cosine(arguments.updates)
    no_input, targets = np.empty((T, B, 0), "float32"), np.repeat(eight(range(1, T + 1))[:, None], B, axis=1)

    for update in range(arguments.updates):
        state = initial.view(storage.flat) + rng.normal(0, 0.1, (1, B, H)).astype("float32")
        (y, _), rnn_backward = rnn.vjp(no_input, state)
        points, linear_backward = linear.vjp(y)
        loss, loss_backward = losses.mean_squared_error.vjp(points, targets)
        grad.fill(0)
        g = rnn_backward(linear_backward(loss_backward(), into=grad).x, need_x=False, into=grad)
        initial.view(grad)[...] = g.state.sum(1, keepdims=True)
        adam.lr = 0.01 * cosine(update)
        adam.step(grad, optim.clip_by_global_norm(grad, 1)[1])
        if update % 500 == 0:
            print(f"update {update}: mean squared error {loss:.6f}", flush=True)

    y, _ = rnn(np.empty((100 * STEPS, 1, 0), "float32"), initial.view(storage.flat))
    points, curve = linear(y)[:, 0], eight(np.arange(0, STEPS, 0.1))
    for k in (1, 3, 4, 10, 30, 100):
        drawn = points[(k - 1) * STEPS : k * STEPS]
        error = drawn - eight(range(1, STEPS + 1))
        nearest = np.linalg.norm(drawn[:, None] - curve, axis=-1).min(1)
        print(f"round {k}: error {rms(error):.4f}, off the curve by {rms(nearest[:, None]):.4f}")


if __name__ == "__main__":
    main()
