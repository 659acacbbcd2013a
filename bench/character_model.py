"""Training a character model: characters per second of fastrnn and torch, in turns in one process, on one thread.

    python -m bench.character_model [--seconds 5] [--threads 1]

Embedding (65 symbols), 2 layers of H = 128, linear and softmax; B = 50 rows, T = 50 steps, carried state, Adam, gradient clipped to
norm 5. Both start from the same weights, and their losses over the first 20 updates are compared before anything is timed.
"""

import argparse
import collections
import pydoc_data.topics
from time import perf_counter

import numpy as np
import torch

import fastrnn
from bench import machine

V, H, LAYERS, B, T, LR, NORM = 65, 128, 2, 50, 50, 2e-3, 5.0
CELLS = {"lstm": (fastrnn.LSTM, torch.nn.LSTM), "gru": (fastrnn.GRU, torch.nn.GRU), "rnn": (fastrnn.RNN, torch.nn.RNN)}


def text_ids():
    """The text every Python carries; all but its 64 commonest characters become one symbol."""
    text = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    common = [c for c, _ in collections.Counter(text).most_common(V - 1)]
    code = {c: k for k, c in enumerate(common)}
    return np.array([code.get(c, V - 1) for c in text])


def windows(ids):
    """Endless windows (T, B) of ids and targets; row b reads its own part of the text."""
    length = (len(ids) - 1) // B
    x, targets = (part[: length * B].reshape(B, length).T for part in (ids[:-1], ids[1:]))
    while True:
        for start in range(0, length - T + 1, T):
            yield np.ascontiguousarray(x[start : start + T]), np.ascontiguousarray(targets[start : start + T])


class FastrnnModel:
    def __init__(self, cell):
        storage = fastrnn.parameters.Storage("float32")
        self.embedding = fastrnn.Embedding(V, H, seed=0, storage=storage)
        self.rnn = CELLS[cell][0](H, H, LAYERS, seed=1, storage=storage)
        self.linear = fastrnn.Linear(H, V, seed=2, storage=storage)
        self.gradient = np.zeros_like(storage.flat)
        self.optimizer = fastrnn.optim.Adam(storage, lr=LR)
        self.state = None

    def update(self, ids, targets):
        self.gradient.fill(0)
        (y, self.state), rnn_backward = self.rnn.vjp(ids, self.state, embedding=self.embedding)
        logits, linear_backward = self.linear.vjp(y)
        loss, loss_backward = fastrnn.losses.softmax_cross_entropy.vjp(logits, targets)
        dy = linear_backward(loss_backward(), into=self.gradient).x
        rnn_backward(dy, need_x=False, into=self.gradient)
        _, scale = fastrnn.optim.clip_by_global_norm(self.gradient, NORM)
        self.optimizer.step(self.gradient, scale=scale)
        return loss


class TorchModel(torch.nn.Module):
    def __init__(self, cell, weights):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, H)
        self.rnn = CELLS[cell][1](H, H, LAYERS)
        self.linear = torch.nn.Linear(H, V)
        for name in ("embedding", "rnn", "linear"):
            state_dict = getattr(weights, name).state_dict()
            getattr(self, name).load_state_dict({key: torch.from_numpy(value) for key, value in state_dict.items()})
        self.optimizer = torch.optim.Adam(self.parameters(), lr=LR)
        self.state = None

    def update(self, ids, targets):
        self.optimizer.zero_grad(set_to_none=True)
        y, state = self.rnn(self.embedding(torch.from_numpy(ids)), self.state)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = torch.nn.functional.cross_entropy(self.linear(y).view(-1, V), torch.from_numpy(targets).view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), NORM)
        self.optimizer.step()
        return loss.item()


def compare(cell, ids, seconds):
    """Characters per second of both, measured in turns of half a second."""
    ours = FastrnnModel(cell)
    models = {"fastrnn": ours, "torch": TorchModel(cell, ours)}
    batches = {name: windows(ids) for name in models}
    losses = {name: [model.update(*next(batches[name])) for _ in range(20)] for name, model in models.items()}
    np.testing.assert_allclose(losses["fastrnn"], losses["torch"], rtol=1e-3, err_msg=cell)
    times = {name: [] for name in models}
    end = perf_counter() + seconds * len(models)
    while perf_counter() < end:
        for name, model in models.items():
            start, updates = perf_counter(), 0
            while perf_counter() - start < 0.5:
                model.update(*next(batches[name]))
                updates += 1
            times[name].append((perf_counter() - start) / (updates * B * T))
    result = {name: machine.spread(t) for name, t in times.items()}
    return {"cell": cell, **result, "ratio": result["torch"]["median"] / result["fastrnn"]["median"], "losses": losses}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each is measured for each cell")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    fastrnn.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    ids = text_ids()
    results = [compare(cell, ids, arguments.seconds) for cell in CELLS]
    rows = [
        [r["cell"], f"{1 / r['fastrnn']['median']:,.0f}", f"{1 / r['torch']['median']:,.0f}", f"{r['ratio']:.2f}"] for r in results
    ]
    print(machine.markdown(["cell", "fastrnn characters/s", "torch characters/s", "fastrnn / torch"], rows))
    sizes = {"V": V, "H": H, "layers": LAYERS, "B": B, "T": T}
    path = machine.write("character_model", results, unit="seconds per character", threads=arguments.threads, dtype="float32", sizes=sizes)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
