"""Copy memory (Hochreiter & Schmidhuber 1997; Arjovsky, Shah & Bengio 2016): repeat ten symbols after a delay.

    python examples/copy_memory.py --cell lstm --delay 100

A sequence is 10 symbols out of 8, a delay of blanks that ends in a mark, and 10 blanks at which to repeat the symbols; the answer is blank
before. Without memory the loss is 10 ln 8 / (delay + 20) nats per step. Every update sees new sequences. Gates that keep start with biases by
which units forget after 1 to delay + 20 steps (Tallec & Ollivier 2018). "solved": 99 % of the symbols of a fixed test set.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import losses, optim

BLANK, MARK = 8, 9


def draw(rng, delay, B):
    """Ids to read and ids to answer, (delay + 20, B)."""
    ids, targets = np.full((2, delay + 20, B), BLANK)
    ids[:10] = targets[-10:] = rng.integers(0, 8, (10, B))
    ids[-11] = MARK
    return ids, targets


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=("gru", "lstm"), default="gru")
    for option, value in {"delay": 50, "hidden": 200, "batch": 32, "updates": 20_000, "seed": 0}.items():
        parser.add_argument("--" + option, type=int, default=value)
    arguments = parser.parse_args()
    delay, H, rng, storage = arguments.delay, arguments.hidden, np.random.default_rng(arguments.seed), fastrnn.Storage()
    rnn = getattr(fastrnn, arguments.cell.upper())(10, H, seed=rng, storage=storage)
    linear = fastrnn.Linear(H, 9, seed=rng, storage=storage)
    bias, keep = np.zeros(rnn.num_gates * H), np.log(rng.uniform(1, delay + 19, H))
    bias[H : 2 * H] = keep  # GRU's z, LSTM's f
    bias[:H] = -keep * (arguments.cell == "lstm")  # i
    rnn.load_state_dict({"bias_ih_l0": bias, "weight_ih_l0": rng.uniform(-1, 1, (rnn.num_gates * H, 10))}, strict=False)
    adam, grad, symbols = optim.Adam(storage, lr=3e-3), np.zeros_like(storage.flat), np.eye(10, dtype="float32")
    ids_test, targets_test = draw(np.random.default_rng(1997), delay, 500)
    print(f"without memory: {10 * np.log(8) / (delay + 20):.4f} nats per step")
    for update in range(1, arguments.updates + 1):
        ids, targets = draw(rng, delay, arguments.batch)
        (y, _), rnn_backward = rnn.vjp(symbols[ids])
        (logits, linear_backward), grad[:] = linear.vjp(y), 0
        rnn_backward(
            linear_backward(losses.softmax_cross_entropy.vjp(logits, targets)[1](), into=grad).x,
            need_x=False,
            into=grad,
        )
        adam.step(grad, optim.clip_by_global_norm(grad, 1)[1])
        if update % 500 == 0 or update == arguments.updates:
            logits = linear(rnn(symbols[ids_test])[0])
            loss, accuracy = (
                losses.softmax_cross_entropy(logits, targets_test),
                np.mean(logits[-10:].argmax(-1) == targets_test[-10:]),
            )
            print(f"update {update}: {loss:.4f} nats per step, accuracy {accuracy:.3f}", flush=True)
            if accuracy >= 0.99:
                print(f"solved after {update} updates")
                break


if __name__ == "__main__":
    main()
