"""A strict stand-in for CuPy on the host's memory.

It has what this package uses, with CuPy's names and keywords only, and refuses what CuPy refuses: NumPy's arrays beside
its own, conversion to them unasked. What it had beyond CuPy 14.2 would be a mistake; `test_gpu_simulation` looks.
"""

from __future__ import annotations

import ctypes
import inspect
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .state import CaptureRefusedError, OutOfMemoryError, state

LIBRARY = "simulated_cupy"
"""What the module of its arrays is called, as `cupy` is that of CuPy's."""

SCALARS = (bool, int, float, complex, np.generic)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SIGNATURES = {
    "all": "a, axis=None, out=None, keepdims=False",
    "any": "a, axis=None, out=None, keepdims=False",
    "argmax": "a, axis=None, dtype=None, out=None, keepdims=False",
    "argmin": "a, axis=None, dtype=None, out=None, keepdims=False",
    "argsort": "a, axis=-1, kind=None",
    "broadcast_to": "array, shape",
    "clip": "a, a_min, a_max, out=None",
    "concatenate": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
    "copyto": "dst, src, casting='same_kind', where=None",
    "count_nonzero": "a, axis=None",
    "cumsum": "a, axis=None, dtype=None, out=None",
    "expand_dims": "a, axis",
    "max": "a, axis=None, out=None, keepdims=False",
    "mean": "a, axis=None, dtype=None, out=None, keepdims=False",
    "min": "a, axis=None, out=None, keepdims=False",
    "moveaxis": "a, source, destination",
    "prod": "a, axis=None, dtype=None, out=None, keepdims=False",
    "ravel": "a, order='C'",
    "repeat": "a, repeats, axis=None",
    "reshape": "a, newshape, order='C', *, copy=None",
    "sort": "a, axis=-1, kind=None",
    "split": "ary, indices_or_sections, axis=0",
    "squeeze": "a, axis=None",
    "stack": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
    "std": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
    "sum": "a, axis=None, dtype=None, out=None, keepdims=False",
    "swapaxes": "a, axis1, axis2",
    "take": "a, indices, axis=None, out=None",
    "take_along_axis": "a, indices, axis",
    "tile": "A, reps",
    "transpose": "a, axes=None",
    "var": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
    "where": "condition, x=None, y=None",
}
"""Functions of arrays that compute on the GPU, with CuPy's parameters."""

MOST_COPIED_ONE_BY_ONE = 8
"""Arrays that are joined. Of more, CuPy copies a table of their addresses to the GPU."""

MATMUL = (
    "*args, axes=None, axis=None, keepdims=False, casting='same_kind', dtype=None, signature=None, order='K', out=None"
)

CREATIONS = {
    "arange": "start, stop=None, step=1, dtype=None",
    "empty": "shape, dtype=float, order='C'",
    "empty_like": "prototype, dtype=None, order='K', subok=None, shape=None",
    "eye": "N, M=None, k=0, dtype=float, order='C'",
    "full": "shape, fill_value, dtype=None, order='C'",
    "full_like": "a, fill_value, dtype=None, order='K', subok=None, shape=None",
    "linspace": "start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0",
    "ones": "shape, dtype=float, order='C'",
    "ones_like": "a, dtype=None, order='K', subok=None, shape=None",
    "zeros": "shape, dtype=float, order='C'",
    "zeros_like": "a, dtype=None, order='K', subok=None, shape=None",
}

UFUNCS = _names("""add subtract multiply divide true_divide floor_divide remainder power negative positive absolute sign
    exp expm1 log log1p log2 log10 sqrt square reciprocal sin cos tan tanh sinh cosh maximum minimum fmax fmin
    equal not_equal less less_equal greater greater_equal logical_and logical_or logical_not logical_xor
    isfinite isnan isinf signbit floor ceil rint trunc bitwise_and bitwise_or bitwise_xor invert left_shift
    right_shift""")

CONSTANTS = _names("""float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_
    complex64 complex128 dtype nan inf pi newaxis""")

OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


class ndarray:
    """An array of the simulated GPU: NumPy's array, and the array that it is a view of."""

    __slots__ = ("__weakref__", "_base", "_host")
    __array_ufunc__ = None  # `numpy_array + this` asks this one, which refuses it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float, memptr: None = None, strides: None = None, order: str = "C"):
        if memptr is not None or strides is not None:
            raise NotImplementedError("an array on given memory")
        self._host, self._base = _unwritten(np.empty(shape, dtype, order)), None

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    base = property(lambda self: self._base)
    flags = property(lambda self: Flags(self))
    data = property(lambda self: Pointer(self._host.__array_interface__["data"][0], self))
    device = property(lambda self: Device(0))
    T = property(lambda self: self.transpose())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        host = self._host.__array_interface__
        return {
            "shape": self.shape,
            "typestr": host["typestr"],
            "descr": host["descr"],
            "version": 3,
            "strides": None if self._host.flags.c_contiguous else self.strides,
            "data": (host["data"][0] if self.size else 0, False),
            "stream": 1,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        return self._host.__dlpack__(max_version=max_version)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    # To the host

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        state.wait(".get()")
        if out is None:
            return self._host.copy(order)
        if type(out) is not np.ndarray or (out.dtype, out.shape) != (self.dtype, self.shape):
            raise TypeError(f"get wants out to be a NumPy array of {self.dtype} {self.shape}")
        np.copyto(out, self._host)
        return out

    def item(self) -> Any:
        state.wait(".item()")
        return self._host.item()

    def tolist(self) -> Any:
        state.wait(".tolist()")
        return self._host.tolist()

    def tobytes(self, order: str = "C") -> bytes:
        state.wait(".tobytes()")
        return self._host.tobytes(order)

    def nonzero(self) -> Any:
        state.wait(".nonzero()")
        return tuple(_owned(part) for part in self._host.nonzero())

    def __bool__(self) -> bool:
        state.wait("bool()")
        return bool(self._host)

    def __int__(self) -> int:
        state.wait("int()")
        return int(self._host)

    def __float__(self) -> float:
        state.wait("float()")
        return float(self._host)

    def __complex__(self) -> complex:
        state.wait("complex()")
        return complex(self._host)

    def __repr__(self) -> str:
        state.wait("repr()")
        return repr(self._host)

    def __str__(self) -> str:
        state.wait("str()")
        return str(self._host)

    def __reduce__(self) -> Any:
        return _unpickled, (self.get(),)

    # From the host

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._host.flags.c_contiguous or self._host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        state.upload(".set()")
        np.copyto(self._host, arr)

    # On the GPU

    def fill(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            raise TypeError("fill takes a number")
        source = host(value)
        _write(lambda: self._host.fill(source))

    def astype(
        self, dtype: Any, order: str = "K", casting: str | None = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return computed(partial(self._host.astype, dtype, order, casting or "unsafe"))

    def copy(self, order: str = "C") -> ndarray:
        return computed(partial(self._host.copy, order))

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def flatten(self, order: str = "C") -> ndarray:
        return self.copy(order).reshape(-1)

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        return xp.reshape(self, shape[0] if len(shape) == 1 else shape, order=order)

    def view(self, dtype: Any = None) -> ndarray:
        return _view(self._host.view() if dtype is None else self._host.view(dtype), self)

    def transpose(self, *axes: Any) -> ndarray:
        return xp.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)

    def dot(self, b: Any, out: Any = None) -> ndarray:
        if out is not None:
            raise NotImplementedError("dot(out=)")
        return xp.matmul(self, b)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        place, basic = _place(index, "indexing")
        if basic:
            return _view(np.asarray(self._host[place if isinstance(place, tuple) else (place,)]), self)
        if any(_is_mask(part) for part in _parts(place)):
            state.wait("indexing by a mask")
        return computed(lambda: self._host[place])

    def __setitem__(self, index: Any, value: Any) -> None:
        source, (place, _) = host(value), _place(index, "assigning")
        if source.ndim and any(_is_mask(part) for part in _parts(place)):
            state.wait("assigning an array by a mask")
        _write(lambda: self._host.__setitem__(place, source))

    def __matmul__(self, other: Any) -> Any:
        return NotImplemented if _defers(other) else xp.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return xp.matmul(other, self)

    def __neg__(self) -> ndarray:
        return xp.negative(self)

    def __pos__(self) -> ndarray:
        return xp.positive(self)

    def __abs__(self) -> ndarray:
        return xp.absolute(self)

    def __invert__(self) -> ndarray:
        return xp.invert(self)


class Flags:
    """The layout of an array."""

    def __init__(self, array: ndarray) -> None:
        self.c_contiguous = array._host.flags.c_contiguous
        self.f_contiguous = array._host.flags.f_contiguous
        self.owndata = array._base is None


class Pointer:
    """Where an array begins."""

    def __init__(self, ptr: int, mem: Any) -> None:
        self.ptr = ptr
        self.mem = mem

    def __int__(self) -> int:
        return self.ptr


class Device:
    """The only GPU there is."""

    def __init__(self, device: int = 0) -> None:
        self.id = device

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        state.wait("Device.synchronize()")


class ufunc:
    """An elementwise function that takes arrays of the GPU and numbers, and `out`, `dtype` and `casting`."""

    def __init__(self, name: str) -> None:
        self.name = f"cupy_{name}"
        self.__name__ = name
        self._function = getattr(np, name)
        self.nin, self.nout = self._function.nin, 1

    def __repr__(self) -> str:
        return f"<ufunc '{self.name}'>"

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> ndarray:
        if len(args) == self.nin + 1 and out is None:
            *args, out = args  # type: ignore[assignment]
        if len(args) != self.nin:
            raise TypeError(f"{self.name} takes {self.nin} arguments, {len(args)} were given")
        operands = [arg._host if isinstance(arg, ndarray) else host(arg) if _foreign(arg) else arg for arg in args]
        call = partial(self._function, *operands, casting=casting, **({} if dtype is None else {"dtype": dtype}))
        return _to(call, out)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.__name__ not in ("add", "subtract", "maximum", "minimum"):
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        (place, _), values = _place(indices, "ufunc.at"), host(b)
        _write(lambda: self._function.at(a._host, place, values))


class Stream:
    """The stream that everything runs on; `null` is another name of it."""

    ptr = 0

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        pass

    def synchronize(self) -> None:
        state.wait("Stream.synchronize()")

    def record(self, event: Any = None) -> Stream:
        return self

    def wait_event(self, event: Any) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Memory:
    """Bytes of the GPU."""

    def __init__(self, size: int) -> None:
        state.allocate(size)
        self.size, self._bytes = size, ctypes.create_string_buffer(size)
        self.ptr = ctypes.addressof(self._bytes)


class MemoryPool:
    """Memory that was given back and not yet to the driver: none."""

    def free_bytes(self) -> int:
        return 0

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        pass


def _owned(host: Any) -> ndarray:
    """An array of the GPU that has its memory for itself."""
    array = object.__new__(ndarray)
    array._host, array._base = np.asarray(host), None
    return array


def _view(host: Any, of: ndarray) -> ndarray:
    array = _owned(host)
    array._base = of if of._base is None else of._base
    return array


def _unwritten(host: Any) -> Any:
    """Memory as the GPU hands it out: nobody may rely on zeros in it."""
    state.allocate(host.nbytes)
    if host.dtype.kind == "f":
        host.fill(np.nan)
    elif host.dtype.kind in "iu":
        host.fill(85)
    return host


def computed(call: Callable[[], Any]) -> ndarray:
    """The result of a function of arrays, in memory of its own; inside a capture it is only there at a replay."""
    host = np.asarray(call())
    state.allocate(host.nbytes)
    if state.captured is not None:
        _unwritten(host)
        state.captured.append(lambda: np.copyto(host, call(), casting="unsafe"))
    return _owned(host)


def _write(call: Callable[[], Any]) -> None:
    state.submit(call)


def _to(call: Callable[..., Any], out: Any) -> ndarray:
    if isinstance(out, tuple):
        (out,) = out
    if out is None:
        return computed(call)
    if not isinstance(out, ndarray):
        raise TypeError(f"return arrays must be of cupy.ndarray, got {type(out)}")
    target = out._host
    _write(lambda: call(out=target))
    return out


def host(value: Any) -> Any:
    """The array or number that an operation reads."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, SCALARS):
        return np.asarray(value)
    raise TypeError(f"Unsupported type {type(value)}")


def _foreign(value: Any) -> bool:
    return not isinstance(value, (ndarray, *SCALARS))


def _defers(other: Any) -> bool:
    return not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", other) is None


def _parts(place: Any) -> tuple[Any, ...]:
    return place if isinstance(place, tuple) else (place,)


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype == bool


def _place(index: Any, what: str) -> tuple[Any, bool]:
    """An index as NumPy takes it, and whether it makes a view; lists and NumPy's arrays are copied to the GPU."""
    places: list[Any] = []
    basic = True
    for part in _parts(index):
        if part is None or part is ... or (isinstance(part, slice | int | np.integer) and not isinstance(part, bool)):
            if isinstance(part, slice) and any(isinstance(end, ndarray) for end in (part.start, part.stop, part.step)):
                raise TypeError("slice indices must be integers or None or have an __index__ method")
            places.append(part)
            continue
        basic = False
        if isinstance(part, ndarray):
            places.append(part._host)
        elif isinstance(part, list | tuple | np.ndarray | bool | np.bool_):
            state.upload(what)
            array = np.asarray(part)
            places.append(array.astype(np.int32) if array.size == 0 and not isinstance(part, np.ndarray) else array)
        else:
            raise IndexError("only integers, slices, ellipsis, newaxis and integer or boolean arrays are valid indices")
    # An index that stands alone may not become a tuple: a[[0, 1]] is no a[0, 1].
    return (tuple(places) if isinstance(index, tuple) else places[0]), basic


def _bound(name: str, text: str) -> inspect.Signature:
    return inspect.signature(eval(f"lambda {text}: 0"))


def _raw(value: Any) -> Any:
    """An argument as NumPy takes it, and what an array may not be: NumPy's."""
    if isinstance(value, np.ndarray) or hasattr(value, "__array_interface__"):
        if isinstance(value, np.generic):
            return value
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, list | tuple):
        return type(value)(_raw(one) for one in value)
    return value


def _function(name: str, text: str) -> Callable[..., Any]:
    signature, numpys = _bound(name, text), getattr(np, name)
    arrays = {"concatenate": (), "stack": (), "where": ("condition",), "copyto": ("dst",)}.get(
        name, (next(iter(signature.parameters)),)
    )

    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for parameter in arrays:
            if not isinstance(given[parameter], ndarray):
                raise TypeError(f"{name} wants an array of the GPU, got {type(given[parameter])}")
        if name in ("concatenate", "stack") and not all(isinstance(a, ndarray) for a in next(iter(given.values()))):
            raise TypeError("Only cupy arrays can be concatenated")
        if name in ("concatenate", "stack") and len(next(iter(given.values()))) > MOST_COPIED_ONE_BY_ONE:
            state.upload(f"{name} of many arrays")
        if name == "where" and "x" not in given:
            state.wait("where(condition)")
        out = given.pop("out", None)
        positional = [_raw(value) for value in given.values()]
        keywords = dict(zip(list(given), positional, strict=True))
        first = [keywords.pop(key) for key in list(given)[: _POSITIONAL.get(name, 1)]]
        if name == "copyto":
            if keywords.get("where", 0) is None:
                del keywords["where"]
            _write(partial(numpys, *first, **keywords))
            return None
        run = partial(numpys, *first, **keywords)
        return _to(run, out) if name not in _VIEWS else _viewed(run, next(iter(given.values())))

    call.__name__ = call.__qualname__ = name
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


_POSITIONAL = dict.fromkeys(
    _names("copyto broadcast_to reshape expand_dims split take take_along_axis tile repeat moveaxis swapaxes"), 2
) | {"clip": 3, "where": 3}
"""How many arguments NumPy takes by place, where it is more than one: some have other names there."""
_VIEWS = _names("broadcast_to expand_dims moveaxis ravel reshape split squeeze swapaxes transpose")


def _viewed(run: Callable[[], Any], of: ndarray) -> Any:
    """What NumPy makes a view of, as one; as a copy, where it must copy."""
    found = run()
    if isinstance(found, list):
        return [_view(part, of) for part in found]
    return _view(found, of) if found.size == 0 or np.may_share_memory(found, of._host) else computed(run)


def _creation(name: str, text: str) -> Callable[..., Any]:
    signature, numpys = _bound(name, text), getattr(np, name)

    def call(*args: Any, **kwargs: Any) -> ndarray:
        given = signature.bind(*args, **kwargs).arguments
        raw = {key: value._host if isinstance(value, ndarray) else value for key, value in given.items()}
        if name.endswith("_like") and not isinstance(next(iter(given.values())), ndarray):
            raise TypeError(f"{name} wants an array of the GPU")
        by_place = [next(iter(signature.parameters)), "fill_value", "stop", "step", "num"]
        first = [raw.pop(key) for key in list(given) if key in by_place]
        if any(isinstance(value, np.ndarray) for value in first[1:]):
            raise TypeError("a value that lies in memory; give a number")
        if name in ("empty", "empty_like"):
            return _owned(_unwritten(numpys(*first, **raw)))
        return computed(partial(numpys, *first, **raw))

    call.__name__ = call.__qualname__ = name
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def array(
    obj: Any, dtype: Any = None, copy: bool | None = True, order: str = "K", subok: bool = False, ndmin: int = 0,
    *, blocking: bool = False,
) -> ndarray:  # fmt: skip
    """An array of the GPU from anything; of a NumPy array it is a copy that the host does not wait for."""
    if isinstance(obj, list | tuple) and any(isinstance(part, ndarray) for part in obj):
        obj = xp.stack([part if isinstance(part, ndarray) else array(part) for part in obj])
    if not isinstance(obj, ndarray) and hasattr(obj, "__cuda_array_interface__"):
        obj = _foreign_array(obj)
    if not isinstance(obj, ndarray):
        state.upload("array()")
        found = np.array(obj, dtype, order=order, ndmin=ndmin)
        if found.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {found.dtype}")
        state.allocate(found.nbytes)
        return _owned(found)
    same = (dtype is None or obj.dtype == np.dtype(dtype)) and obj.ndim >= ndmin
    if same and not copy and (order == "K" or (order == "C" and obj._host.flags.c_contiguous)):
        return obj
    return computed(partial(np.array, obj._host, dtype, order=order, ndmin=ndmin))


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    """As `array`, without a copy of what is on the GPU."""
    return array(a, dtype, bool(copy), order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """As `asarray`, in C order, and at least 1-d."""
    return array(a, dtype, False, "C", ndmin=1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    """A copy in the host's memory."""
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)  # type: ignore[call-overload]


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    """An array of another library, without a copy; it must be on the GPU."""
    if ext_tensor.__dlpack_device__()[0] != 2:
        raise BufferError("the array is not on a CUDA device")
    shown = types.SimpleNamespace(__dlpack__=ext_tensor.__dlpack__, __dlpack_device__=lambda: (1, 0))
    return _owned(np.from_dlpack(shown))


def _unpickled(host: Any) -> ndarray:
    return array(host)


def _foreign_array(thing: Any) -> ndarray:
    face = thing.__cuda_array_interface__
    if face.get("stream") is not None:
        state.wait("an array of another library that names its stream")
    address, _ = face["data"]
    dtype, shape = np.dtype(face["typestr"]), tuple(face["shape"])
    strides = face.get("strides") or np.empty(shape, dtype).strides
    interface = {"data": (address, False), "shape": shape, "typestr": face["typestr"], "strides": strides, "version": 3}
    if not np.prod(shape):
        return _owned(np.empty(shape, dtype))
    found = _owned(np.asarray(types.SimpleNamespace(__array_interface__=interface, owner=thing)))
    found._base = None
    return found


def _operator(name: str, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    def apply(self: ndarray, other: Any) -> Any:
        if _defers(other):
            return NotImplemented
        function = getattr(xp, name)
        if in_place:
            return function(self, other, out=self)
        return function(other, self) if reflected else function(self, other)

    return apply


def _method(name: str) -> Callable[..., Any]:
    def apply(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        return getattr(xp, name)(self, *args, **kwargs)

    apply.__name__ = name
    return apply


for _short, _name in OPERATORS.items():
    setattr(ndarray, f"__{_short}__", _operator(_name))
    setattr(ndarray, f"__r{_short}__", _operator(_name, reflected=True))
    setattr(ndarray, f"__i{_short}__", _operator(_name, in_place=True))
for _short, _name in COMPARISONS.items():
    setattr(ndarray, f"__{_short}__", _operator(_name))
for _name in _names(
    "all any argmax argmin clip cumsum max mean min prod ravel repeat squeeze std sum swapaxes take var"
):
    setattr(ndarray, _name, _method(_name))


def _matmul(*args: Any, out: Any = None, **kwargs: Any) -> ndarray:
    for arg in args:
        if not isinstance(arg, ndarray):
            raise TypeError(f"Unsupported type {type(arg)}")
    _bound("matmul", MATMUL).bind(*args, **kwargs)
    if state.captured is not None:
        raise CaptureRefusedError("calling cuBLAS API during stream capture is currently unsupported")
    return _to(partial(np.matmul, *[arg._host for arg in args], **kwargs), out)


def _library() -> Any:
    library: Any = types.ModuleType(LIBRARY, __doc__)
    vars(library).update({name: ufunc(name) for name in UFUNCS})
    vars(library).update({name: getattr(np, name) for name in CONSTANTS})
    vars(library).update({name: _function(name, text) for name, text in SIGNATURES.items()})
    vars(library).update({name: _creation(name, text) for name, text in CREATIONS.items()})
    for function in (array, asarray, ascontiguousarray, asnumpy, from_dlpack, ndarray, ufunc):
        setattr(library, function.__name__, function)
    library.matmul, library.abs, library.isscalar = _matmul, library.absolute, np.isscalar
    library.amax, library.amin = library.max, library.min
    library.get_default_memory_pool = MemoryPool
    library.cuda = types.SimpleNamespace(
        Device=Device,
        Memory=Memory,
        MemoryPool=MemoryPool,
        Stream=Stream,
        get_current_stream=Stream,
        memory=types.SimpleNamespace(Memory=Memory, OutOfMemoryError=OutOfMemoryError),
        runtime=types.SimpleNamespace(
            CUDARuntimeError=CudaRuntimeError,
            deviceSynchronize=partial(state.wait, "deviceSynchronize()"),
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            memGetInfo=lambda: (state.memory // 2, state.memory),
        ),
    )
    ndarray.__module__ = ufunc.__module__ = LIBRARY
    return library


class CudaRuntimeError(RuntimeError):
    """As CuPy's `CUDARuntimeError`."""


xp = _library()
"""What CuPy is on a real GPU."""
