"""Addresses of arrays. The caller must keep the arrays alive."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef inline char *address(array, bint write=False) except? NULL:
    """Address of a C-contiguous array; NULL for None."""
    cdef Py_buffer view
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE if write else PyBUF_SIMPLE)
    cdef char *start = <char *>view.buf
    PyBuffer_Release(&view)
    return start

cdef inline char *matrix(
    array, Py_ssize_t item, bint write, Py_ssize_t *rows, Py_ssize_t *columns, Py_ssize_t *stride,
) except? NULL:
    """Address, sizes and row stride in elements of a 2-D array with contiguous rows."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES | (PyBUF_WRITABLE if write else 0))
    cdef char *start = <char *>view.buf
    cdef bint fits = (
        view.ndim == 2 and (view.strides[1] == item or view.shape[1] <= 1) and view.strides[0] % item == 0
    )
    if fits:
        stride[0] = view.strides[0] // item
        if rows != NULL:
            rows[0], columns[0] = view.shape[0], view.shape[1]
    PyBuffer_Release(&view)
    if not fits:
        raise ValueError(f"rows must be contiguous, got strides {array.strides} for elements of {item} bytes")
    return start


cdef inline char *address_2d(array, Py_ssize_t item, bint write) except? NULL:
    """Address of a 2-D array with contiguous rows, of any row stride."""
    cdef Py_ssize_t stride
    return matrix(array, item, write, NULL, NULL, &stride)
