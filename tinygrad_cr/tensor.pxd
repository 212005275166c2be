# Where tensor.py is compiled, tensors are structures: their attributes are fields.

cimport cython


@cython.trashcan(True)  # long graphs are freed without recursion
cdef class Tensor:
    cdef public object backend, data, grad, grad_view, node, requires_grad
    cdef object __weakref__


@cython.locals(tensor=Tensor)
cpdef wrap(data, kernels)


@cython.locals(out=Tensor)
cpdef record(data, parents, vjp)

