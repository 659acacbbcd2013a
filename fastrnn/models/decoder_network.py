"""The network of models that write a sequence of symbols: a decoder, trained by teacher forcing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastrnn import _engine, search
from fastrnn._core.recording import recordable
from fastrnn._core.valid import ValidSteps
from fastrnn.layers.attention import AttentionDecoder
from fastrnn.layers.feedforward import Dropout, Embedding, Linear, random_key
from fastrnn.losses import softmax_linear_nll
from fastrnn.losses.linear import loss_of_rows
from fastrnn.models.model import CELLS, Model, Recurrent, init_forget_bias
from fastrnn.models.pairs import Pair, Pairs
from fastrnn.models.symbols import Symbols
from fastrnn.parameters import Slot, Storage


class Code(NamedTuple):
    """The representation of a batch of sources, or its gradient."""

    vector: np.ndarray | None = None  # (B, C), for the initial state (through a layer) and for every step
    state: object = None  # for the initial state, unchanged
    memory: np.ndarray | None = None  # (S, B, M), for attention
    lengths: np.ndarray | None = None  # (B,) of the memory


class DecoderNetwork(Model):
    """Base of Decoding, without the reading of data. Each step's input is the symbol before.

    A subclass has the attributes `context` (None, "initial", "every" or "both": where the source's vector enters),
    `_decoder` (cell, size, number of layers and embedding size), `tied` and `dropout`, and defines

    - ``_build_source(known, seed)``: makes the layers that read the source; returns their names, the sizes of the
      vector and of the memory, and whether the decoder can start from the source's state
    - ``_coded(source)``: the Code of a batch
    - ``_coded_vjp(source, rng)``: the Code, and ``backward(dcode, into)``
    """

    attention, attention_size, input_feeding = None, None, False
    UNIT = "symbols"
    vocabulary: Symbols
    target_table: Embedding
    rnn: Recurrent
    decoder: Recurrent | AttentionDecoder
    linear: Linear
    bridge: Linear | None
    _label_smoothing = 0.0

    def _build(self, known, vocabulary, seed):
        """Make the layers in one storage, with initial values drawn from `seed`."""
        self._known, self.vocabulary = known, vocabulary
        self.storage = Storage(self.dtype, self._budget)
        make = dict(dtype=self.dtype, storage=self.storage)
        names, vector_size, memory_size, state_fits = self._build_source(known, seed)
        cell, H, L, E = self._decoder
        V, seeds = len(vocabulary), [random_key(seed, 10 + k) for k in range(5)]
        self.target_table = Embedding(V + 1, E, seed=seeds[0], **make)
        context_size = vector_size if self.context in ("every", "both") else 0
        dropout = self.dropout if L > 1 else 0.0
        self.rnn = CELLS[cell](E, H, L, context_size=context_size, dropout=dropout, seed=seeds[1], **make)
        self.decoder = self.rnn
        if self.attention is not None:
            options = dict(attention=self.attention, size=self.attention_size, input_feeding=self.input_feeding)
            self.decoder = AttentionDecoder(self.rnn, memory_size, seed=seeds[4], **options)
        table = self.target_table.slots["weight"]
        tied = Slot(table.offset, (V, E)) if self.tied else None  # <s>, in the last row, is never predicted
        self.linear = Linear(H, V, weight=tied, seed=seeds[2], **make)
        self.LAYERS = (*names, "target_table", "decoder", "linear")
        self.bridge = None
        if self.context in ("initial", "both") and not state_fits:
            self.bridge = Linear(vector_size, len(self.rnn.cell.states) * L * H, seed=seeds[3], **make)
            self.LAYERS += ("bridge",)
        self._dropout = Dropout(self.dropout)
        with self.storage.updating() as flat:
            table.view(flat)[...] *= 0.1
        init_forget_bias(self.rnn, seeds[1])

    def _entries(self, code):
        """The decoder's arguments that come from a source, and ``backward(decoder's gradients, into)``, their Code."""
        given, initial, bridge_backward = {}, self.context in ("initial", "both"), None
        given["state"] = code.state if initial else None
        if self.context in ("every", "both"):
            given["context"] = code.vector
        if initial and self.bridge is not None:
            z, bridge_backward = self.bridge.vjp(code.vector)
            _engine.call(np.tanh, z, z)
            given["state"] = self._as_state(z)
        if self.attention is not None:
            given |= {"memory": code.memory, "memory_lengths": code.lengths}

        def backward(g, into):
            dvector, dstate = g.context, g.state if initial else None
            if bridge_backward is not None:
                dz = self._as_rows(dstate)
                _engine.tanh_backward(z, dz)
                d, dstate = bridge_backward(dz, into=into).x, None
                if dvector is not None:
                    _engine.add_rows(dvector, d)
                dvector = d
            return Code(dvector, dstate, getattr(g, "memory", None))

        return given, backward

    def _as_state(self, z):
        """Turn (B, states * L * H) into a state of the decoder."""
        shape = self.rnn.num_layers, len(z), self.rnn.hidden_size
        state = tuple(_engine.empty(shape, z.dtype) for _ in self.rnn.cell.states)
        for k, rows in enumerate(rows for part in state for rows in part):
            _engine.copy_rows(z[:, k * shape[2] : (k + 1) * shape[2]], rows)
        return state if self.rnn.cell.has_c else state[0]

    def _as_rows(self, state):
        """The inverse of `_as_state`."""
        state = state if self.rnn.cell.has_c else (state,)
        L, B, H = state[0].shape
        z = _engine.empty((B, len(state) * L * H), self.dtype)
        for k, rows in enumerate(rows for part in state for rows in part):
            _engine.copy_rows(rows, z[:, k * H : (k + 1) * H])
        return z

    @recordable
    def loss_and_gradient(self, batch: Pair, state=None, *, into: np.ndarray, rng: int) -> tuple[float, None]:
        """Compute the loss of a batch and add its gradient to `into`.

        With scheduled sampling, no gradient passes through the model's own choices.

        Parameters
        ----------
        batch : Pair
            Sources with their targets.
        state : None
            Not used: each target starts from its source.
        into : (P,) ndarray
            Where the gradient is added, laid out like ``storage.flat``.
        rng : int
            Key of the dropout masks and of the draws of scheduled sampling.

        Returns
        -------
        loss : float
            Mean negative log-likelihood of the target symbols, ``</s>`` included.
        state : None
            No state is carried to the next batch.
        """
        if _engine.recording() is not None and (self.attention is not None or batch.sampling):
            raise _engine.NotRecordable("scheduled sampling" if batch.sampling else "attention")  # before any work
        code, code_backward = self._coded_vjp(batch.source, random_key(rng, 1))
        given, given_backward = self._entries(code)
        inputs = batch.inputs if not batch.sampling else self._own_inputs(batch, given, random_key(rng, 2))
        (y, _), decoder_backward = self.decoder.vjp(
            inputs, lengths=batch.lengths, embedding=self.target_table, rng=rng, **given
        )
        valid = ValidSteps(batch.targets)
        rows = valid.rows_of(y)
        rows, dropout_backward = self._dropout.vjp(rows, rng=random_key(rng, 3), out=rows)
        options = dict(label_smoothing=self._label_smoothing, into=into, ends=valid.ends)
        loss, drows = loss_of_rows(self.linear, rows, valid.targets, **options)
        dropout_backward(drows, out=drows)
        g = decoder_backward(valid.spread(drows, y.shape), need_x=False, into=into)
        decoder_backward.release()
        code_backward(given_backward(g, into), into)
        return loss, None

    def _own_inputs(self, batch, given, rng):
        """Inputs (T, B), some of which are drawn from the model's own prediction at the step before."""
        T, B = batch.inputs.shape
        own = np.random.default_rng(rng).random((T, B)) < batch.sampling
        own[0] = False
        asked = np.where(own, -1, batch.inputs)
        return search.own_inputs(
            self.decoder, self.target_table, self.linear, **given, given=asked, temperature=1.0, key=random_key(rng, 1)
        )  # fmt: skip

    def _nll(self, batch):
        """The negative log-likelihood (symbols,) of the target symbols of a batch, and their rows b."""
        given, _ = self._entries(self._coded(batch.source))
        y, _ = self.decoder(batch.inputs, lengths=batch.lengths, embedding=self.target_table, **given)
        valid = batch.valid
        nll = softmax_linear_nll(self.linear, y.reshape(-1, y.shape[2])[valid], batch.targets.ravel()[valid])
        return nll, valid % len(batch.rows)

    def evaluate(self, batches: Pairs) -> dict[str, float]:
        """Compute the loss over some batches, by teacher forcing.

        Parameters
        ----------
        batches : Pairs
            Sources with their targets.

        Returns
        -------
        dict
            "loss", the mean negative log-likelihood of the target symbols, ``</s>`` included. A symbol that the model
            does not know is left out of the mean if there is no ``<unk>``.
        """
        found = [self._nll(batch)[0] for batch in batches]
        return {"loss": sum(float(nll.sum()) for nll in found) / sum(map(len, found))}
