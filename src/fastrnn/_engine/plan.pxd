"""Operations of the engine, which a plan can run again."""
from libc.stdint cimport uint64_t

cdef class Op:
    cdef object held                              # the arrays whose addresses it has
    cdef int run(self) except -1

cdef class KeyedOp(Op):
    cdef uint64_t key
    cdef object derive                            # the key as a function of the plan's key; None: it is constant
    cdef int take_key(self, key) except -1

cdef int perform(Op op) except -1
cdef object recorder()
cdef int refuse_recording(str what) except -1
