"""A character LSTM trained by torch; --backend says whose LSTM it is, and nothing else changes.

python examples/torch_swap.py --backend torch      prints the loss curve and the time
python examples/torch_swap.py --backend fastrnn    the same curve, from the same seed; the text is a file's, or Python's documentation
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
    def __init__(self, LSTM, V, hidden_size):
        super().__init__()
        self.embedding = nn.Embedding(V, hidden_size)
        self.rnn = LSTM(hidden_size, hidden_size)
        self.linear = nn.Linear(hidden_size, V)

    def forward(self, ids, state=None):
        y, state = self.rnn(self.embedding(ids), state)
        return self.linear(y), state


def train(backend, ids, V, hidden_size=128, steps=200, batch_size=32, seq_len=50, seed=0):
    """(model, losses): windows of the text in order, Adam, gradients clipped, the state carried on."""
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--backend", choices=BACKENDS, default="fastrnn")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    text = arguments.file.read_text("utf-8") if arguments.file else "\n".join(topics.values())
    symbols = sorted(set(text))
    begin = time.perf_counter()
    losses = train(
        arguments.backend, torch.tensor([symbols.index(c) for c in text]), len(symbols), steps=arguments.steps
    )[1]
    print(
        "\n".join(f"step {n + 1}: loss {losses[n]:.4f}" for n in range(9, len(losses), 10)),
        f"{time.perf_counter() - begin:.1f} s",
        sep="\n",
    )
