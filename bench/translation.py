"""Train an encoder-decoder with attention and input feeding: fastrnn's EncoderDecoder and the same model in torch.

Both start from the same weights and use the same batches. The losses of their first updates are compared before
anything is timed. Then batches spread evenly over an epoch are timed in turns, the whole update each time (forward,
loss, backward, clipping, Adam), without dropout.

    python -m bench.translation translate FOLDER 1 [batches]    the model of examples/translate.py, on one thread
    python -m bench.translation pronounce DICTIONARY 2          the model of examples/pronounce.py, on two threads
    python -m bench.translation numbers 1                       on generated data, as a check

torch's best variant: packed encoder (nn.GRU), the input product for all steps before the loop, scores of all rows in
one product, softmax over the valid steps only, fused Adam. With COMPILE=1 the step of the decoder goes through
torch.compile.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

import fastrnn
from fastrnn.data import read_dictionary, read_parallel
from fastrnn.models import EncoderDecoder
from fastrnn.models.pairs import Pairs
from fastrnn.models.symbols import Symbols
from fastrnn.optim import Adam, clip_by_global_norm

from .machine import cpu_model

LR, NORM, UPDATES_COMPARED = 1e-3, 5.0, 5
STEP_WEIGHTS = (  # of the decoder, in the order of Torch._step's arguments
    *("weight_feed", "weight_hh_l0", "bias_hh_l0", "weight_query", "weight_score", "weight_out", "bias_out"),
)


def numbers():
    return [list(str(n)) for n in range(2000)], [[f"{d}th" for d in str(n)[::-1]] for n in range(2000)]


def dictionary(path):
    return tuple(zip(*[(word, variant) for word, variants in read_dictionary(path).items() for variant in variants]))


def folder(path):
    return read_parallel(Path(path) / "train.de", Path(path) / "train.en")


CASES = {  # data, EncoderDecoder's arguments, rows of a batch
    "translate": (folder, dict(hidden_size=256, decoder_size=512, min_count=2), 128),
    "pronounce": (
        dictionary,
        dict(
            hidden_size=256,
            num_layers=2,
            decoder_size=384,
            decoder_layers=1,
            source_embedding=128,
            target_embedding=128,
        ),
        128,
    ),
    "translate-small": (
        folder,
        dict(hidden_size=128, decoder_size=214, source_embedding=128, target_embedding=128, min_count=2),
        128,
    ),
    "pronounce-small": (dictionary, dict(hidden_size=64, source_embedding=64, target_embedding=64), 64),
    "numbers": (numbers, dict(hidden_size=32, source_embedding=16, target_embedding=16), 64),
}


class Ours:
    def __init__(self, X, y, options):
        self.model = EncoderDecoder("gru", seed=0, **options)
        vocabulary = Symbols.of(y, self.model.min_count, ends=True)
        known = Symbols.of(X, self.model.min_count)
        self.model._build(known, vocabulary, 0)
        self.gradient = np.zeros_like(self.model.storage.flat)
        self.optimizer = Adam(self.model.storage, lr=LR)

    def batches(self, X, y, size):
        sources = [self.model.source_vocabulary.encode(x) for x in X]
        return Pairs(sources, [self.model.vocabulary.encode(t) for t in y], self.model.vocabulary, size, seed=1)

    def update(self, batch):
        self.gradient.fill(0)
        loss, _ = self.model.loss_and_gradient(batch, into=self.gradient, rng=0)
        _, scale = clip_by_global_norm(self.gradient, NORM)
        self.optimizer.step(self.gradient, scale=scale)
        return loss


class Torch:
    """The same model in torch, with the weights of an EncoderDecoder (GRU, additive, context="initial")."""

    def __init__(self, torch, model):
        self.torch, nn = torch, torch.nn

        def tensor(array):
            return nn.Parameter(torch.from_numpy(np.array(array)))

        self.source, self.target = (
            tensor(model.source_table.params["weight"]),
            tensor(model.target_table.params["weight"]),
        )
        layer = model.encoder
        self.encoder = nn.GRU(layer.input_size, layer.hidden_size, layer.num_layers, bidirectional=True)
        self.encoder.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
        self.p = {name.removeprefix("rnn."): tensor(a) for name, a in model.decoder.params.items()}
        for name in ("bridge", "linear"):
            self.p |= {f"{name}.{key}": tensor(a) for key, a in getattr(model, name).params.items()}
        self.parameters = [self.source, self.target, *self.encoder.parameters(), *self.p.values()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR, fused=True)
        self.step = torch.compile(self._step, dynamic=True) if os.environ.get("COMPILE") else self._step

    def _step(self, x, h, feed, keys, memory, mask, w_feed, w_hh, b_hh, w_query, v, w_out, b_out):
        torch = self.torch
        x_r, x_z, x_n = torch.addmm(x, feed, w_feed.t()).chunk(3, 1)
        h_r, h_z, h_n = torch.addmm(b_hh, h, w_hh.t()).chunk(3, 1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        h = n + z * (h - n)
        score = torch.tanh(keys + (h @ w_query.t()).unsqueeze(1)) @ v
        alpha = torch.softmax(score.masked_fill(mask, -torch.inf), 1)
        c = torch.bmm(alpha.unsqueeze(1), memory).squeeze(1)
        return h, torch.tanh(torch.addmm(b_out, torch.cat([c, h], 1), w_out.t()))

    def loss(self, batch):
        torch, p = self.torch, self.p
        lengths = torch.from_numpy(np.ascontiguousarray(batch.source.lengths))
        x = torch.nn.functional.embedding(torch.from_numpy(batch.source.x), self.source)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, h_n = self.encoder(packed)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
        memory = y.transpose(0, 1).contiguous()
        mask = torch.arange(memory.shape[1])[None] >= lengths[:, None]
        keys = memory @ p["weight_key"].t()
        F = torch.nn.functional
        h = torch.tanh(F.linear(torch.cat([h_n[-2], h_n[-1]], 1), p["bridge.weight"], p["bridge.bias"]))
        x = F.linear(
            F.embedding(torch.from_numpy(batch.inputs), self.target),
            p["weight_ih_l0"],
            p["bias_ih_l0"],
        )
        feed, found = torch.zeros(len(h), p["weight_out"].shape[0]), []
        weights = [p[name] for name in STEP_WEIGHTS]
        for x_t in x.unbind(0):
            h, feed = self.step(x_t, h, feed, keys, memory, mask, *weights)
            found.append(feed)
        valid = torch.from_numpy(batch.valid)
        rows = torch.stack(found).flatten(0, 1).index_select(0, valid)
        logits = F.linear(rows, p["linear.weight"], p["linear.bias"])
        return F.cross_entropy(logits, torch.from_numpy(batch.targets).flatten().index_select(0, valid))

    def update(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, NORM)
        self.optimizer.step()
        return loss.item()


def main(name, *arguments):
    import torch

    path, rest = ((), arguments) if name == "numbers" else (arguments[:1], arguments[1:])
    threads, count = int(rest[0]) if rest else 1, int(rest[1]) if len(rest) > 1 else 40
    read, options, size = CASES[name]
    fastrnn.set_num_threads(threads)
    torch.set_num_threads(threads)
    X, y = read(*path)
    ours = Ours(X, y, options)
    theirs = Torch(torch, ours.model)
    data = ours.batches(X, y, size)
    some = [data[i] for i in np.linspace(0, len(data) - 1, count).astype(int)]
    losses = np.array([[peer.update(batch) for batch in some[:UPDATES_COMPARED]] for peer in (ours, theirs)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4, err_msg="losses of the first updates")
    times = {"fastrnn": [], "torch": []}
    for batch in some:
        for peer, found in zip((ours, theirs), times.values()):
            start = perf_counter()
            peer.update(batch)
            found.append(perf_counter() - start)
    total = {peer: sum(found) for peer, found in times.items()}
    symbols = sum(int(batch.lengths.sum()) for batch in some)
    ratios = [b / a for a, b in zip(*times.values())]
    print(
        f"{name}, {threads} threads, {count} of {len(data)} batches of {size}; {ours.model.num_parameters:,} parameters"
    )
    print(f"{cpu_model()}; torch {torch.__version__}{', compiled step' if os.environ.get('COMPILE') else ''}")
    print(f"losses of {UPDATES_COMPARED} updates agree: {', '.join(f'{loss:.4f}' for loss in losses[0])}")
    for peer, seconds in total.items():
        print(f"{peer:8} {symbols / seconds:8.0f} target symbols/s, an epoch {seconds * data.steps / symbols:.0f} s")
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    overall = total["torch"] / total["fastrnn"]
    print(f"fastrnn is {median:.2f} times as fast (median of batches; {low:.2f} to {high:.2f}), {overall:.2f} overall")


if __name__ == "__main__":
    main(*sys.argv[1:])
