"""Train a character LSTM with torch, with torch's own LSTM or fastrnn's; nothing else in the script changes.

    python examples/torch_swap.py --backend torch      torch.nn.LSTM
    python examples/torch_swap.py --backend fastrnn    fastrnn.torch.LSTM: the same loss curve from the same seed

The text is a file (UTF-8), or the documentation that comes with Python. The script prints the loss and the time.
"""

import argparse
import importlib
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import nn

BACKENDS = {"torch": "torch.nn", "fastrnn": "fastrnn.torch"}


class CharLSTM(nn.Module):
    """A language model of characters."""

    def __init__(self, LSTM, V, hidden_size):
        super().__init__()
        self.embedding = nn.Embedding(V, hidden_size)
        self.rnn = LSTM(hidden_size, hidden_size)
        self.linear = nn.Linear(hidden_size, V)

    def forward(self, ids, state=None):
        y, state = self.rnn(self.embedding(ids), state)
        return self.linear(y), state


def train(backend, ids, V, hidden_size=128, steps=200, batch_size=32, seq_len=50, seed=0):
    """Train on consecutive windows of the text, passing on the state, and return (model, losses)."""
    torch.manual_seed(seed)
    model = CharLSTM(importlib.import_module(BACKENDS[backend]).LSTM, V, hidden_size)
    optimiser, state, losses = torch.optim.Adam(model.parameters(), lr=2e-3), None, []
    streams = ids[: len(ids) // batch_size * batch_size].reshape(batch_size, -1).t()
    for step in range(steps):
        start = step * seq_len % (len(streams) - seq_len)
        logits, state = model(streams[start : start + seq_len], state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), streams[start + 1 : start + seq_len + 1].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        state = tuple(s.detach() for s in state)
        losses.append(loss.item())
    return model, losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--backend", choices=BACKENDS, default="fastrnn")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    text = arguments.file.read_text("utf-8") if arguments.file else "\n".join(topics.values())
    symbols = sorted(set(text))
    ids = torch.tensor([symbols.index(c) for c in text])
    start = time.perf_counter()
    _, losses = train(arguments.backend, ids, len(symbols), steps=arguments.steps)
    for n in range(10, len(losses) + 1, 10):
        print(f"step {n}: loss {losses[n - 1]:.4f}")
    print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
