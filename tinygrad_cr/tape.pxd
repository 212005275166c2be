# Where tape.py is compiled, nodes are structures: their attributes are fields.

cdef class Node:
    cdef public object parents, vjp
