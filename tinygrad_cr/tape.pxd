# Where tape.py is compiled, nodes are structures: their attributes are fields.

cimport cython


@cython.trashcan(True)  # long graphs are freed without recursion
cdef class Node:
    cdef public object parents, vjp


@cython.locals(node=Node)
cpdef backward(root, seed, xp, retain_graph=*)


@cython.locals(node=Node)
cpdef _children_first(root)
