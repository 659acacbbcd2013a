"""Backpropagation through time (BPTT) of layers.

Shapes are in the comments at the arguments, which fastrnn._check has checked. An array that may be absent is None.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from buffers cimport address, matrix
from fastrnn._engine.core cimport (
    ask_blas, call_threads, multiply, multiply_piece, multiply_pieces, multiply_serial, process_table, product_part,
)
from fastrnn._engine.plan cimport Op, perform
from fastrnn._engine.sweep cimport LayerWeights, Steps, Work, barriers, sides_pay, split_sweep
from kernels cimport *
from recurrence_backward cimport SweepBackward, sweep_backward, sweep_backward_part
from threads cimport AWAKE_DISCOUNT, SLICE_FLOPS, SPLIT_FLOPS, TOGETHER_ROWS, parts_for, slice_steps

cdef class Bptt(Op):
    """BPTT of one layer in one direction, one chunk of steps after the other.

    dgates exist for one chunk at a time. After the BPTT of a chunk come the products that read its dgates.
    """

    def __init__(
        self, LayerWeights weights,        # packed for dgates @ W_hh
        Steps steps,
        tape,                              # StepArrays                                          in
        dy, Py_ssize_t column,             # (rows, .) or None: P columns from this one on       in
        dstates,                           # (dh, dc): (B, Pp), (B, Hp) or None  in: of the final states; out: initial
        scratch,                           # (dgates, dphase): (rows of the largest chunk, X*Hp), (B, Hp)
        bias_sums,                         # (X*Hp,) += sums over all rows                       out
    ):
        cdef SweepBackward *s = &self.s
        gates, h_prev, c_prev, _ = tape
        dh, dc = dstates
        dgates, dphase = scratch
        s.kernels, s.cell, s.item, s.blocks = weights.kernels, weights.cell, weights.item, weights.blocks
        s.H, s.Hp, s.P, s.Pp = weights.H, weights.Hp, weights.P, weights.Pp
        s.options = &weights.options if weights.has_options else NULL
        s.w, s.w2 = weights.w, weights.w2
        s.reverse, s.T, s.B, s.offset, s.resets = (
            steps.reverse, steps.T, steps.B, &steps.offset[0], steps.resets
        )
        s.dy = address(dy)
        if s.dy != NULL:
            s.dy += column * s.item
            s.dy_stride = dy.shape[1]
        s.gates, s.h_prev, s.c_prev = address(gates), address(h_prev), address(c_prev)
        s.dh, s.dc, s.dphase = address(dh, True), address(dc, True), address(dphase, True)
        self.dgates, self.bias_sums = address(dgates, True), address(bias_sums, True)
        self.lengths = steps.lengths
        self.ld, self.width = weights.blocks * weights.Hp, weights.x_blocks * weights.Hp
        self.dx.kernels = s.kernels
        self.held = [weights, steps, gates, h_prev, c_prev, dy, dh, dc, dgates, dphase, bias_sums]

    def add_gemm(self, Py_ssize_t column, right, c):
        """Compute also c (M, N) += dgates[:, column:column+M].T @ right (rows, N), of any row strides."""
        cdef Gemm *g = &self.gemms[self.gemm_count]
        assert self.gemm_count < MAX_GEMMS
        g.kernels, g.trans_a, g.trans_b = self.s.kernels, True, False
        g.lda, g.c = self.ld, matrix(c, self.s.item, True, &g.M, &g.N, &g.ldc)
        self.left[self.gemm_count] = self.dgates + column * self.s.item
        self.right[self.gemm_count] = matrix(right, self.s.item, False, NULL, NULL, &g.ldb)
        self.gemm_count += 1
        self.held.extend((right, c))

    def add_sums(self, ids, sums):
        """Add the input part of each row of dgates to sums (n, G*Hp)[ids[row]]; ids (rows,) int64."""
        assert self.sum_count < 2
        self.ids[self.sum_count], self.sums[self.sum_count] = <const int64_t *>address(ids), address(sums, True)
        self.sum_count += 1
        self.held.extend((ids, sums))

    def set_dx(self, packed, dx):
        """Compute also dx (rows, I) = dgates @ W_ih."""
        cdef rnn_product *p = &self.dx.p
        p.groups, p.N, p.K, p.lda, p.ldc = 1, dx.shape[1], self.width, self.ld, dx.shape[1]
        p.a, p.w, p.bias, p.c = self.dgates, address(packed), NULL, address(dx, True)
        p.accumulate, p.flip = False, False
        self.held.extend((packed, dx))

    cdef double flops_per_row(self):
        return 2.0 * self.s.blocks * self.s.H * self.s.H

    cdef int run(self) except -1:
        """BPTT through all steps with all threads, in `chunks` chunks."""
        cdef Split *split = &self.split
        cdef SweepBackward *s = &self.s
        cdef Py_ssize_t i
        cdef Work work
        if s.offset[s.T] == 0:
            return 0
        work.T, work.B, work.total, work.lengths = s.T, s.B, s.offset[s.T], self.lengths
        work.flops_per_row, work.vectors = self.flops_per_row(), s.Hp // s.kernels.lanes
        work.weight_bytes = s.blocks * s.H * s.H * s.item
        work.barriers, work.least, work.awake = barriers(s.cell, s.options), RNN_PANEL, False
        split_sweep(split, &work)
        s.units, s.cuts = split.units, split.cuts
        for i in range(self.chunks):
            self.chunk(i, self.chunks)
            self.chunk_dgates()
            self.chunk_products(split.parts > 1)
        return 0

    cdef void chunk(self, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
        """Select chunk i of count, in the order of the backward pass."""
        cdef SweepBackward *s = &self.s
        cdef Py_ssize_t chunk = i if s.reverse else count - 1 - i
        cdef Py_ssize_t low = s.T * chunk // count, high = s.T * (chunk + 1) // count
        s.first, s.last = (s.T - high, s.T - low) if s.reverse else (low, high)
        self.row, self.rows = s.offset[low], s.offset[high] - s.offset[low]
        s.dgates = self.dgates - self.row * self.ld * s.item

    cdef int chunk_dgates(self) except -1:
        """Compute dgates of the chunk, in slices, with a check for signals after each."""
        cdef SweepBackward *s = &self.s
        cdef Py_ssize_t first = s.first, last = s.last
        cdef double flops = self.flops_per_row() * (self.rows + 1)
        cdef Py_ssize_t step = slice_steps(1, last - first, flops / self.split.parts)
        while s.last > first:
            s.first = max(first, s.last - step)
            with nogil:
                rnn_team_run(sweep_backward_part, s, self.split.parts, self.split.units)
            s.last = s.first
            PyErr_CheckSignals()
        return 0

    cdef int chunk_products(self, bint awake) except -1:
        """Compute the sums and products of the chunk's dgates. awake: the other threads are still spinning."""
        cdef Product job
        cdef int i, parts
        cdef double worth
        if self.rows == 0:
            return 0
        if self.rows <= TOGETHER_ROWS:
            self.products_together(awake)
            return 0
        with nogil:
            mode = rnn_flush_denormals()
            self.chunk_sums()
            rnn_restore_denormals(mode)
        for i in range(self.gemm_count):
            multiply(&self.gemms[i], self.left[i], self.right_rows(i), self.rows, awake)
        if self.dx.p.c != NULL:
            job = self.chunk_dx()
            worth = 2.0 * self.rows * job.p.N * job.p.K * (AWAKE_DISCOUNT if awake else 1)
            parts = parts_for(self.rows, worth, call_threads())
            with nogil:
                rnn_team_run(product_part, &job, parts, False)
        return 0

    cdef void products_together(self, bint awake) except *:
        """The sums and products of a chunk of a few rows as one task, whose pieces the threads take one at a time.

        The gradient of a small layer's weights is a single tile, which one thread computes; meanwhile another one
        computes that of the other weights, or dx.
        """
        cdef Pieces pieces
        cdef Gemm *g
        cdef double flops = 0, largest = 0, worth
        cdef int i, parts = 1
        cdef int64_t count = 1, step
        ask_blas()
        for i in range(self.gemm_count):
            g = &self.gemms[i]
            g.K = self.rows
            count += multiply_pieces(g)
            worth = 2.0 * g.M * g.N * self.rows
            flops += worth
            largest = max(largest, worth / multiply_pieces(g))
        if self.dx.p.c != NULL:
            count += self.dx_pieces()
            worth = 2.0 * self.rows * self.dx.p.N * self.dx.p.K
            flops += worth
            largest = max(largest, worth / self.dx_pieces())
        if flops * (AWAKE_DISCOUNT if awake else 1) >= SPLIT_FLOPS and not rnn_split_paused():
            parts = <int>min(call_threads(), count)
        step = max(1, <int64_t>(SLICE_FLOPS / max(largest, 1.0))) * parts
        pieces.bptt, pieces.next, pieces.end = <void *>self, 0, 0
        while pieces.end < count:
            pieces.next, pieces.end = pieces.end, min(count, pieces.end + step)
            with nogil:
                rnn_team_run(pieces_part, &pieces, parts, False)
            PyErr_CheckSignals()

    cdef void piece(self, int64_t index) noexcept nogil:
        """One of the pieces: rows of a weight gradient, the sums, or rows of dx."""
        cdef Gemm g
        cdef Product job
        cdef Py_ssize_t count
        cdef int i
        for i in range(self.gemm_count):
            count = multiply_pieces(&self.gemms[i])
            if index < count:
                g = self.gemms[i]
                g.a, g.b = self.left[i], self.right_rows(i)
                multiply_piece(&g, index, count)
                return
            index -= count
        if index == 0:
            self.chunk_sums()
        else:
            job = self.chunk_dx()
            product_part(&job, <int>index - 1, self.dx_pieces())

    cdef int dx_pieces(self) noexcept nogil:
        return <int>max(1, min(MAX_DX_PIECES, self.rows // 32))

    cdef void chunk_sums(self) noexcept nogil:
        cdef const rnn_kernels *k = self.s.kernels
        cdef int i
        k.column_sum(self.rows, self.ld, self.dgates, self.ld, self.bias_sums)
        for i in range(self.sum_count):
            k.scatter_add(self.rows, self.width, self.dgates, self.ld, self.ids[i] + self.row, self.sums[i],
                          self.width)

    cdef const char *right_rows(self, int i) noexcept nogil:
        return self.right[i] + self.row * self.gemms[i].ldb * self.s.item

    cdef Product chunk_dx(self) noexcept nogil:
        cdef Product job = self.dx
        job.M = self.rows
        job.p.c = <char *>job.p.c + self.row * job.p.ldc * self.s.item
        return job

    cdef void chunk_serial(self) noexcept nogil:
        """BPTT, sums and products of the chunk, on this thread."""
        cdef Product job
        cdef int i
        sweep_backward(&self.s, 0, self.s.B, 0, 1)
        if self.rows == 0:
            return
        self.chunk_sums()
        for i in range(self.gemm_count):
            multiply_serial(&self.gemms[i], self.left[i], self.right_rows(i), self.rows)
        if self.dx.p.c != NULL:
            job = self.chunk_dx()
            product_part(&job, 0, 1)


cdef struct Pieces:
    void *bptt
    int64_t next, end


cdef void pieces_part(void *arg, int part, int parts) noexcept nogil:
    cdef Pieces *pieces = <Pieces *>arg
    cdef int64_t index = rnn_next(&pieces.next)
    while index < pieces.end:
        piece_of(pieces.bptt, index)
        index = rnn_next(&pieces.next)


cdef void piece_of(void *bptt, int64_t index) noexcept nogil:
    (<Bptt>bptt).piece(index)


def backward_layer(Bptt layer, Py_ssize_t chunks):
    """BPTT through one layer and direction with all threads. The number of chunks determines the gradients' bits."""
    layer.chunks = chunks
    perform(layer)


ctypedef struct Sides:
    void *one
    void *other
    Py_ssize_t first, last, count      # chunks


cdef class BackwardSides(Op):
    cdef Bptt one, other

    cdef int run(self) except -1:
        cdef Sides sides
        cdef Py_ssize_t chunks = self.one.chunks, step
        cdef double flops = 6 * self.one.flops_per_row() * self.one.s.offset[self.one.s.T]
        if not sides_pay(self.one.s.B, flops):
            self.one.run()
            return self.other.run()
        ask_blas()
        sides.one, sides.other, sides.count, sides.first = <void *>self.one, <void *>self.other, chunks, 0
        step = slice_steps(1, chunks, flops / 2)
        while sides.first < chunks:
            sides.last = min(chunks, sides.first + step)
            with nogil:
                rnn_team_run(sides_part, &sides, 2, False)
            sides.first = sides.last
            PyErr_CheckSignals()
        return 0


def backward_sides(Bptt one, Bptt other, Py_ssize_t chunks):
    """BPTT through both directions of a layer, each on a thread of its own, or one after the other with all threads."""
    cdef BackwardSides op = BackwardSides.__new__(BackwardSides)
    op.one, op.other, one.chunks, other.chunks = one, other, chunks, chunks
    perform(op)


cdef void sides_part(void *arg, int part, int parts) noexcept nogil:
    cdef Sides *sides = <Sides *>arg
    cdef Py_ssize_t i
    for i in range(sides.first, sides.last):
        chunk_of(sides.other if part else sides.one, i, sides.count)


cdef void chunk_of(void *bptt, Py_ssize_t i, Py_ssize_t count) noexcept nogil:
    (<Bptt>bptt).chunk(i, count)
    (<Bptt>bptt).chunk_serial()


rnn_link(process_table())
