"""The copy memory task: read ten symbols, and repeat them after a delay.

    python examples/copy_memory.py --cell lstm --delay 100

A sequence is 10 symbols out of 8, a delay of blanks that ends with a mark, and 10 blanks during which the symbols must
be repeated; until then the right answer is blank (Hochreiter & Schmidhuber 1997; Arjovsky, Shah & Bengio 2016). Without
memory the loss is 10 ln 8 / (delay + 20) nats per step. Every update uses new sequences. The biases of the gates are
initialised so that units forget after 1 to delay + 20 steps (Tallec & Ollivier 2018). The task counts as solved when 99
% of the symbols of a fixed test set are right.
"""

import argparse

import numpy as np

import fastrnn
from fastrnn import losses, optim

BLANK, MARK = 8, 9


def draw(rng, delay, B):
    """Draw input ids and target ids, both (delay + 20, B)."""
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
    delay, H, rng = arguments.delay, arguments.hidden, np.random.default_rng(arguments.seed)

    storage = fastrnn.Storage()  # one buffer for the parameters of both layers
    rnn = getattr(fastrnn, arguments.cell.upper())(10, H, seed=rng, storage=storage)
    linear = fastrnn.Linear(H, 9, seed=rng, storage=storage)
    bias, keep = np.zeros(rnn.num_gates * H), np.log(rng.uniform(1, delay + 19, H))
    bias[H : 2 * H] = keep  # z of the GRU, f of the LSTM
    if arguments.cell == "lstm":
        bias[:H] = -keep  # i
    rnn.load_state_dict({"bias_ih_l0": bias, "weight_ih_l0": rng.uniform(-1, 1, (rnn.num_gates * H, 10))}, strict=False)
    adam, grad, symbols = optim.Adam(storage, lr=3e-3), np.zeros_like(storage.flat), np.eye(10, dtype="float32")

    ids_test, targets_test = draw(np.random.default_rng(1997), delay, 500)
    print(f"without memory: {10 * np.log(8) / (delay + 20):.4f} nats per step")
    for update in range(1, arguments.updates + 1):
        ids, targets = draw(rng, delay, arguments.batch)
        (y, _), rnn_backward = rnn.vjp(symbols[ids])
        logits, linear_backward = linear.vjp(y)
        _, loss_backward = losses.softmax_cross_entropy.vjp(logits, targets)
        grad[:] = 0
        rnn_backward(linear_backward(loss_backward(), into=grad).x, need_x=False, into=grad)
        adam.step(grad, optim.clip_by_global_norm(grad, 1)[1])
        if update % 500 == 0 or update == arguments.updates:
            logits = linear(rnn(symbols[ids_test])[0])
            loss = losses.softmax_cross_entropy(logits, targets_test)
            accuracy = np.mean(logits[-10:].argmax(-1) == targets_test[-10:])
            print(f"update {update}: {loss:.4f} nats per step, accuracy {accuracy:.3f}", flush=True)
            if accuracy >= 0.99:
                print(f"solved after {update} updates")
                break


if __name__ == "__main__":
    main()
