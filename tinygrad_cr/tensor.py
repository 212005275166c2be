"""`Tensor`: an array that may remember how it was computed. It knows no derivative: operators call `ops`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr import tape
from tinygrad_cr.device import device_memory, find_backend, lies_on_gpu, moved, to_numpy
from tinygrad_cr.errors import DeviceError, DTypeError, GraphError, ShapeError, unknown_name
from tinygrad_cr.kernels import Array, Kernels, backend

if TYPE_CHECKING:
    from tinygrad_cr import ops

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
CPU = backend("cpu")
Axes = int | tuple[int, ...] | None


class Tensor:
    """An n-dimensional array with a gradient.

    Args:
        data: anything NumPy makes an array of, or an array in the memory of a GPU: CuPy's, or what another library
            shows through ``__cuda_array_interface__``. Arrays keep their dtype and layout and are not copied; Python
            floats become float32, Python integers int64.
        dtype: convert to this dtype.
        requires_grad: collect a gradient in `grad` on `backward`; float tensors only.
        device: "cpu", "gpu", or another of `tinygrad_cr.kernels.available()`; where the data lies if left out. Data
            that lies elsewhere is copied, and from the GPU that waits until it has computed.

    Raises:
        DTypeError: data that is neither float32, float64, integer nor bool; an integer that requires grad.
        DeviceError: a device this machine does not have.
        DeviceMemoryError: the GPU has not so much memory.

    >>> x = Tensor([3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    array([6.], dtype=float32)
    """

    __slots__ = ("__weakref__", "backend", "data", "grad", "grad_view", "node", "requires_grad")
    __array_ufunc__ = None  # makes `ndarray + Tensor` ask the Tensor instead of looping over its elements

    def __init__(self, data: Any, *, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> None:
        self.backend: Kernels
        self.data: Array
        if type(data) is np.ndarray and data.dtype in FLOATS and device is None is dtype:
            self.backend, self.data = CPU, data
        else:
            self.backend = _home(data) if device is None else find_backend(device)
            self.data = _as_array(data, dtype, self.backend)
        self.grad: Array | None = None
        self.grad_view: Array | None = None
        self.node: tape.Node | None = None
        if requires_grad and self.data.dtype not in FLOATS:
            raise DTypeError(
                f"only float32 and float64 tensors have gradients, got {self.data.dtype}; "
                "convert with Tensor(data, dtype='float32', requires_grad=True)"
            )
        self.requires_grad = requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self.data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.data.size  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self.data.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        """The name of the backend that computes with this tensor."""
        return self.backend.name

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return ops.transpose(self)

    def backward(self, gradient: Any = None, *, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor with respect to each leaf to that leaf's `grad`.

        Args:
            gradient: of something with respect to this tensor, in its shape; 1 for a scalar if left out.
            retain_graph: keep the graph for another backward pass.

        Raises:
            GraphError: nothing was recorded, or the graph was freed by an earlier call.
            ShapeError: no `gradient` for a tensor that is no scalar, or one of another shape.

        >>> x = Tensor([1.0, 2.0], requires_grad=True)
        >>> (x * 3).backward([1.0, 10.0])
        >>> x.grad
        array([ 3., 30.], dtype=float32)
        """
        if not self.requires_grad:
            raise GraphError(
                "backward on a tensor that does not require grad: no input had requires_grad=True, "
                "or it was computed under no_grad()"
            )
        xp = self.backend.xp
        if gradient is None:
            if self.data.size != 1:
                raise ShapeError(
                    f"backward without a gradient wants a scalar, this tensor has shape {self.shape}; "
                    "reduce it with .sum() or .mean(), or pass a gradient of that shape"
                )
            seed = xp.empty(self.data.shape, self.data.dtype)
            seed.fill(1)
        else:
            if isinstance(gradient, Tensor) and gradient.backend is not self.backend:
                raise DeviceError(
                    f"backward of a tensor on {self.device!r} with a gradient on {gradient.device!r}: "
                    f"move it with .to({self.device!r})"
                )
            seed = Tensor(gradient, dtype=self.dtype, device=self.device).data
            if seed.shape != self.shape:
                raise ShapeError(f"gradient of shape {seed.shape} for a tensor of shape {self.shape}")
        tape.backward(self if self.node is None else self.node, seed, xp, retain_graph)

    def detach(self) -> Tensor:
        """The same array, without its history."""
        return wrap(self.data, self.backend)

    def item(self) -> Any:
        """The one element as a Python number; on the GPU this waits until it has computed.

        Raises:
            ShapeError: there is not exactly one.
        """
        tape.refuse("item()")
        if self.size != 1:
            raise ShapeError(f"item() wants exactly one element, this tensor has shape {self.shape}")
        return self.data.item()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array.

        On the CPU it is the tensor's own memory; of the GPU's it is a copy, which waits until the GPU has computed.
        """
        tape.refuse("numpy()")
        return np.asarray(self.backend.to_numpy(self.data))

    def to(self, device: str) -> Tensor:
        """A tensor with the same elements on another device, without history and gradient; itself if it is there.

        Raises:
            DeviceError: a device this machine does not have.
            DeviceMemoryError: the GPU has not so much memory.
        """
        target = find_backend(device)
        if target is self.backend:
            return self
        there = wrap(moved(self.data, self.backend, target), target)
        there.requires_grad = self.requires_grad
        return there

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        tape.refuse("a conversion to an array")
        if not self.backend.host:
            if copy is False:
                raise ValueError("a tensor on 'gpu' becomes a NumPy array by a copy only: leave copy=False out")
            return np.asarray(self.backend.to_numpy(self.data), dtype)
        return np.array(self.data, dtype=dtype, copy=copy)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # An AttributeError for the others: that they have none is how libraries know where an array lies.
        return self.data.__cuda_array_interface__  # type: ignore[no-any-return]

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __getstate__(self) -> dict[str, Any]:
        names = ("backend", "data", "grad", "grad_view", "node", "requires_grad")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        if not self.ndim:
            raise ShapeError("a 0-d tensor has no length; use item() for its value")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        tape.refuse("a decision on the value of a tensor")
        if self.size != 1:
            raise ShapeError(f"the truth of a tensor of shape {self.shape} is ambiguous; compare one element")
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        notes = f", dtype={self.dtype}"
        if self.device != "cpu":
            notes += f", device={self.device!r}"
        return f"Tensor({values}{notes}{', requires_grad=True' if self.requires_grad else ''})"

    def __add__(self, other: Any) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return ops.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return ops.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return ops.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return ops.negative(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return ops.equal(self, other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return ops.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return ops.greater_equal(self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    def astype(self, dtype: Any) -> Tensor:
        """See `ops.astype`."""
        return ops.astype(self, dtype)

    def exp(self) -> Tensor:
        """See `ops.exp`."""
        return ops.exp(self)

    def log(self) -> Tensor:
        """See `ops.log`."""
        return ops.log(self)

    def sqrt(self) -> Tensor:
        """See `ops.sqrt`."""
        return ops.sqrt(self)

    def tanh(self) -> Tensor:
        """See `ops.tanh`."""
        return ops.tanh(self)

    def sigmoid(self) -> Tensor:
        """See `ops.sigmoid`."""
        return ops.sigmoid(self)

    def relu(self) -> Tensor:
        """See `ops.relu`."""
        return ops.relu(self)

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        """See `ops.clip`."""
        return ops.clip(self, low, high)

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """See `ops.sum`."""
        return ops.sum(self, axis, keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """See `ops.mean`."""
        return ops.mean(self, axis, keepdims)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """See `ops.max`."""
        return ops.max(self, axis, keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """See `ops.min`."""
        return ops.min(self, axis, keepdims)

    def var(self, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """See `ops.var`."""
        return ops.var(self, axis, keepdims, ddof)

    def reshape(self, *shape: Any) -> Tensor:
        """See `ops.reshape`; takes ``reshape(2, 3)`` and ``reshape((2, 3))``."""
        return ops.reshape(self, shape[0] if len(shape) == 1 and not _is_integer(shape[0]) else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """See `ops.transpose`; takes ``transpose(1, 0)`` and ``transpose((1, 0))``."""
        return ops.transpose(self, (axes[0] if len(axes) == 1 and not _is_integer(axes[0]) else axes) or None)

    def squeeze(self, axis: Axes = None) -> Tensor:
        """See `ops.squeeze`."""
        return ops.squeeze(self, axis)

    def expand_dims(self, axis: int) -> Tensor:
        """See `ops.expand_dims`."""
        return ops.expand_dims(self, axis)


def wrap(data: Array, kernels: Kernels) -> Tensor:
    """A tensor around an array that is known to be right: no check, no conversion."""
    tensor = Tensor.__new__(Tensor)
    tensor.data = data
    tensor.backend = kernels
    tensor.grad = tensor.grad_view = tensor.node = None
    tensor.requires_grad = False
    return tensor


def record(data: Array, parents: tuple[Tensor, ...], vjp: tape.Vjp) -> Tensor:
    """The result of an operation: `data` as a tensor that remembers its parents and its backward rule.

    This is all it takes to write an operation of one's own; `gradcheck` then tells whether the rule is right.
    `data` is an array of the parents' backend; `vjp` is described in `tape.Vjp`.

    >>> def cube(x):
    ...     return record(x.data**3, (x,), lambda g: (3 * g * x.data**2,))
    >>> x = Tensor([2.0], requires_grad=True)
    >>> cube(x).backward()
    >>> x.grad
    array([12.], dtype=float32)
    """
    kernels = parents[0].backend
    # What NumPy reduces to a number is no array any more; on the GPU, and for a program, that is found out there.
    whole = data.ndim or (type(data) is np.ndarray and kernels.host and not tape.capturing)
    out = wrap(data if whole else kernels.xp.asarray(data), kernels)
    if tape.capturing and tape.mode.program is not None:
        for parent in parents:
            tape.mode.program.admit(parent.data)
        tape.mode.program.check(out.data, f"the result of {tape.named(vjp)}")
    if tape.mode.recording:
        above: list[Any] = []
        for parent in parents:
            if parent.requires_grad:
                above.append(parent.node or parent)
                out.requires_grad = True
            else:
                above.append(None)
        if out.requires_grad:
            out.node = tape.Node(above, vjp)
    return out


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64 as a NumPy dtype.

    Raises:
        OptionError: anything else (the nearest name is given).
    """
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    for known in FLOATS:
        if found == known and found is not None:
            return known
    raise unknown_name("float dtype", dtype, [str(known) for known in FLOATS])


def _home(data: Any) -> Kernels:
    """The backend on whose device this lies already."""
    if isinstance(data, Tensor):
        return data.backend
    return find_backend("gpu") if type(data) is not np.ndarray and lies_on_gpu(data) else CPU


def _as_array(data: Any, dtype: Any, kernels: Kernels) -> Array:
    if isinstance(data, Tensor):
        data = data.data
    if kernels.host:
        return _checked(to_numpy(data) if type(data) is not np.ndarray and lies_on_gpu(data) else data, dtype, np)
    with device_memory():
        if type(data) is not np.ndarray and lies_on_gpu(data):
            return _checked(data, dtype, kernels.xp)
        return kernels.xp.asarray(_checked(data, dtype, np))


def _checked(data: Any, dtype: Any, xp: Any) -> Array:
    """The data as an array of a library, in a dtype that tensors have."""
    try:
        array = xp.asarray(data)
    except (ValueError, TypeError) as error:
        raise DTypeError(f"no array can be made of this {type(data).__name__}: {error}") from None
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        dtype = np.float32
    if dtype is not None and array.dtype.kind in "iubf":  # text and None become no numbers
        try:
            array = array.astype(dtype, copy=False)
        except TypeError:
            raise DTypeError(f"unknown dtype {dtype!r}; wanted float32, float64, an integer type or bool") from None
    if array.dtype.kind not in "iub" and array.dtype.newbyteorder("=") not in FLOATS:
        raise DTypeError(
            f"a tensor holds float32, float64, integers or bools, got {array.dtype}; convert with dtype='float32'"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer)
