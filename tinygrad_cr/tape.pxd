# Where tape.py is compiled, nodes are structures: their attributes are fields.

cimport cython


@cython.trashcan(True)  # long graphs are freed without recursion
cdef class Node:
    cdef public object parents, vjp
