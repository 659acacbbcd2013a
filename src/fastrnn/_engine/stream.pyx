"""Sequences that arrive step by step."""
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint64_t

from buffers cimport address
from fastrnn._engine.core cimport process_table
from fastrnn._engine.plan cimport refuse_recording
from fastrnn._engine.sweep cimport (
    LayerWeights, Split, Work, barriers, least_vectors, split_is_forced, split_sweep, steps_of_chunk,
)
from kernels cimport *
from recurrence cimport CHUNK_STEPS, Sweep, sweep, sweep_part
from threads cimport AWAKE_DISCOUNT, AWAKE_US, SPLIT_FLOPS, STREAM_SERIAL_FLOPS

import math

import numpy as np

from fastrnn._engine.core import aligned_empty


cdef class Stream:
    """Sequences that arrive step by step, computed with the weights as of its creation, or of `refresh`.

    Created by ``rnn.stream(batch_size, context)``. Its outputs have the same bits as those of one call over the whole
    sequences. Only one thread at a time may use a stream.

    Attributes
    ----------
    batch_size : int
        Number of sequences, which are computed in parallel.
    state : array or tuple of arrays
        A copy of the state, in the form that the layer's call takes. It can be set; None resets it.
    """
    cdef object layer, context, dtype
    cdef readonly object h, c                     # (L, B, Pp), (L, B, Hp) states; c is None without cell states
    cdef object initial                           # learnt initial state, (L, 1, P) and (L, 1, H), or None for zeros
    cdef object held                              # arrays that the sweeps point to
    cdef readonly Py_ssize_t batch_size
    cdef Py_ssize_t L, I, H, P                    # P: features of h and y
    cdef Py_ssize_t offset[CHUNK_STEPS + 1]
    cdef Sweep *sweeps
    cdef bint is_double
    cdef int taken                                # a call is in progress
    cdef double flops                             # of one step
    cdef double ended                             # time of the end of the last call with enough work for threads

    def __cinit__(self, layer, Py_ssize_t batch_size, context):
        cdef Py_ssize_t t
        self.layer, self.batch_size = layer, batch_size
        self.context = None if context is None else np.array(context)
        self.dtype = layer.dtype
        self.is_double = layer.dtype.itemsize == 8
        self.L, self.I, self.H, self.P = layer.num_layers, layer.input_size, layer.hidden_size, layer.output_size
        for t in range(CHUNK_STEPS + 1):
            self.offset[t] = t * batch_size
        self.refresh()
        self.reset()

    def __dealloc__(self):
        PyMem_Free(self.sweeps)

    def __reduce__(self):
        raise TypeError(
            f"a stream can be neither pickled nor copied: pickle the {self.layer.kind} and `stream.state`, "
            "and create a new stream from them"
        )

    cdef int take(self) except -1:
        if not rnn_take(&self.taken):
            raise RuntimeError(
                "this stream is used by another call at the same time: give each thread its own stream, or use a lock"
            )
        return 0

    def refresh(self):
        """Use the layer's current parameters from now on. The state does not change."""
        self.take()
        try:
            self.rebuild()
        finally:
            rnn_give(&self.taken)

    cdef int rebuild(self) except -1:
        """Allocate memory and set up the sweeps. If that fails, nothing has changed."""
        cdef Py_ssize_t l, B = self.batch_size, Hp, Pp, blocks, steps, L = self.L
        cdef Sweep *sweeps
        cdef Sweep *s
        cdef LayerWeights w
        cdef double flops = 0
        cdef bint has_c
        weights, bias = self.layer._stream_layers(self.context)
        initial = self.layer._stream_initial()
        w = weights[0]
        Hp, Pp, blocks, has_c = w.Hp, w.Pp, w.blocks, rnn_cells[w.cell].has_c
        steps = steps_of_chunk(B, blocks * Hp * w.item)

        def zeros(*shape):
            array = aligned_empty(math.prod(shape), self.dtype).reshape(shape)
            array.fill(0)
            return array

        h, c = zeros(L, B, Pp), zeros(L, B, Hp) if has_c else None
        for new, old, width in ((h, self.h, self.P), (c, self.c, self.H)):
            if new is not None and old is not None:
                new[:, :, :width] = old[:, :, :width]
        gates, h_prev = zeros(steps * B, blocks * Hp), zeros(2 * B, Pp)
        y = zeros(min(L - 1, 2), CHUNK_STEPS * B, self.P)     # outputs of the layers below the top one
        c_prev = zeros(2 * B, Hp) if has_c else None
        h_rows, c_rows, y_rows = list(h), list(c) if has_c else [None] * L, list(y)
        sweeps = <Sweep *>PyMem_Calloc(L, sizeof(Sweep))
        if sweeps == NULL:
            raise MemoryError()
        try:
            for l in range(L):
                s = sweeps + l
                w = weights[l]
                s.kernels, s.cell, s.item, s.blocks, s.x_blocks = w.kernels, w.cell, w.item, w.blocks, w.x_blocks
                s.H, s.Hp, s.P, s.Pp, s.I = w.H, w.Hp, w.P, w.Pp, w.I
                s.options = &w.options if w.has_options else NULL
                s.w_ih, s.w, s.w2, s.bias = w.w_ih, w.w, w.w2, w.bias
                if l == 0 and bias is not None:
                    s.bias, s.bias_stride = address(bias), bias.shape[1]
                s.reverse, s.keep, s.B, s.offset, s.chunk = False, False, B, self.offset, steps
                s.gates, s.h_prev, s.c_prev = address(gates), address(h_prev), address(c_prev)
                s.h_n, s.c_n = address(h_rows[l]), address(c_rows[l])
                s.y_stride = self.P
                if l < L - 1:
                    s.y = address(y_rows[l % 2])
                flops += 2.0 * B * blocks * self.H * (s.P + s.I)
        except BaseException:
            PyMem_Free(sweeps)
            raise
        PyMem_Free(self.sweeps)
        self.sweeps, self.flops = sweeps, flops
        self.h, self.c, self.initial = h, c, initial
        self.held = weights, bias, gates, h_prev, c_prev, y
        return 0

    cdef int advance(self, const char *x, char *y, Py_ssize_t T) except -1:
        """Compute T steps of all layers, in chunks."""
        cdef Split split
        cdef Work work
        cdef Py_ssize_t t = 0, n, l, item = self.sweeps.item, row = self.batch_size * item
        cdef Sweep *s = self.sweeps
        cdef uint64_t mode
        split.parts, split.units = 1, False
        split.cuts[0], split.cuts[1] = 0, self.batch_size
        if self.flops * T * AWAKE_DISCOUNT >= SPLIT_FLOPS or split_is_forced():
            work.T, work.B, work.total, work.lengths = T, self.batch_size, self.batch_size * T, NULL
            work.flops_per_row, work.vectors = self.flops / self.batch_size, s.Hp // s.kernels.lanes
            work.weight_bytes = s.blocks * s.H * s.H * item
            work.barriers, work.least = barriers(s.cell, s.options), least_vectors(s)
            work.awake = rnn_seconds() - self.ended < AWAKE_US * 1e-6
            split_sweep(&split, &work)
        while t < T:
            n = min(T - t, CHUNK_STEPS)
            for l in range(self.L):
                s = self.sweeps + l
                s.T, s.first, s.last, s.units, s.cuts = n, 0, n, split.units, split.cuts
                s.x = (x + t * row * self.I if self.I else NULL) if l == 0 else (s - 1).y
                if l == self.L - 1:
                    s.y = y + t * row * self.P
                if self.flops * n < STREAM_SERIAL_FLOPS:      # however the other chunks are divided
                    mode = rnn_flush_denormals()
                    sweep(s, 0, s.B, 0, 1)
                    rnn_restore_denormals(mode)
                else:
                    with nogil:
                        rnn_team_run(sweep_part, s, split.parts, split.units)
            t += n
            if t < T:
                PyErr_CheckSignals()
        if self.flops * T * AWAKE_DISCOUNT >= SPLIT_FLOPS:
            self.ended = rnn_seconds()
        return 0

    cdef int advance_arrays(self, x, const char *source, char *to, Py_ssize_t T) except -1:
        """`advance` over the checked array x at `source`, which is copied first if it overlaps the output."""
        cdef Py_ssize_t row = T * self.batch_size * (8 if self.is_double else 4)
        refuse_recording("a stream")
        if source < to + row * self.P and to < source + row * self.I:
            x = np.array(x)
            source = address(x)
        self.take()
        try:
            self.advance(source, to, T)
        finally:
            rnn_give(&self.taken)
        return 0

    def step(self, x_t, out=None):
        """Compute one step.

        Parameters
        ----------
        x_t : array, shape (batch_size, input_size)
            Input, of the layer's dtype.
        out : array, shape (batch_size, output_size), optional
            C-contiguous array for the output; it may overlap `x_t`. By default a new array.

        Returns
        -------
        array, shape (batch_size, output_size)
            The output; `out` if it was given.

        Raises
        ------
        RuntimeError
            If another thread is using this stream.
        """
        cdef char *to = NULL
        cdef const char *source = self.place(x_t, 2, self.I, NULL, False)
        if source == NULL:
            x_t = self.rows_of("x_t", x_t, (self.batch_size, self.I))
            source = address(x_t)
        if out is None:
            out = np.empty((self.batch_size, self.P), self.dtype)
        else:
            to = self.place(out, 2, self.P, NULL, True)
            if to == NULL:
                self.layer._stream_out(out, (self.batch_size, self.P))
        if to == NULL:
            to = address(out, True)
        self.advance_arrays(x_t, source, to, 1)
        return out

    def run(self, x, out=None):
        """Compute several steps.

        Parameters
        ----------
        x : array, shape (T, batch_size, input_size)
            Input, of the layer's dtype.
        out : array, shape (T, batch_size, output_size), optional
            C-contiguous array for the output; it may overlap `x`. By default a new array.

        Returns
        -------
        array, shape (T, batch_size, output_size)
            The output; `out` if it was given.

        Raises
        ------
        RuntimeError
            If another thread is using this stream.
        """
        cdef char *to = NULL
        cdef Py_ssize_t T, rows
        cdef const char *source = self.place(x, 3, self.I, &T, False)
        if source == NULL:
            x = self.rows_of("x", x, (None, self.batch_size, self.I))
            source, T = address(x), x.shape[0]
        if out is None:
            out = np.empty((T, self.batch_size, self.P), self.dtype)
        else:
            to = self.place(out, 3, self.P, &rows, True)
            if to == NULL or rows != T:
                self.layer._stream_out(out, (T, self.batch_size, self.P))
        if to == NULL:
            to = address(out, True)
        self.advance_arrays(x, source, to, T)
        return out

    cdef char *place(self, array, int ndim, Py_ssize_t width, Py_ssize_t *steps, bint write) except? NULL:
        """Address of an array of `width` features, according to its buffer; NULL if it cannot be used as it is.

        The caller keeps the array alive. `steps` gets the size of its first axis.
        """
        cdef Py_buffer view
        cdef char *at = NULL
        if not PyObject_CheckBuffer(array):
            return NULL
        try:
            PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if write else 0))
        except (BufferError, ValueError):
            return NULL
        if (
            view.ndim == ndim and view.shape[ndim - 1] == width and view.shape[ndim - 2] == self.batch_size
            and view.format != NULL and view.format[0] == (c"d" if self.is_double else c"f") and view.format[1] == 0
        ):
            at = <char *>view.buf
            if steps != NULL:
                steps[0] = view.shape[0]
        PyBuffer_Release(&view)
        return at

    def rows_of(self, name, x, shape):
        """Convert x to a C-contiguous array, or raise an error if its dtype or shape is wrong."""
        x = np.asarray(x)
        if x.dtype != self.dtype:
            raise TypeError(
                f"{name} is {x.dtype}, but this {self.layer.kind} computes in {self.dtype}: "
                f"convert with {name}.astype('{self.dtype}')"
            )
        if x.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, x.shape)):
            takes = "a step of this stream takes (batch_size" if len(shape) == 2 else "this stream takes (T, batch_size"
            wanted = ", ".join("T" if n is None else str(n) for n in shape)
            raise ValueError(f"{name} has shape {x.shape}, but {takes}, input_size) = ({wanted})")
        return np.ascontiguousarray(x)

    def reset(self, rows=None):
        """Reset the state to zeros, or to the learnt initial state.

        Parameters
        ----------
        rows : array of int or bool, optional
            Indices or mask of the sequences to reset. By default all of them.
        """
        where = slice(None) if rows is None else self.rows_at(rows)
        self.take()
        try:
            for k, state in enumerate((self.h, self.c)):
                if state is not None:
                    state[:, where] = 0
                    if self.initial is not None:
                        state[:, where, : self.initial[k].shape[2]] = self.initial[k]
        finally:
            rnn_give(&self.taken)

    def rows_at(self, rows):
        """The indices of some rows, or a mask of them, as an array; an IndexError names what is out of range."""
        where = np.atleast_1d(np.asarray(rows))
        if where.size == 0:
            return where.astype(np.intp)
        B = self.batch_size
        if where.dtype == bool:
            if where.shape != (B,):
                raise IndexError(f"rows is a mask of shape {where.shape}, but this stream has {B} sequences")
        elif where.dtype.kind not in "iu":
            raise TypeError(f"rows has dtype {where.dtype}, but it must be indices or a bool mask of the sequences")
        elif where.min() < -B or where.max() >= B:
            raise IndexError(f"rows has {where.min() if where.min() < -B else where.max()}, but this stream has "
                             f"{B} sequences")
        return where

    @property
    def state(self):
        """A copy of the state, in the form that the layer's call takes. It can be set; None resets it."""
        self.take()
        try:
            copies = tuple(np.array(s[:, :, :n]) for s, n in ((self.h, self.P), (self.c, self.H)) if s is not None)
        finally:
            rnn_give(&self.taken)
        return copies if self.c is not None else copies[0]

    @state.setter
    def state(self, value):
        value = self.layer._stream_state(value, self.batch_size)
        if value is None:
            self.reset()
            return
        self.take()
        try:
            for state, new in zip((self.h, self.c), value):
                state[:, :, : new.shape[2]] = new
        finally:
            rnn_give(&self.taken)


rnn_link(process_table())
