"""A network without input, h_t = f(h_{t-1}), learns from which state to start and how to go on to draw a figure eight again and again.

    python examples/autonomous.py

A GRU is trained on three rounds of 100 steps, each time from a disturbed initial state, then draws 100 rounds. Prints for some of them the
root mean square distance to where the pen should be at that step, and to the nearest point of the curve, which forgives being early or late.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import losses, optim

STEPS, ROUNDS = 100, 3


def eight(steps):
    """Points (len(steps), 2). The curve crosses itself at (0, 0): where the pen is does not tell where it goes."""
    angle = 2 * np.pi / STEPS * np.asarray(steps)
    return np.stack([np.sin(angle), np.sin(2 * angle)], -1).astype("float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in {"hidden": 64, "batch": 8, "updates": 3000, "seed": 0}.items():
        parser.add_argument("--" + option, type=int, default=value)
    arguments = parser.parse_args()
    T, B, H, rng, storage = (
        ROUNDS * STEPS,
        arguments.batch,
        arguments.hidden,
        np.random.default_rng(arguments.seed),
        fastrnn.Storage(),
    )
    rnn, linear = fastrnn.GRU(0, H, storage=storage), fastrnn.Linear(H, 2, seed=rng, storage=storage)
    initial = storage.add(rng.uniform(-0.5, 0.5, (1, 1, H)))  # a parameter as the others are
    fastrnn.parameters.initialise(rnn, "glorot", seed=rng)
    adam, grad, cosine = optim.Adam(storage), np.zeros_like(storage.flat), optim.Cosine(arguments.updates)
    nothing, targets = np.empty((T, B, 0), "float32"), np.repeat(eight(range(1, T + 1))[:, None], B, axis=1)
    for update in range(arguments.updates):
        state = initial.view(storage.flat) + rng.normal(0, 0.1, (1, B, H)).astype("float32")
        (y, _), rnn_backward = rnn.vjp(nothing, state)
        points, linear_backward = linear.vjp(y)
        loss, loss_backward = losses.mean_squared_error.vjp(points, targets)
        grad.fill(0)
        g = rnn_backward(linear_backward(loss_backward(), into=grad).x, need_x=False, into=grad)
        initial.view(grad)[...] = g.state.sum(1, keepdims=True)
        adam.lr = 0.01 * cosine(update)
        adam.step(grad, optim.clip_by_global_norm(grad, 1)[1])
        if update % 500 == 0:
            print(f"update {update}: mean squared error {loss:.6f}", flush=True)
    points = linear(rnn(np.empty((100 * STEPS, 1, 0), "float32"), initial.view(storage.flat))[0])[:, 0]
    curve = eight(np.arange(0, STEPS, 0.1))
    for k in (1, 3, 4, 10, 30, 100):
        drawn = points[(k - 1) * STEPS : k * STEPS]
        place, nearest = drawn - eight(range(1, STEPS + 1)), np.linalg.norm(drawn[:, None] - curve, axis=-1).min(1)
        print(
            f"round {k}: error {np.sqrt((place**2).sum(1).mean()):.4f}, off the curve by {np.sqrt((nearest**2).mean()):.4f}"
        )


if __name__ == "__main__":
    main()
