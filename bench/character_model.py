"""A character model in fastrnn and torch, of which whole updates are timed: forward, loss, backward, clipping, Adam.

Embedding (65 symbols), 2 layers of H = 128, linear and softmax; B = 50 rows, T = 50 steps, carried state, gradient
clipped to norm 5. Both libraries start from the same weights; the losses of their first updates are compared before
anything is timed.

    python -m fastrnn.bench.character_model lstm 10                        ten seconds of updates on one thread
    perf record -D 2000 python -m fastrnn.bench.character_model lstm 10    the same for a profile
"""

from __future__ import annotations

import collections
import pydoc_data.topics
import statistics
import sys
from time import perf_counter

import numpy as np

import fastrnn
from fastrnn.losses import softmax_cross_entropy
from fastrnn.optim import Adam, clip_by_global_norm

from .grid import CHARACTERS, SYMBOLS

T, B, _, H = CHARACTERS
LAYERS, LR, NORM, UPDATES_COMPARED = 2, 2e-3, 5.0, 20
CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}  # names of the layers, in both libraries


def text_ids():
    """Return the ids of Python's help topics; all but the 64 most common characters become one symbol."""
    text = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    common = [c for c, _ in collections.Counter(text).most_common(SYMBOLS - 1)]
    code = {c: k for k, c in enumerate(common)}
    return np.array([code.get(c, SYMBOLS - 1) for c in text])


def windows():
    """Yield windows (T, B) of ids and targets without end; row b reads its own part of the text."""
    ids = text_ids()
    length = (len(ids) - 1) // B
    x, targets = (part[: length * B].reshape(B, length).T for part in (ids[:-1], ids[1:]))
    while True:
        for start in range(0, length - T + 1, T):
            yield np.ascontiguousarray(x[start : start + T]), np.ascontiguousarray(targets[start : start + T])


def losses(model):
    """Return the losses of the model's first updates, (UPDATES_COMPARED,)."""
    model.batches = windows()
    return np.array([model.update() for _ in range(UPDATES_COMPARED)])


class FastrnnModel:
    def __init__(self, cell, dtype="float32"):
        """Create the model; `losses` or the caller sets `batches`. float64 starts from the float32 initial weights."""
        storage = fastrnn.Storage(dtype)
        self.embedding = fastrnn.Embedding(SYMBOLS, H, seed=0, storage=storage, dtype=dtype)
        self.rnn = getattr(fastrnn, CELLS[cell])(H, H, LAYERS, seed=1, storage=storage, dtype=dtype)
        self.linear = fastrnn.Linear(H, SYMBOLS, seed=2, storage=storage, dtype=dtype)
        for layer in (self.embedding, self.rnn, self.linear):
            layer.load_state_dict({name: a.astype("float32").astype(dtype) for name, a in layer.state_dict().items()})
        self.gradient = np.zeros_like(storage.flat)
        self.optimizer = Adam(storage, lr=LR)
        self.state = None

    def update(self):
        ids, targets = next(self.batches)
        self.gradient.fill(0)
        (y, self.state), rnn_backward = self.rnn.vjp(ids, self.state, embedding=self.embedding)
        logits, linear_backward = self.linear.vjp(y)
        loss, loss_backward = softmax_cross_entropy.vjp(logits, targets)
        dy = linear_backward(loss_backward(), into=self.gradient).x
        rnn_backward(dy, need_x=False, into=self.gradient)
        _, scale = clip_by_global_norm(self.gradient, NORM)
        self.optimizer.step(self.gradient, scale=scale)
        return loss


class TorchModel:
    def __init__(self, cell, torch):
        """Create the model with the weights of a FastrnnModel. `torch` is the module."""
        self.torch, self.state = torch, None
        start = FastrnnModel(cell)
        self.embedding = torch.nn.Embedding(SYMBOLS, H)
        self.rnn = getattr(torch.nn, CELLS[cell])(H, H, LAYERS)
        self.linear = torch.nn.Linear(H, SYMBOLS)
        self.parameters = []
        for name in ("embedding", "rnn", "linear"):
            state_dict = getattr(start, name).state_dict()
            getattr(self, name).load_state_dict({key: torch.from_numpy(value) for key, value in state_dict.items()})
            self.parameters += getattr(self, name).parameters()
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)

    def update(self):
        ids, targets = map(self.torch.from_numpy, next(self.batches))
        self.optimizer.zero_grad(set_to_none=True)
        y, state = self.rnn(self.embedding(ids), self.state)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = self.torch.nn.functional.cross_entropy(self.linear(y).view(-1, SYMBOLS), targets.view(-1))
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, NORM)
        self.optimizer.step()
        return loss.item()


def main(cell="lstm", seconds="10"):
    """Run updates for some seconds and print the time of one."""
    fastrnn.set_num_threads(1)
    model, times, start = FastrnnModel(cell), [], perf_counter()
    model.batches = windows()
    while perf_counter() - start < float(seconds):
        before = perf_counter()
        model.update()
        times.append(perf_counter() - before)
    median, shortest = 1e3 * statistics.median(times), 1e3 * min(times)
    print(f"{cell}: {len(times)} updates, median {median:.2f} ms, shortest {shortest:.2f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
