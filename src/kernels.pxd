# The declarations of kernels.h for Cython.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "kernels.h" nogil:
    enum: RNN_CELLS, RNN_PANEL, FUNCTIONS

    ctypedef struct rnn_cell_traits:
        const char *name
        int gates, blocks
        int *x_block
        int *h_block
        int interleaved, rh_block, has_c, phases, least_vectors
    const rnn_cell_traits *rnn_cells
    const char **rnn_function_names

    ctypedef struct rnn_function:
        int kind
        double alpha, beta

    ctypedef struct rnn_options:
        rnn_function gate, candidate, output
        double clip
        const void *peephole
        int projected
        Py_ssize_t blocks

    ctypedef struct rnn_step:
        Py_ssize_t rows, H, Hp, P, Pp
        const rnn_options *options
        const void *w
        const void *w2
        const void *bias
        Py_ssize_t bias_stride
        void *gates
        const void *h_prev
        const void *c_prev
        void *h_next
        void *c_next
        void *h_end
        void *c_end
        Py_ssize_t go_on
        void *y
        Py_ssize_t y_stride
        int keep, flip
        Py_ssize_t u0, u1, p0, p1
        int part, parts

    ctypedef struct rnn_row_steps:
        rnn_step step
        Py_ssize_t steps, gates_stride, y_stride, h_stride, c_stride
        void *h_last
        void *c_last

    ctypedef struct rnn_step_backward:
        Py_ssize_t rows, H, Hp, P, Pp
        const rnn_options *options
        const void *w
        const void *w2
        const void *dy
        Py_ssize_t dy_stride
        const void *gates
        const void *h_prev
        const void *c_prev
        void *dgates
        void *dh
        void *dc
        void *dphase
        int flip
        Py_ssize_t u0, u1, p0, p1
        int part, parts

    ctypedef struct rnn_row_steps_backward:
        rnn_step_backward step
        Py_ssize_t steps, gates_stride, h_stride, c_stride, dy_stride

    ctypedef struct rnn_product:
        Py_ssize_t groups
        const Py_ssize_t *first
        const Py_ssize_t *count
        Py_ssize_t N, K
        const void *a
        Py_ssize_t lda
        const void *w
        const void *bias
        void *c
        Py_ssize_t ldc
        int accumulate, flip
        Py_ssize_t v0, v1

    ctypedef struct rnn_attend:
        Py_ssize_t rows, A, M, S
        const int64_t *first
        const int64_t *count
        const void *query
        Py_ssize_t ldq
        const void *keys
        const void *values
        const void *v
        int softmax
        void *alpha
        void *context
        Py_ssize_t ldc

    ctypedef struct rnn_attend_backward:
        rnn_attend forward
        const void *dcontext
        void *dquery
        Py_ssize_t ldd
        void *dkeys
        void *dvalues
        void *dv
        void *dscore

    ctypedef struct rnn_bag:
        Py_ssize_t M, n
        const int64_t *sentence
        const int64_t *start
        const int64_t *word
        const void *a
        const void *b
        const void *ramp

    ctypedef struct rnn_update:
        Py_ssize_t n
        void *p
        const void *g
        void *m
        void *v
        double lr, decay, scale, momentum, beta1, beta2, eps
        int nesterov, decoupled
        int64_t step

    ctypedef struct rnn_kernels:
        const char *isa
        int is_double, lanes
        Py_ssize_t gemm_terms
        void (**forward)(const rnn_step *) noexcept nogil
        void (**backward)(const rnn_step_backward *) noexcept nogil
        int (**row_steps)(const rnn_row_steps *) noexcept nogil
        int (**row_steps_backward)(const rnn_row_steps_backward *) noexcept nogil
        void (*product)(const rnn_product *) noexcept nogil
        void (*pack)(
            Py_ssize_t, int, const int64_t *, Py_ssize_t, const int64_t *, const void *, Py_ssize_t, Py_ssize_t, void *
        ) noexcept nogil
        void (*gemm)(
            int, int, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, const void *, Py_ssize_t,
            void *, Py_ssize_t
        ) noexcept nogil
        void (*column_sum)(Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, void *) noexcept nogil
        void (*gather)(
            Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, const int64_t *, void *, Py_ssize_t
        ) noexcept nogil
        void (*bag)(const rnn_bag *, const void *, void *) noexcept nogil
        void (*bag_backward)(const rnn_bag *, const void *, void *) noexcept nogil
        void (*scatter_add)(
            Py_ssize_t, Py_ssize_t, const void *, Py_ssize_t, const int64_t *, void *, Py_ssize_t
        ) noexcept nogil
        void (*softmax_nll)(
            Py_ssize_t, Py_ssize_t, const void *, const int64_t *, const void *, double *, void *
        ) noexcept nogil
        void (*softmax)(Py_ssize_t, Py_ssize_t, const void *, void *) noexcept nogil
        void (*dropout)(Py_ssize_t, Py_ssize_t, void *, Py_ssize_t, const uint64_t *, uint64_t, double) noexcept nogil
        void (*attend)(const rnn_attend *) noexcept nogil
        void (*attend_backward)(const rnn_attend_backward *) noexcept nogil
        void (*tanh_rows)(Py_ssize_t, Py_ssize_t, void *, Py_ssize_t) noexcept nogil
        void (*tanh_rows_backward)(Py_ssize_t, Py_ssize_t, const void *, void *) noexcept nogil
        double (*log_sum_exp)(Py_ssize_t, const void *) noexcept nogil
        void (*greatest)(Py_ssize_t, const void *, Py_ssize_t, int64_t *) noexcept nogil
        int64_t (*draw)(Py_ssize_t, void *, double, double) noexcept nogil
        double (*sum_of_squares)(Py_ssize_t, const void *) noexcept nogil
        void (*clip_value)(Py_ssize_t, void *, double) noexcept nogil
        void (*sgd)(const rnn_update *) noexcept nogil
        void (*rmsprop)(const rnn_update *) noexcept nogil
        void (*adagrad)(const rnn_update *) noexcept nogil
        void (*adam)(const rnn_update *) noexcept nogil
        double (*fma_loop)(Py_ssize_t, bint) noexcept nogil
        double (*read_loop)(Py_ssize_t, Py_ssize_t, const void *) noexcept nogil

    const char *rnn_compiler() noexcept
    int rnn_isa_count() noexcept
    const char *rnn_isa_name(int index) noexcept
    const rnn_kernels *rnn_kernels_of(int index, int is_double) noexcept
    void rnn_team_run(void (*part)(void *, int, int) noexcept nogil, void *arg, int parts, int together) noexcept
    void rnn_team_barrier(int part, int parts) noexcept
    int rnn_team_leaves(int part) noexcept
    void rnn_team_force_leave(int64_t barrier) noexcept
    double rnn_team_barrier_seconds() noexcept
    int rnn_split_paused() noexcept
    int64_t rnn_split_paused_ns() noexcept
    int64_t rnn_split_failures() noexcept
    int rnn_cpus() noexcept
    double rnn_seconds() noexcept
    int rnn_take(int *taken) noexcept
    void rnn_give(int *taken) noexcept
    void rnn_announce(int64_t *counter, int64_t value) noexcept
    int64_t rnn_next(int64_t *counter) noexcept
    void rnn_await(const int64_t *counter, int64_t value) noexcept
    int64_t rnn_seen(const int64_t *counter) noexcept
    uint64_t rnn_flush_denormals() noexcept
    void rnn_restore_denormals(uint64_t mode) noexcept
    ctypedef struct rnn_process:
        pass
    const rnn_process rnn_own_process
    void rnn_link(const rnn_process *of_core) noexcept
    int rnn_blas_open(const char *path, char *error, size_t size) noexcept
    void rnn_blas_close() noexcept
    const char *rnn_blas_core() noexcept
    int rnn_blas_gemm(int, int, int, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                      const void *, Py_ssize_t, const void *, Py_ssize_t, void *, Py_ssize_t) noexcept
