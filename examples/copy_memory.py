"""The copy problem (Hochreiter & Schmidhuber 1997): keep 10 symbols through a delay, then say them in order.

    python examples/copy_memory.py                     LSTM, then GRU, delay 20
    python examples/copy_memory.py lstm --delay 50     one of them

A sequence has 10 symbols of 8, `delay` blanks, a sign to begin and 9 blanks; the answer is blank but for its last 10 steps. Who remembers
nothing says blanks, then any symbol: 10 ln 8 / (delay + 20) nats per step. Below a tenth of that the problem counts as solved.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn.losses import softmax_cross_entropy
from fastrnn.parameters import initialise

N, V, H = 10, 10, 128  # symbols to keep; the alphabet: 0 is blank, 1 to 8 are symbols, 9 is the sign; units
CELLS = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU}


def batch(rng, delay, B):
    """x (T, B, V) of zeros and ones, targets (T, B), T = delay + 20."""
    ids, targets = np.zeros((2, delay + 2 * N, B), int)
    ids[:N] = targets[-N:] = rng.integers(1, V - 1, (N, B))
    ids[-N] = V - 1
    return np.eye(V, dtype="float32")[ids], targets


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell", nargs="?", choices=tuple(CELLS))
    for name, value in (("delay", 20), ("updates", 10_000), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    test_x, test_targets = batch(np.random.default_rng(2**32), arguments.delay, 500)
    baseline = N * np.log(V - 2) / (arguments.delay + 2 * N)
    for cell, seed in ((cell, seed) for cell in [arguments.cell] * bool(arguments.cell) or CELLS for seed in range(arguments.seeds)):
        rng, make = np.random.default_rng(seed), dict(storage=fastrnn.Storage(), seed=seed)
        rnn, linear = CELLS[cell](V, H, **make), fastrnn.Linear(H, V, **make)
        initialise(rnn, "glorot", forget_bias=1.0 if cell == "lstm" else None, seed=seed)
        adam, grad, part = fastrnn.optim.Adam(rnn.storage, lr=arguments.lr), np.zeros_like(rnn.storage.flat), 1.0
        while adam.updates < arguments.updates and part > 0.01:
            x, targets = batch(rng, arguments.delay, 64)
            (y, _), rnn_backward = rnn.vjp(x)
            logits, linear_backward = linear.vjp(y)
            grad[:] = 0
            dlogits = softmax_cross_entropy.vjp(logits, targets, out=logits)[1]()
            rnn_backward(linear_backward(dlogits, into=grad).x, need_x=False, into=grad)
            adam.step(grad, fastrnn.optim.clip_by_global_norm(grad, 1.0)[1])
            if adam.updates % 500 == 0 or adam.updates == arguments.updates:
                loss = softmax_cross_entropy(linear(rnn(test_x)[0]), test_targets)
                part = loss / baseline
                print(f"{cell}, seed {seed}, update {adam.updates}: {loss:.5f} of {baseline:.5f} nats per step, {part:.1%}", flush=True)
        print(f"{cell}, seed {seed}: {'solved' if part < 0.1 else 'not solved'} after {adam.updates} updates")


if __name__ == "__main__":
    main()
