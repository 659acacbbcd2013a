"""Random configurations of fastrnn.torch's layers, called on torch.nn, ours and the plain layer; invalid calls."""

import dataclasses

import numpy as np
import torch
from torch.nn.utils import rnn as sequences

import fastrnn

KINDS = ["RNN", "GRU", "LSTM"]
TIGHT = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclasses.dataclass
class Case:
    """One configuration, drawn from a seed.

    how : "padded", "unbatched", "packed" (any order of lengths) or "sorted" (longest first)
    """

    rng: np.random.Generator = dataclasses.field(repr=False)
    kind: str
    sizes: tuple
    options: dict
    dtype: torch.dtype
    how: str
    T: int
    B: int
    with_state: bool

    @property
    def packed(self):
        return self.how in ("packed", "sorted")

    @property
    def state_shapes(self):
        H, rows = self.sizes[1], self.options["num_layers"] * (1 + self.options["bidirectional"])
        widths = [self.options.get("proj_size") or H, H][: 2 if self.kind == "LSTM" else 1]
        return [(rows, width) if self.how == "unbatched" else (rows, self.B, width) for width in widths]

    def module(self, where):
        """Return a layer of torch.nn or of fastrnn.torch with this case's parameters."""
        torch.manual_seed(1)
        return getattr(where, self.kind)(*self.sizes, dtype=self.dtype, **self.options)

    def inputs(self, T=None, B=None):
        """Return (x, state or None, lengths or None) with new random numbers; x may have any strides."""
        self.T, self.B = T or self.T, B or self.B
        shape = (self.T, self.sizes[0]) if self.how == "unbatched" else (self.T, self.B, self.sizes[0])
        if self.options["batch_first"] and self.how != "unbatched":
            shape = (self.B, self.T, self.sizes[0])
        x = torch.from_numpy(self.rng.standard_normal(shape)).to(self.dtype)
        if self.rng.integers(3) == 0:
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
        state = (
            [torch.from_numpy(self.rng.standard_normal(s)).to(self.dtype) for s in self.state_shapes]
            if self.with_state
            else None
        )
        lengths = None
        if self.packed:
            lengths = self.rng.integers(1, self.T + 1, self.B)
            lengths = torch.from_numpy(np.sort(lengths)[::-1].copy() if self.how == "sorted" else lengths)
        return x, state, lengths

    def as_hx(self, state):
        return None if state is None else tuple(state) if self.kind == "LSTM" else state[0]

    def call(self, module, x, state, lengths):
        """Return [y or its packed rows, h_n, c_n] of a torch module."""
        if lengths is not None:
            x = sequences.pack_padded_sequence(x, lengths, self.options["batch_first"], self.how == "sorted")
        return flat(module(x, self.as_hx(state)))

    def gradients(self, outputs, dy, leaves):
        """Return the gradients of the leaves that were used."""
        return torch.autograd.grad(outputs, leaves, dy, allow_unused=True)

    def plain(self, module, x, state, lengths, dy=None):
        """Return the results of the plain layer: outputs as `call`, gradients of (x, *state, *params) if dy is given.

        Its rows are first put in the order of the PackedSequence, since sums over rows depend on their order.
        """
        options = {name: value for name, value in self.options.items() if name not in ("batch_first", "nonlinearity")}
        if self.kind == "RNN":
            options["nonlinearity"] = self.options["nonlinearity"]
        layer = getattr(fastrnn, self.kind)(*self.sizes, dtype=str(self.dtype).removeprefix("torch."), **options)
        layer.load_state_dict({name: p.detach().contiguous() for name, p in module.state_dict().items()})
        x = x.detach().numpy()
        x = x.swapaxes(0, 1) if self.options["batch_first"] and self.how != "unbatched" else x
        state = None if state is None else [s.detach().numpy() for s in state]
        given, order = {}, None
        if lengths is not None:
            packed = sequences.pack_padded_sequence(
                torch.zeros(self.T, self.B, 1), lengths, enforce_sorted=self.how == "sorted"
            )
            order = np.arange(self.B) if packed.sorted_indices is None else packed.sorted_indices.numpy()
            lengths = lengths.numpy()[order]
            x = x[: lengths[0], order]  # as in a PackedSequence: without steps that no row has
            state = state and [s[:, order] for s in state]
            given, valid = {"lengths": lengths}, np.arange(lengths[0])[:, None] < lengths
        hx = None if state is None else tuple(state) if self.kind == "LSTM" else state[0]

        def outside(y, states):
            states = list(states) if self.kind == "LSTM" else [states]
            if order is not None:
                back = np.argsort(order)
                return [y[valid], *(s[:, back] for s in states)]
            return [y.swapaxes(0, 1) if self.options["batch_first"] and self.how != "unbatched" else y, *states]

        if dy is None:
            return [
                torch.from_numpy(np.ascontiguousarray(a)) for a in outside(*layer(np.ascontiguousarray(x), hx, **given))
            ]
        (y, state_n), backward = layer.vjp(np.ascontiguousarray(x), hx, **given)
        d_y, *d_state = (d.numpy() for d in dy)
        if order is not None:
            padded = np.zeros_like(y)
            padded[valid] = d_y
            d_y, d_state = padded, [s[:, order] for s in d_state]
        elif self.options["batch_first"] and self.how != "unbatched":
            d_y = d_y.swapaxes(0, 1)
        g = backward(np.ascontiguousarray(d_y), tuple(d_state) if self.kind == "LSTM" else d_state[0])
        dx, d0 = g.x, list(g.state) if self.kind == "LSTM" else [g.state]
        if order is not None:
            back = np.argsort(order)
            dx, d0 = np.pad(dx[:, back], ((0, self.T - len(dx)), (0, 0), (0, 0))), [s[:, back] for s in d0]
        if self.options["batch_first"] and self.how != "unbatched":
            dx = dx.swapaxes(0, 1)
        found = [*outside(y, state_n), dx, *(d0 if state is not None else []), *g.params.values()]
        return [torch.from_numpy(np.ascontiguousarray(a)) for a in found]


def flat(result):
    y, state = result
    y = y.data if isinstance(y, sequences.PackedSequence) else y
    return [y, *(state if isinstance(state, tuple) else (state,))]


def draw(seed, most=40, layers=3):
    """Draw a case. Sizes are on both sides of whole vectors, and of the limits for small calls and parameters."""
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(3)]
    I, H = (int(rng.choice([rng.integers(1, 10), rng.integers(1, most), 8, 16, 17, 32, 33])) for _ in range(2))
    T, B = int(rng.integers(1, 9)), int(rng.integers(1, 8))
    if rng.integers(6) == 0:
        T, B = [(16, 16), (17, 16), (255, 1), (1, 257), (65, 8), (2, 300), (129, 2), (33, 7)][rng.integers(8)]
    options = {
        "num_layers": int(rng.integers(1, layers + 1)),
        "bidirectional": bool(rng.integers(2)),
        "bias": bool(rng.integers(4)),
        "batch_first": bool(rng.integers(2)),
    }
    if kind == "RNN":
        options["nonlinearity"] = ["tanh", "relu"][rng.integers(2)]
    if kind == "LSTM" and H > 2 and rng.integers(3) == 0:
        options["proj_size"] = int(rng.integers(1, H))
    dtype = [torch.float32, torch.float64][rng.integers(2)]
    how = ["padded", "padded", "unbatched", "packed", "sorted"][rng.integers(5)]
    return Case(rng, kind, (I, H), options, dtype, how, T, 1 if how == "unbatched" else B, bool(rng.integers(2)))


def shifted(module, by=0.25):
    """Return the state_dict of a module with every number changed."""
    return {
        name: p * 0.5 + by * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).reshape(p.shape)
        for name, p in module.state_dict().items()
    }


def _swapped(module):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.load_state_dict(shifted(module))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def _optimised(module, make):
    for p in module.parameters():
        p.grad = torch.cos(torch.arange(p.numel(), dtype=p.dtype)).reshape(p.shape)
    make(list(module.parameters())).step()


def _shared(module):
    """Use shared memory, and write to one number without the version counter of this process's tensor."""
    module.share_memory()
    p = module.weight_hh_l0
    alias = torch.empty(0, dtype=p.dtype).set_(p.untyped_storage(), p.storage_offset(), p.shape, p.stride())
    alias[-1, -1] += 1


def _whole(write):
    def change(module):
        for name, p in module.named_parameters():
            write(p, shifted(module)[name])

    return change


def _slices(module):
    """Write as torch.nn.utils.vector_to_parameters does."""
    values = torch.cat([p.flatten() for p in shifted(module).values()])
    for p in module.parameters():
        p.data, values = values[: p.numel()].view(p.shape), values[p.numel() :]


def _in_inference_mode(module):
    with torch.inference_mode():
        for p in module.parameters():
            p.mul_(0.5)


def _one_number(module):
    with torch.no_grad():
        module.weight_hh_l0[-1, -1] += 1


# Writes that keep the Parameter objects, so that a traced module sees them too.
IN_PLACE = {
    "load_state_dict": lambda m: m.load_state_dict(shifted(m)),
    "copy_": torch.no_grad()(_whole(lambda p, new: p.copy_(new))),
    "one number": _one_number,
    "foreach": torch.no_grad()(lambda m: torch._foreach_mul_(list(m.parameters()), 0.5)),
    "init": lambda m: [torch.nn.init.normal_(p, std=0.1) for p in m.parameters()],
    "sgd": lambda m: _optimised(m, lambda ps: torch.optim.SGD(ps, lr=0.1)),
    "adam": lambda m: _optimised(m, lambda ps: torch.optim.Adam(ps, lr=0.1, foreach=True)),
    "fused adam": lambda m: _optimised(m, lambda ps: torch.optim.Adam(ps, lr=0.1, fused=True)),
    "inference_mode": _in_inference_mode,
    "data anew": _whole(lambda p, new: setattr(p, "data", new)),
    "data in place": _whole(lambda p, new: p.data.copy_(new)),
    "detached": _whole(lambda p, new: p.detach().copy_(new)),
    "numpy": _whole(lambda p, new: p.detach().numpy().__setitem__(..., new.numpy())),
    "set_": torch.no_grad()(_whole(lambda p, new: p.set_(new))),
    "slices of a vector": _slices,
    "shared memory": _shared,
}
OTHER = {
    "assign": lambda m: m.load_state_dict(shifted(m), assign=True),
    "swap_tensors": _swapped,
    "new Parameters": lambda m: [setattr(m, name, torch.nn.Parameter(p)) for name, p in shifted(m).items()],
    "transposed": lambda m: setattr(m.weight_hh_l0, "data", m.weight_hh_l0.data.t().contiguous().t() * 0.5),
}
