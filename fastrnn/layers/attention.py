"""AttentionDecoder: recurrent layers that attend to a memory at every step, in one compiled loop over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from fastrnn import _check, _engine
from fastrnn._check import attention as check_attention
from fastrnn._check import memory as check_memory
from fastrnn._core import finite, finite_decoder
from fastrnn._core.batch import Batch, even_batch
from fastrnn._core.calls import masks
from fastrnn._core.decoder import DecoderPass, Memory, PackedDecoder, Sizes
from fastrnn._core.memory import Pool
from fastrnn._core.stack import Call, Tokens
from fastrnn._types import Array, ArrayLike, DTypeLike, IntsLike, Seed, State, StateLike
from fastrnn.layers.attention_backward import DecoderBackward
from fastrnn.layers.recurrent import Recurrent
from fastrnn.parameters import Layer

if TYPE_CHECKING:
    from fastrnn.layers.feedforward import Embedding

ATTENTIONS = ("additive", "dot", "general")


class AttentionDecoder(Layer):
    """Recurrent decoder with attention over a memory, such as the outputs of an encoder.

    ::

        s_t = rnn([x_t; a_{t-1}], s_{t-1})                      a_{t-1} only with input feeding; a_0 = 0
        score(s, m):   additive  v . tanh(W_q s + W_k m)        (Bahdanau et al. 2015)
                       general   s . W_k m                      (Luong et al. 2015)
                       dot       s . m
        alpha_t = softmax over the steps m of the row's memory of score(s_t, m)
        c_t = sum of alpha_t m
        a_t = tanh(W [c_t; s_t] + b)                            the output

    All three scores use the state after the step, as in Luong et al. 2015, OpenNMT and TensorFlow's AttentionWrapper.

    Parameters
    ----------
    rnn : RNN, GRU or LSTM
        Recurrent layer or layers, unidirectional and with ``batch_first=False``. Nothing else may have been added to
        its storage after it. Its parameters become those of the decoder.
    memory_size : int
        Number of features M of the memory.
    attention : {"additive", "dot", "general"}, default "additive"
        Score. "dot" requires M = hidden_size.
    size : int, optional
        Number of features A that additive attention compares. By default hidden_size, which the other scores require.
    output_size : int, optional
        Number of features F of the output. By default hidden_size.
    input_feeding : bool, default True
        Feed a_{t-1} into step t together with x_t (Luong et al. 2015, §3.3).
    seed : int or numpy.random.Generator, optional
        Source of the initial values, drawn from U(-1/sqrt(n), 1/sqrt(n)) with n input features.

    Raises
    ------
    TypeError
        `rnn` is not an RNN, GRU or LSTM.
    ValueError
        An option of `rnn` or a size does not fit.

    Notes
    -----
    The parameters are those of the rnn, with the prefix ``rnn.``, ``weight_query`` (A, H) and ``weight_score`` (A,) for
    additive attention, ``weight_key`` (A, M) except for dot attention, ``weight_out`` (F, M+H), ``bias_out`` (F,), and
    ``weight_feed`` (G*H, F) with input feeding.

    A row does not depend, bit for bit, on the other rows or on the number of threads. For a row without memory (length
    0) c is 0.

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

    def __init__(
        self, rnn: Recurrent[Any], memory_size: int, *, attention: Literal["additive", "dot", "general"] = "additive",
        size: int | None = None, output_size: int | None = None, input_feeding: bool = True, seed: Seed = None,
    ):  # fmt: skip
        self.rnn = check_attention.cells(rnn)
        self.memory_size = M = _check.size("memory_size", memory_size)
        self.attention = _check.choice("attention", attention, ATTENTIONS)
        H = rnn.hidden_size
        self.size = H if size is None else _check.size("size", size)
        if attention != "additive" and self.size != H:
            raise ValueError(
                f"size is {self.size}, but {attention} attention requires size = hidden_size = {H}: leave size out"
            )
        if attention == "dot" and M != H:
            raise ValueError(
                f"memory_size is {M}, but dot attention requires memory_size = hidden_size = {H}: use general "
                "attention, or make them equal"
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
        self._check_last_in_storage(rnn)
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
    def _check_last_in_storage(rnn):
        """Refuse an rnn that is not the last in its storage: the decoder's parameters must be one contiguous range."""
        end = max(slot.offset + slot.size for slot in rnn.slots.values())
        if end != rnn.storage.size:
            raise ValueError(
                "other layers were added to the storage after the rnn: construct the AttentionDecoder "
                "right after its rnn"
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
        feeding = "" if self.input_feeding else ", input_feeding=False"
        return (
            f"AttentionDecoder({self.rnn!r}, memory_size={self.memory_size}, attention={self.attention!r}, "
            f"output_size={self.output_size}{feeding})"
        )

    @property
    def hidden_size(self) -> int:
        """Number of hidden units H of the rnn."""
        return self.rnn.hidden_size

    @property
    def input_size(self) -> int:
        """Number of features of x."""
        return self.rnn.input_size

    @property
    def num_layers(self) -> int:
        """Number of layers of the rnn."""
        return self.rnn.num_layers

    @property
    def context_size(self) -> int:
        """Number of features of the context vector of the rnn."""
        return self.rnn.context_size

    @property
    def cell(self):
        """Description of the rnn's cell."""
        return self.rnn.cell

    def astype(self, dtype: DTypeLike) -> AttentionDecoder:
        """Copy the decoder with its parameters converted to another dtype.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Data type of the new decoder.

        Returns
        -------
        AttentionDecoder
            Independent decoder that computes in `dtype`.
        """
        other = AttentionDecoder(
            self.rnn.astype(dtype), self.memory_size, attention=self.attention, size=self.size,
            output_size=self.output_size, input_feeding=self.input_feeding, seed=0,
        )  # fmt: skip
        other.load_state_dict(self.params)
        return other

    @overload
    def __call__(
        self, x: ArrayLike, memory: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        memory_lengths: IntsLike | None = None, context: ArrayLike | None = None, embedding: Embedding | None = None,
        return_attention: Literal[False] = False, check_finite: bool = False,
    ) -> tuple[Array, State]: ...  # fmt: skip

    @overload
    def __call__(
        self, x: ArrayLike, memory: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        memory_lengths: IntsLike | None = None, context: ArrayLike | None = None, embedding: Embedding | None = None,
        return_attention: Literal[True], check_finite: bool = False,
    ) -> tuple[Array, State, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, x: ArrayLike, memory: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        memory_lengths: IntsLike | None = None, context: ArrayLike | None = None, embedding: Embedding | None = None,
        return_attention: bool, check_finite: bool = False,
    ) -> tuple[Array, State] | tuple[Array, State, Array]: ...  # fmt: skip

    def __call__(
        self, x: ArrayLike, memory: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        memory_lengths: IntsLike | None = None, context: ArrayLike | None = None, embedding: Embedding | None = None,
        return_attention: bool = False, check_finite: bool = False,
    ) -> tuple[Array, State] | tuple[Array, State, Array]:  # fmt: skip
        """Run the decoder over a batch of sequences, without keeping anything for a backward pass.

        Parameters
        ----------
        x : ndarray, shape (T, B, input_size)
            Input, of the decoder's dtype. With `embedding`: integer ids, (T, B).
        memory : ndarray, shape (S, B, memory_size)
            Steps to attend to.
        state : ndarray or pair of ndarrays, optional
            Initial state of the rnn. By default zeros.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of x for each row, 0 to T.
        memory_lengths : array_like of int, shape (B,), optional
            Number of valid steps of the memory for each row, 0 to S. Steps after it get no attention.
        context : ndarray, shape (B, context_size), optional
            Additional input of every step. Required if the rnn has a `context_size`.
        embedding : Embedding, optional
            Layer that maps ids to input vectors.
        return_attention : bool, default False
            Also return the attention weights.
        check_finite : bool, default False
            Raise an error if a value is NaN or infinite, as for `LSTM`.

        Returns
        -------
        y : ndarray, shape (T, B, output_size)
            Outputs; zeros after a row's length.
        state_n : ndarray or pair of ndarrays
            Final state of the rnn.
        alpha : ndarray, shape (T, B, S)
            Only with `return_attention`: weight of each step of the memory at each step; zeros after the lengths.

        Raises
        ------
        TypeError
            An array does not have the decoder's dtype.
        ValueError
            A shape or a length does not fit.
        FloatingPointError
            A value is NaN or infinite, with `check_finite`. The message names the first, with its step and row.
        """
        inputs = x, memory, state, lengths, memory_lengths, context, embedding
        decoding, _ = self._decode(inputs, None, check_finite)
        results = self._results(decoding)
        if return_attention:
            results += (self._alpha(decoding, memory),)
        decoding.release()
        return results

    def vjp(
        self, x: ArrayLike, memory: ArrayLike, state: StateLike | None = None, *, lengths: IntsLike | None = None,
        memory_lengths: IntsLike | None = None, context: ArrayLike | None = None, embedding: Embedding | None = None,
        rng: int | None = None, check_finite: bool = False,
    ) -> tuple[tuple[Array, State], DecoderBackward]:  # fmt: skip
        """Run the decoder with dropout between the layers, and return the function that computes the gradients.

        Parameters
        ----------
        x : ndarray, shape (T, B, input_size)
            Input, of the decoder's dtype. With `embedding`: integer ids, (T, B). Do not change it before the backward
            pass.
        memory : ndarray, shape (S, B, memory_size)
            Steps to attend to. Do not change it before the backward pass.
        state : ndarray or pair of ndarrays, optional
            Initial state of the rnn. By default zeros.
        lengths : array_like of int, shape (B,), optional
            Number of valid steps of x for each row, 0 to T.
        memory_lengths : array_like of int, shape (B,), optional
            Number of valid steps of the memory for each row, 0 to S. Steps after it get no attention.
        context : ndarray, shape (B, context_size), optional
            Additional input of every step. Required if the rnn has a `context_size`.
        embedding : Embedding, optional
            Layer that maps ids to input vectors.
        rng : int, optional
            Key of the dropout masks, 0 to 2**64 - 1. By default each call draws new masks from the rnn's seed.
        check_finite : bool, default False
            Raise an error if a value is NaN or infinite, in the backward pass too.

        Returns
        -------
        results : tuple
            ``(y, state_n)``, as `__call__` returns them.
        backward : DecoderBackward
            Function of ``(dy=None, dstate_n=None, *, need_x=True, into=None)`` that returns `DecoderGradients`.

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
        """Run a forward pass; returns it, and the check for finite values or None."""
        x, memory, state, lengths, memory_lengths, context, embedding = inputs
        rnn = self.rnn
        if _engine.recording() is not None:
            raise _engine.NotRecordable("attention")
        x, unbatched = _check.x(rnn, x) if embedding is None else _check.ids(rnn, x, embedding)
        if unbatched:
            raise ValueError(f"x has shape {x[:, 0].shape}, but a decoder needs a batch axis: pass (T, B, …)")
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
            ids = batch.packed(np.ascontiguousarray(x, np.int64).reshape(T * B))
            rows = Tokens.of(ids, embedding.params["weight"], batch.ends)
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
        """Packed copies of the current parameters, kept until the parameters or the instruction set change."""
        key, kept = (self.version, _engine.isa()), self._packed_for
        if kept is None or kept[0] != key:
            own = {name: array for name, array in self.params.items() if not name.startswith("rnn.")}
            packed = PackedDecoder(self.cell, self.hidden_size, self.dtype, {**self.rnn.params, **own})
            kept = self._packed_for = (key, packed)
        return kept[1]

    def _results(self, decoding):
        y = decoding.batch.spread(decoding.over["a"])
        if decoding.batch.where is None:  # otherwise it is already a copy
            y = y.copy()
        return y, self.rnn._shape_state(decoding.state_n, False)

    @staticmethod
    def _alpha(decoding, memory):
        batch = decoding.batch
        alpha = np.zeros((batch.T, batch.B, len(memory)), decoding.net.dtype)
        alpha[:, :, : decoding.memory.longest] = batch.spread(decoding.over["alpha"])
        return alpha
