"""The parameters of recurrent layers, packed in the order in which the kernels read them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastrnn import _engine


def padded(hidden_size, dtype):
    """Hp: the hidden size, rounded up to whole vectors of the instruction set in use."""
    lanes = _engine.vector_lanes(dtype.itemsize == 8)
    return -(-hidden_size // lanes) * lanes


def _gate_columns(gates, H, Hp):
    """Source row of each column of blocks (gate, unit); -1 for padding."""
    units = np.concatenate([np.arange(H), np.full(Hp - H, -1)])
    return np.concatenate([np.where(units < 0, -1, units + gate * H) for gate in gates]).astype(np.int64)


@lru_cache(maxsize=256)
def _index(kind, gates, H, Hp, lanes):
    """Source index of each packed column, or of each k of a backward product. It depends on sizes only."""
    columns = _gate_columns(gates, H, Hp)
    if kind == "interleaved":  # (unit block, gate, lane) in place of (gate, unit block, lane)
        columns = columns.reshape(len(gates), Hp // lanes, lanes).transpose(1, 0, 2)
    columns = np.ascontiguousarray(columns.ravel())
    columns.flags.writeable = False
    return columns


def _packed(w, columns, rows, stride_n, stride_k, panel=_engine.PANEL):
    out = _engine.aligned_empty(len(columns) * len(rows), w.dtype)
    if out.size:
        _engine.pack_columns(np.ascontiguousarray(w), columns, rows, stride_n, stride_k, panel, out)
    return out


class Packed:
    """Packed copies of the parameters of a stack, each made when first needed. Valid for one version of the parameters.

    cell, H, dtype : of all layers
    params : {PyTorch's name: array}
    """

    def __init__(self, cell, H, dtype, params):
        self.cell, self.H, self.dtype, self.params = cell, H, dtype, params
        self.P = cell.state_sizes(H)[0]
        self.Hp, self.Pp = padded(H, dtype), padded(self.P, dtype)
        self.lanes = _engine.vector_lanes(dtype.itemsize == 8)
        # gates whose blocks are adjacent in both layouts: in the bias, in dW_ih, in dW_hh
        self.x_runs, self.h_runs = runs(cell.x_gates, True), runs(cell.h_gates, True)
        self.dw_ih_runs = runs(cell.x_gates, self.Hp == H)
        self.dw_hh_runs = runs(cell.h_gates, self.Hp == H and cell.rh is None)
        self._made = {}

    def _once(self, key, make):
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = make()
        return made

    def _blocks(self, gates, size=None):
        """Source index of the columns of whole blocks of units, or of a vector of `size` features."""
        H, Hp = (self.H, self.Hp) if size is None else (size, padded(size, self.dtype))
        return _index("blocks", tuple(gates), H, Hp, self.lanes)

    def _x_blocks(self):
        return self._blocks(gate for _, gate in self.cell.x_gates)

    def input(self, suffix, name="weight_ih"):
        """W_ih (or W_ch, or that of the feed) for y = x @ W.T, into the blocks with an input part."""
        return self._once((name, suffix), lambda: self._input(self.params[name + suffix]))

    def _input(self, w):
        return _packed(w, self._x_blocks(), np.arange(w.shape[1]), w.shape[1], 1)

    def input_backward(self, suffix, name="weight_ih"):
        """W_ih (or W_ch, or that of the feed) for dx = dgates @ W."""
        return self._once(("back", name, suffix), lambda: self._input_backward(self.params[name + suffix]))

    def _input_backward(self, w):
        features = np.full(-(-w.shape[1] // self.lanes) * self.lanes, -1, np.int64)
        features[: w.shape[1]] = np.arange(w.shape[1])
        return _packed(w, features, self._x_blocks(), 1, w.shape[1])

    def layer(self, suffix):
        """`LayerWeights` for the forward pass of one layer and direction."""
        return self._once(("layer", suffix), lambda: self._layer(suffix, *self._recurrent(suffix), forward=True))

    def layer_backward(self, suffix):
        """`LayerWeights` for the backward pass of one layer and direction."""
        return self._once(("back", suffix), lambda: self._layer(suffix, *self._recurrent_backward(suffix)))

    def _layer(self, suffix, w, w2, forward=False):
        cell, peephole = self.cell, None
        if cell.peephole:
            peephole = _engine.zeros((cell.gates - 1, self.Hp), self.dtype)
            _engine.copy_rows(self.params["weight_peephole" + suffix].reshape(-1, self.H), peephole[:, : self.H])
        return _engine.LayerWeights(
            cell.code, self.H, self.P, self.params["weight_ih" + suffix].shape[1], cell.blocks, w=w, w2=w2,
            w_ih=self.input(suffix) if forward else None, bias=self.bias(suffix) if forward else None,
            functions=cell.functions, clip=cell.clip, projected=cell.proj_size > 0, peephole=peephole,
        )  # fmt: skip

    def _recurrent(self, suffix):
        """(w, w2) for the forward step."""
        cell, H, P, w = self.cell, self.H, self.P, self.params["weight_hh" + suffix]
        if not cell.interleaved:
            return _packed(w, self._blocks([0]), np.arange(P), H, 1), None
        gates = tuple(range(cell.interleaved))
        columns = _index("interleaved", gates, H, self.Hp, self.lanes)
        first, second = _packed(w, columns, np.arange(P), P, 1, panel=len(gates)), None
        if cell.rh is not None:
            second = _packed(w, self._blocks([cell.gates - 1]), np.arange(P), H, 1)
        elif cell.proj_size:
            second = _packed(self.params["weight_hr" + suffix], self._blocks([0], P), np.arange(H), H, 1)
        return first, second

    def _recurrent_backward(self, suffix):
        """(w, w2) for dh = dgates @ W_hh, and with a projection for dm = dh @ W_hr."""
        P, w = self.P, self.params["weight_hh" + suffix]
        made = [_packed(w, self._blocks([0], P), self._blocks(gates), 1, P) for gates in self.cell.back]
        if self.cell.proj_size:
            made.append(_packed(self.params["weight_hr" + suffix], self._blocks([0]), np.arange(P), 1, self.H))
        return made[0], made[1] if len(made) > 1 else None

    def bias(self, suffix):
        """(X*Hp,) the start of each block's chain, before the input part is added."""
        return self._once(("bias", suffix), lambda: self._bias(suffix))

    def _bias(self, suffix):
        cell, H = self.cell, self.H
        blocks = _engine.zeros((cell.blocks, self.Hp), self.dtype)
        if "bias_ih" + suffix in self.params:
            b_ih = self.params["bias_ih" + suffix].reshape(cell.gates, H)
            b_hh = self.params["bias_hh" + suffix].reshape(cell.gates, H)
            for block, gate, count in self.x_runs:
                _engine.copy_rows(b_ih[gate : gate + count], blocks[block : block + count, :H])
            for block, gate, count in self.h_runs:
                _engine.add_rows(b_hh[gate : gate + count], blocks[block : block + count, :H])
        return blocks.reshape(-1)


@lru_cache
def runs(pairs, together):
    """Merge (block, gate) pairs that are consecutive in both into (block, gate, count), if `together`.

    >>> runs(((1, 0), (2, 1), (3, 2)), True), runs(((0, 2), (1, 0)), True)
    (((1, 0, 3),), ((0, 2, 1), (1, 0, 1)))
    """
    merged = []
    for block, gate in pairs:
        last = merged[-1] if merged else None
        if last and together and block == last[0] + last[2] and gate == last[1] + last[2]:
            merged[-1] = (last[0], last[1], last[2] + 1)
        else:
            merged.append((block, gate, 1))
    return tuple(merged)
