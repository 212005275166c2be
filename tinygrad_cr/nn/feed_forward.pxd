# Where feed_forward.py is compiled, these are structures, and read the fields of tensors.

cimport cython

from tinygrad_cr.tensor cimport Tensor


cdef class FeedForward:
    cdef public object layers, flat
    cdef object _affine, _kernels, _values, _memory, _way_back, _inputs, _outputs, _hidden, _most_rows, _plan

    @cython.locals(own=dict, weight=Tensor, bias=Tensor)
    cpdef bint _unchanged(self)


cdef class _WayBack:
    cdef public object parameters, kernels, values, gradients, places, spans

    @cython.locals(parameter=Tensor)
    cpdef bint _first(self)

    @cython.locals(parameter=Tensor)
    cpdef _keep(self)
