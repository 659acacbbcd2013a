"""What the other extensions use of this one."""
from blas cimport Gemm
from kernels cimport rnn_kernels, rnn_process, rnn_product

ctypedef struct Product:
    const rnn_kernels *kernels
    rnn_product p
    Py_ssize_t M

cdef const rnn_process *process_table() noexcept nogil
cdef const rnn_kernels *kernels_for(array) except NULL
cdef int call_threads() except -1
cdef int ask_blas() except -1
cdef void product_part(void *arg, int part, int parts) noexcept nogil
cdef int multiply(Gemm *g, const char *a, const char *b, Py_ssize_t K, bint awake) except -1
cdef Py_ssize_t multiply_pieces(const Gemm *g) noexcept nogil
cdef void multiply_piece(const Gemm *g, Py_ssize_t piece, Py_ssize_t pieces) noexcept nogil
cdef void multiply_serial(Gemm *g, const char *a, const char *b, Py_ssize_t K) noexcept nogil
