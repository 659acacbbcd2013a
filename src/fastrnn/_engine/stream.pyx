"""Sequences that arrive step by step."""
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint64_t

from buffers cimport address
from fastrnn._engine.core cimport kernels_of, process_table
from fastrnn._engine.sweep cimport Options, Split, least_vectors, phases, split_is_forced, split_sweep, steps_of_chunk
from kernels cimport *
from recurrence cimport CHUNK_STEPS, Sweep, sweep, sweep_part
from threads cimport AT_HAND_US, AWAKE_DISCOUNT, SPLIT_FLOPS, STREAM_ALONE_FLOPS

import math

import numpy as np

from fastrnn._engine.core import aligned_empty


cdef class Stream:
    """Step through sequences that arrive bit by bit, with the weights as of its creation (or of `refresh`).

    Made by ``rnn.stream(batch_size, context)``. Its outputs are those of one call over the whole sequence, bit for bit.
    A stream belongs to one thread at a time: a call while another thread is in one raises RuntimeError.
    """
    cdef object layer, context, dtype
    cdef readonly object h, c                     # (L, B, Pp), (L, B, Hp) states; c is None without cell states
    cdef object initial                           # what `reset` brings back: (L, 1, P) and (L, 1, H), or None for zeros
    cdef object held                              # what the sweeps point into
    cdef readonly Py_ssize_t batch_size
    cdef Py_ssize_t L, I, H, P                    # P: features of h and y
    cdef Py_ssize_t offset[CHUNK_STEPS + 1]
    cdef Sweep *sweeps
    cdef bint is_double
    cdef int taken                                # a call is under way
    cdef double flops                             # of one step
    cdef double ended                             # when the last call did, if it was worth looking at the clock

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
            f"a stream can be neither pickled nor copied: pickle the {self.layer.kind} and `stream.state`, and make a new stream of them"
        )

    cdef int take(self) except -1:
        if not rnn_take(&self.taken):
            raise RuntimeError("this stream is used by another call at the same time: give each thread a stream of its own, or guard it by a lock")
        return 0

    def refresh(self):
        """Take over the layer's parameters as they are now. The state stays."""
        self.take()
        try:
            self.rebuild()
        finally:
            rnn_give(&self.taken)

    cdef int rebuild(self) except -1:
        """New sweeps over new memory; nothing changes before all of it is there."""
        cdef Py_ssize_t l, B = self.batch_size, Hp, Pp, blocks, steps, L = self.L
        cdef Sweep *sweeps
        cdef Sweep *s
        cdef Options options
        cdef double flops = 0
        cell, Hp, Pp, packed = self.layer._stream_layers(self.context)
        initial = self.layer._stream_initial()
        blocks = cell.blocks
        steps = steps_of_chunk(B, blocks * Hp * self.dtype.itemsize)

        def zeros(*shape):
            array = aligned_empty(math.prod(shape), self.dtype).reshape(shape)
            array.fill(0)
            return array

        h, c = zeros(L, B, Pp), zeros(L, B, Hp) if cell.has_c else None
        for new, old, width in ((h, self.h, self.P), (c, self.c, self.H)):
            if new is not None and old is not None:
                new[:, :, :width] = old[:, :, :width]
        gates, h_prev, y = zeros(steps * B, blocks * Hp), zeros(2 * B, Pp), zeros(2, CHUNK_STEPS * B, self.P)
        c_prev = zeros(2 * B, Hp) if cell.has_c else None
        held = packed, gates, h_prev, c_prev, y, list(h), list(c) if cell.has_c else None, list(y)
        sweeps = <Sweep *>PyMem_Calloc(L, sizeof(Sweep))
        if sweeps == NULL:
            raise MemoryError()
        try:
            for l in range(L):
                s = sweeps + l
                w_ih, w, w2, bias, bias_stride, options = packed[l]
                s.kernels = kernels_of(self.is_double)
                s.cell, s.reverse, s.keep, s.B, s.I, s.H, s.Hp = cell.code, False, False, B, self.P if l else self.I, self.H, Hp
                s.P, s.Pp, s.options = self.P, Pp, NULL if options is None else &options.options
                s.item, s.blocks, s.x_blocks, s.chunk = self.dtype.itemsize, blocks, len(cell.x_gates), steps
                s.offset = self.offset
                s.w_ih, s.w, s.w2 = address(w_ih), address(w), address(w2)
                s.bias, s.bias_stride = address(bias), bias_stride
                s.gates, s.h_prev, s.c_prev = address(gates), address(h_prev), address(c_prev)
                s.h_n, s.c_n = address(held[5][l]), address(held[6][l]) if cell.has_c else NULL
                s.y, s.y_stride = address(held[7][l % 2]), self.P
                flops += 2.0 * B * blocks * self.H * (s.P + s.I)
        except BaseException:
            PyMem_Free(sweeps)
            raise
        PyMem_Free(self.sweeps)
        self.sweeps, self.flops = sweeps, flops
        self.h, self.c, self.initial, self.held = h, c, initial, held
        return 0

    cdef int advance(self, const char *x, char *y, Py_ssize_t T) except -1:
        """T steps of all layers, in chunks."""
        cdef Split split
        cdef Py_ssize_t t = 0, n, l, item = self.sweeps.item, row = self.batch_size * item
        cdef Sweep *s = self.sweeps
        cdef uint64_t mode
        split.parts, split.units = 1, False
        split.cuts[0], split.cuts[1] = 0, self.batch_size
        if self.flops * T * AWAKE_DISCOUNT >= SPLIT_FLOPS or split_is_forced():
            split_sweep(&split, self.batch_size, NULL, self.batch_size * T, T, s.Hp // s.kernels.lanes, self.flops / self.batch_size,
                        s.blocks * s.H * s.H * item, phases(s.cell, s.options), least_vectors(s), rnn_seconds() - self.ended < AT_HAND_US * 1e-6)
        while t < T:
            n = min(T - t, CHUNK_STEPS)
            for l in range(self.L):
                s = self.sweeps + l
                s.T, s.first, s.last, s.units, s.cuts = n, 0, n, split.units, split.cuts
                s.x = (x + t * row * self.I if self.I else NULL) if l == 0 else (s - 1).y
                if l == self.L - 1:
                    s.y = y + t * row * self.P
                if self.flops * n < STREAM_ALONE_FLOPS:      # all rows and units, however the rest of the call is divided
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

    cdef int advance_arrays(self, x, out, Py_ssize_t T) except -1:
        """`advance` over arrays that were checked; one that overlaps the output is copied first."""
        cdef const char *source = address(x)
        cdef char *to = address(out, True)
        cdef Py_ssize_t row = T * self.batch_size * (8 if self.is_double else 4)
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
        """One step.

        Parameters
        ----------
        x_t : (batch_size, input_size), of the layer's dtype
        out : (batch_size, output_size), C-contiguous, optional; may be or overlap x_t

        Returns
        -------
        y_t : (batch_size, output_size), `out` if given

        Raises
        ------
        RuntimeError  another thread is using this stream.
        """
        if not self.fits(x_t, 2, -1):
            x_t = self.rows_of("x_t", x_t, (self.batch_size, self.I))
        if out is None:
            out = np.empty((self.batch_size, self.P), self.dtype)
        elif not self.fits(out, 2, self.P):
            self.layer._stream_out(out, (self.batch_size, self.P))
        self.advance_arrays(x_t, out, 1)
        return out

    def run(self, x, out=None):
        """Several steps: x (T, batch_size, input_size) -> y (T, batch_size, output_size); `out` may overlap x."""
        if not self.fits(x, 3, -1):
            x = self.rows_of("x", x, (None, self.batch_size, self.I))
        cdef Py_ssize_t T = x.shape[0]
        if out is None:
            out = np.empty((T, self.batch_size, self.P), self.dtype)
        elif not self.fits(out, 3, self.P) or out.shape[0] != T:
            self.layer._stream_out(out, (T, self.batch_size, self.P))
        self.advance_arrays(x, out, T)
        return out

    cdef bint fits(self, array, int ndim, Py_ssize_t width) except -1:
        """Whether an array can be used as it is; looks at the buffer only. width -1: input_size."""
        cdef Py_buffer view
        if not PyObject_CheckBuffer(array):
            return False
        try:
            PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
        except (BufferError, ValueError):
            return False
        cdef bint good = (
            view.ndim == ndim and view.shape[ndim - 1] == (self.I if width < 0 else width) and view.shape[ndim - 2] == self.batch_size
            and view.format != NULL and view.format[0] == (c"d" if self.is_double else c"f") and view.format[1] == 0
        )
        PyBuffer_Release(&view)
        return good

    def rows_of(self, name, x, shape):
        """x as a C-contiguous array of this shape, or an error that says what is wrong."""
        x = np.asarray(x)
        if x.dtype != self.dtype:
            raise TypeError(f"{name} is {x.dtype}, but this {self.layer.kind} computes in {self.dtype}: convert with {name}.astype('{self.dtype}')")
        if x.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, x.shape)):
            takes = "a step of this stream takes (batch_size" if len(shape) == 2 else "this stream takes (T, batch_size"
            wanted = ", ".join("T" if n is None else str(n) for n in shape)
            raise ValueError(f"{name} has shape {x.shape}, but {takes}, input_size) = ({wanted})")
        return np.ascontiguousarray(x)

    def reset(self, rows=None):
        """Bring the state back to zeros, or to the learnt initial state: of all rows, or of those whose indices or mask are given."""
        where = slice(None) if rows is None else np.atleast_1d(rows)
        self.take()
        try:
            for k, state in enumerate((self.h, self.c)):
                if state is not None:
                    state[:, where] = 0
                    if self.initial is not None:
                        state[:, where, : self.initial[k].shape[2]] = self.initial[k]
        finally:
            rnn_give(&self.taken)

    @property
    def state(self):
        """A copy of the state, as the layer's call takes it; may be set, None as with `reset`."""
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
