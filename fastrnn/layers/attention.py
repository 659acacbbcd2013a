"""AttentionDecoder: recurrent layers that look back at a memory at every step, with input feeding, in one compiled loop over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import attention as check_attention
from fastrnn._check import memory as check_memory
from fastrnn._core import finite, finite_decoder
from fastrnn._core.batch import Batch, even_batch
from fastrnn._core.calls import masks
from fastrnn._core.decoder import DecoderPass, Memory, PackedDecoder, Sizes
from fastrnn._core.memory import OwnsTape, Pool
from fastrnn._core.stack import Call, Tokens
from fastrnn.parameters import Gradients, Layer

ATTENTIONS = ("additive", "dot", "general")


@dataclass
class DecoderGradients(Gradients):
    """Gradients with that of the memory, (S, B, M)."""

    memory: np.ndarray | None = None


class AttentionDecoder(Layer):
    """A decoder that weighs the steps of a memory, mostly an encoder's outputs, anew at each of its own steps.

    ::

        s_t = rnn([x_t; a_{t-1}], s_{t-1})                      a_{t-1} only with input feeding; a_0 = 0
        score(s, m):   additive  v . tanh(W_q s + W_k m)        (Bahdanau et al. 2015)
                       general   s . W_k m                      (Luong et al. 2015)
                       dot       s . m
        alpha_t = softmax over the row's own memory of score(s_t, m)
        c_t = sum of alpha_t m
        a_t = tanh(W [c_t; s_t] + b)                            the output

    The scores are of the state after the step, with all three, as in Luong et al. 2015, OpenNMT and TensorFlow's AttentionWrapper.

    Parameters
    ----------
    rnn : RNN, GRU or LSTM of any depth, made just before in the same storage; its parameters are the decoder's too. It is
        unidirectional, not batch_first; x_t are its inputs, its hidden_size is that of s
    memory_size : M, numbers of a step of the memory
    attention : "additive", "dot" (M must be H) or "general"
    size : A, numbers that additive attention compares; hidden_size by default. The others have A = H
    output_size : F, numbers of an output; hidden_size by default
    input_feeding : whether a_{t-1} enters step t beside x_t (Luong et al. 2015, §3.3)
    seed : int or numpy Generator, optional. Parameters start as U(-1/sqrt(n), 1/sqrt(n)), n the numbers that enter.

    Notes
    -----
    The parameters are those of the rnn, as ``rnn.…``, and ``weight_query`` (A, H), ``weight_score`` (A,) (both only additive),
    ``weight_key`` (A, M) (not dot), ``weight_out`` (F, M+H), ``bias_out`` (F,), ``weight_feed`` (G*H, F). A row has the same bits
    whatever the other rows are, on any number of threads. A row without a memory (length 0) has c = 0.

    Examples
    --------
    >>> import fastrnn
    >>> rnn = fastrnn.GRU(3, 8, seed=0)
    >>> decoder = AttentionDecoder(rnn, memory_size=6, seed=0)
    >>> memory = np.ones((7, 2, 6), "float32")
    >>> y, h_n, alpha = decoder(np.zeros((5, 2, 3), "float32"), memory, memory_lengths=[7, 4], return_attention=True)
    >>> y.shape, alpha.shape, alpha[0, 1].round(4).tolist()
    ((5, 2, 8), (5, 2, 7), [0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0])
    """

    kind = "AttentionDecoder"

    def __init__(self, rnn, memory_size: int, *, attention: str = "additive", size: int | None = None, output_size: int | None = None,
                 input_feeding: bool = True, seed=None):  # fmt: skip
        self.rnn = check_attention.cells(rnn)
        self.memory_size = M = _check.size("memory_size", memory_size)
        self.attention = _check.choice("attention", attention, ATTENTIONS)
        H = rnn.hidden_size
        self.size = H if size is None else _check.size("size", size)
        if attention != "additive" and self.size != H:
            raise ValueError(
                f"size is {self.size}, but {attention} attention compares with the state, which has {H} numbers: leave size out"
            )
        if attention == "dot" and M != H:
            raise ValueError(
                f"memory_size is {M}, but dot attention needs that of the state, {H}: take general attention, or make them equal"
            )
        self.output_size = F = H if output_size is None else _check.size("output_size", output_size)
        self.input_feeding = bool(input_feeding)
        shapes = {"weight_out": (F, M + H), "bias_out": (F,)}
        if attention != "dot":
            shapes["weight_key"] = (self.size, M)
        if attention == "additive":
            shapes |= {"weight_query": (self.size, H), "weight_score": (self.size,)}
        if input_feeding:
            shapes["weight_feed"] = (rnn.num_gates * H, F)
        self._end_of_rnn(rnn)
        what = f"AttentionDecoder(…, memory_size={M}, size={self.size}, output_size={F})"
        check_memory.shaped(what, shapes, rnn.dtype, rnn.storage)
        rng, inputs = np.random.default_rng(seed), {"bias_out": M + H, "weight_feed": H}
        arrays = {f"rnn.{name}": slot for name, slot in rnn.slots.items()}
        for name, shape in shapes.items():
            bound = 1 / math.sqrt(inputs.get(name, shape[-1]))
            arrays[name] = rng.uniform(-bound, bound, shape)
        self._own(rnn.storage, rnn.dtype, arrays)
        start = min(slot.offset for slot in rnn.slots.values())
        self.num_parameters += rnn.num_parameters
        self._range = slice(start, start + self.num_parameters)
        self._reset_caches()

    @staticmethod
    def _end_of_rnn(rnn):
        """What is drawn next in the storage must follow the rnn: the decoder's parameters lie side by side."""
        end = max(slot.offset + slot.size for slot in rnn.slots.values())
        if end != rnn.storage.size:
            raise ValueError(
                "other layers were made in this storage after the rnn: make the AttentionDecoder right after its rnn"
            )

    def _reset_caches(self):
        super()._reset_caches()
        self._sizes = Sizes(self.attention, self.size, self.memory_size, self.output_size, self.input_feeding)
        self._packed_for = None
        self._tapes = Pool()

    def __getstate__(self):
        return {
            name: value
            for name, value in super().__getstate__().items()
            if name not in ("_packed_for", "_tapes", "_sizes")
        }

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset_caches()

    def __repr__(self):
        feeds = "" if self.input_feeding else ", input_feeding=False"
        return f"AttentionDecoder({self.rnn!r}, memory_size={self.memory_size}, attention={self.attention!r}, output_size={self.output_size}{feeds})"

    @property
    def hidden_size(self) -> int:
        return self.rnn.hidden_size

    @property
    def input_size(self) -> int:
        return self.rnn.input_size

    @property
    def num_layers(self) -> int:
        return self.rnn.num_layers

    @property
    def context_size(self) -> int:
        return self.rnn.context_size

    @property
    def cell(self):
        return self.rnn.cell

    def astype(self, dtype):
        """An independent decoder with the same parameters, computing in another dtype."""
        other = AttentionDecoder(
            self.rnn.astype(dtype), self.memory_size, attention=self.attention, size=self.size, output_size=self.output_size,
            input_feeding=self.input_feeding, seed=0,
        )  # fmt: skip
        other.load_state_dict(self.params)
        return other

    def __call__(
        self, x, memory, state=None, *, lengths=None, memory_lengths=None, context=None, embedding=None, return_attention=False,
        check_finite=False,
    ):  # fmt: skip
        """Run over a batch of sequences.

        Parameters
        ----------
        x : (T, B, rnn.input_size), or ids (T, B) with `embedding`
        memory : (S, B, memory_size), what is past a row's own length is not looked at
        state : initial state of the rnn, zeros by default
        lengths : (B,) ints in 0..T: steps of x
        memory_lengths : (B,) ints in 0..S: steps of the memory
        context : (B, context_size), for an rnn made with context_size
        return_attention : give a third result, the weights
        check_finite : raise FloatingPointError where a value is NaN or infinite, as for ``fastrnn.LSTM.__call__``; the message names the
            first one: an argument, a gate, the attention weights, the output, and the step and row

        Returns
        -------
        y : (T, B, output_size), zeros past a row's length
        state_n : of the rnn, after the last step
        alpha : (T, B, S) the weights of the memory's steps at each step; zeros past the lengths. Only with `return_attention`.

        Raises
        ------
        TypeError, ValueError  an array does not fit; the message names both sizes.
        """
        inputs = x, memory, state, lengths, memory_lengths, context, embedding
        decoding, _ = self._decode(inputs, None, check_finite)
        results = self._results(decoding)
        if return_attention:
            results += (self._alpha(decoding, memory),)
        decoding.release()
        return results

    def vjp(
        self, x, memory, state=None, *, lengths=None, memory_lengths=None, context=None, embedding=None, rng=None, check_finite=False,
    ):  # fmt: skip
        """As a call, with dropout between the rnn's layers, and also the backward: ``(y, state_n), backward = decoder.vjp(x, memory)``.

        ``backward(dy, dstate_n=None, need_x=True, into=None)`` gives Gradients with `.x`, `.memory`, `.state`, `.context`, `.embedding`
        and `.params`; ``backward.release()`` gives its memory back. `rng` is the key of the masks, as for the layers;
        `check_finite` is as in a call, and holds for the backward too.

        Examples
        --------
        >>> import fastrnn
        >>> decoder = AttentionDecoder(fastrnn.GRU(3, 8, seed=0), memory_size=6, seed=0)
        >>> (y, h_n), backward = decoder.vjp(np.zeros((5, 2, 3), "float32"), np.ones((7, 2, 6), "float32"))
        >>> g = backward(np.ones_like(y))
        >>> g.memory.shape, g.params["weight_query"].shape, g.params["rnn.weight_hh_l0"].shape
        ((7, 2, 6), (8, 8), (24, 8))
        """
        inputs = x, memory, state, lengths, memory_lengths, context, embedding
        with masks(self.rnn, rng) as dropout:
            decoding, check = self._decode(inputs, dropout, check_finite)
            return self._results(decoding), DecoderBackward(self, decoding, embedding, check)

    def _decode(self, inputs, dropout, check_finite):
        """Run a forward pass; return it, and its check or None."""
        x, memory, state, lengths, memory_lengths, context, embedding = inputs
        rnn = self.rnn
        x, unbatched = _check.x(rnn, x) if embedding is None else _check.ids(rnn, x, embedding)
        if unbatched:
            raise ValueError(f"x has shape {x[:, 0].shape}, but a decoder takes a batch: give (T, B, …)")
        T, B = x.shape[:2]
        state = _check.state(rnn, "state", state, B, False)
        lengths = _check.lengths(lengths, T, B, False)
        context = _check.context(rnn, context, B, False)
        memory = check_attention.memory(self, memory, B)
        memory = Memory(memory, check_attention.memory_lengths(memory_lengths, len(memory), B))
        batch = even_batch(T, B) if lengths is None else Batch(T, B, lengths)
        if embedding is None:
            rows = batch.packed(np.ascontiguousarray(x).reshape(T * B, x.shape[2]))
        else:
            rows = Tokens.of(batch.packed(np.ascontiguousarray(x, np.int64).reshape(T * B)), embedding.params["weight"])
        if context is not None:
            context = np.array(batch.sorted(context), order="C")
        check, call = None, Call(rnn._net, self._packed(), batch, rows, context, dropout)
        if check_finite or finite.wanted():
            check = finite_decoder.arguments(self, call, state, memory)
        decoding = DecoderPass(self._sizes, call, memory, state, self._tapes)
        if check is not None:
            finite_decoder.results(check, decoding)
        return decoding, check

    def _packed(self):
        """The packed copies for the parameters as they are now."""
        key, made = (self.version, _engine.isa()), self._packed_for
        if made is None or made[0] != key:
            own = {name: array for name, array in self.params.items() if not name.startswith("rnn.")}
            made = self._packed_for = (
                key,
                PackedDecoder(self.cell, self.hidden_size, self.dtype, {**self.rnn.params, **own}),
            )
        return made[1]

    def _results(self, decoding):
        y = decoding.batch.spread(decoding.over["a"])
        if decoding.batch.where is None:  # else it is a copy already
            y = y.copy()
        return y, self.rnn._shape_state(decoding.state_n, False)

    @staticmethod
    def _alpha(decoding, memory):
        batch = decoding.batch
        alpha = np.zeros((batch.T, batch.B, len(memory)), decoding.net.dtype)
        alpha[:, :, : decoding.memory.longest] = batch.spread(decoding.over["alpha"])
        return alpha


class DecoderBackward(OwnsTape):
    """The gradients of one forward pass of an AttentionDecoder; see there."""

    def __init__(self, decoder, decoding, embedding, check):
        self._decoder, self._decoding, self._embedding, self._check = decoder, decoding, embedding, check
        self._version = decoder.version, None if embedding is None else embedding.version

    def __call__(self, dy=None, dstate_n=None, *, need_x=True, into=None) -> DecoderGradients:
        decoder, found = self._decoder, self._decoding
        if found.tape.released:
            raise RuntimeError("this backward was released: run vjp again")
        _check.same_versions(decoder, self._embedding, self._version)
        batch = found.batch
        dy = check_attention.dy(decoder, dy, (batch.T, batch.B, decoder.output_size))
        dstate = _check.state(decoder.rnn, "dstate_n", dstate_n, batch.B, False)
        if dy is not None:
            dy = batch.packed(np.ascontiguousarray(dy).reshape(batch.T * batch.B, decoder.output_size))
        if self._check is not None:
            finite_decoder.backward_arguments(self._check, dy, dstate)
        grads, flat = decoder._gradients(into)
        d_embedding = None
        if self._embedding is not None:
            shared = into is not None and self._embedding.storage is decoder.storage
            weight = self._embedding.params["weight"]
            d_embedding = (
                self._embedding.slots["weight"].view(into) if shared else np.zeros(weight.shape, decoder.dtype)
            )
        plain = {name.removeprefix("rnn."): array for name, array in grads.items()}
        dx, dstate_0, d_context, d_memory = found.backward(dy, dstate, plain, need_x=need_x, d_embedding=d_embedding)
        if self._check is not None:
            others = {"context": d_context, "embedding": d_embedding, **dict(zip(("h_0", "c_0"), dstate_0))}
            finite_decoder.gradients(self._check, dx, found.memory, d_memory, others, grads)
        if dx is not None:
            dx = batch.spread(dx)
        if d_context is not None:
            d_context = batch.unsorted(d_context[None])[0]
        state = decoder.rnn._shape_state(dstate_0, False)
        return DecoderGradients(dx, state, d_context, d_embedding, grads, flat, found.memory.spread(d_memory))

    def release(self):
        """Give the memory of the tape back; this backward can't be called any more."""
        self._decoding.release()
