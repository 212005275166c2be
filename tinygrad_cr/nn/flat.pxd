# Where flat.py is compiled, buffers are structures, and read the fields of tensors.

cimport cython

from tinygrad_cr.tensor cimport Tensor


cdef class FlatParameters:
    cdef public object names, parameters, members, spans, backend, values, gradients, _pairs
    cdef object __weakref__

    @cython.locals(parameter=Tensor)
    cpdef bint ready(self)

    @cython.locals(parameter=Tensor)
    cpdef clear(self)
