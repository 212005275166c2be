"""The kernels on an NVIDIA GPU: CuPy's arrays, products by cuBLAS, and CUDA C++ in the `.cu` files where fusion pays.

A family is a module and a `.cu` file of the same name. Every kernel computes any number of networks of one shape in one
launch (see `batch.py`); one network is the case of one member. What is not hot is left to `..reference`, which runs on
CuPy's arrays as it stands. Nothing here waits for the GPU or reads a value from it.

In the `.cu` files REAL is float or double, whole numbers are long long and real numbers double, and a kernel's
parameters stand in this order: index, then sizes and tables that all members share, then for each array its pointer and
the stride from member to member, then numbers, how many columns it has, and the values that stand in for them in the
call of a single network. blockIdx.z is the place in `index`.
"""
