"""Weights files that are pickles of numpy arrays by name: Detectron2's and Caffe2's model zoos (.pkl).

They are never unpickled. Numpy arrays and plain containers are made from what stands in the file (`pickle_machine`),
as Python 2 and 3 and numpy 1 and 2 write them in protocols 0 to 5; everything else is refused.
"""

from __future__ import annotations

import codecs
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from vertinst.engine.pickle_machine import (
    MAX_DIMENSIONS,
    ORDERED_DICT,
    DamagedPickleError,
    Machine,
    Name,
    PickleRefusedError,
    Stream,
    count_of,
    expect,
    top,
    walk,
)
from vertinst.engine.torch_file import find_state_dict, refused, without_prefix

__all__ = ["is_numpy_pickle", "read_arrays"]

# How such files start: protocols 2 to 5, and dicts in protocols 1 and 0.
STARTS = (b"\x80", b"}q", b"(dp", b"ccollections\nOrderedDict\n")
# Numpy's kinds of elements that are read.
KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})
# Of Caffe2's files: the optimiser's state, which is no part of the network.
MOMENTUM = "_momentum"

_ENCODE, _BYTES, _BYTES_2 = "_codecs.encode", "builtins.bytes", "__builtin__.bytes"
_ARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
# Numpy 2 calls its core _core.
_RECONSTRUCT, _SCALAR, _FROM_BUFFER = (
    frozenset({f"numpy.core.{name}", f"numpy._core.{name}"})
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
)


def is_numpy_pickle(start: bytes) -> bool:
    """Whether a file may be a pickle of arrays, by its first bytes; ask `is_torch_file` first."""
    return start.startswith(STARTS) and start[8:9] != b"{"


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a model-zoo file by name, as tensors; no code in the file is run.

    They may lie in a dict under `model` (Detectron2), `blobs` (Caffe2) or what torch's files use. Caffe2's momenta are
    left away. Names that hold the same array share its memory.

    Raises:
        CheckpointError: Cut short, damaged, or with anything in it but arrays and plain values. Finding out takes no
            memory for what a file declares, only for what is in it.
    """
    with path.open("rb") as file, refused(path):
        stream = _Bounded(file)
        content = walk(_NumpyMachine(stream.size), stream)
        arrays = find_state_dict(content, ArrayRecord, path)
        arrays = {name: array for name, array in arrays.items() if not name.endswith(MOMENTUM)}
        return without_prefix({name: array.tensor() for name, array in arrays.items()})


class _Bounded:
    """A file of which no more can be asked for than is there: Python takes the memory before it looks.

    Args:
        file: Open at its start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        return self.file.read(min(size, self.size - self.file.tell()))

    def readline(self) -> bytes:
        """Up to the end of the line."""
        return self.file.readline()


@dataclass(eq=False)
class _Dtype:
    """A kind of elements; not to be used before its byte order is known."""

    kind: str
    known: bool = False


@dataclass(eq=False)
class ArrayRecord:
    """An array as the file describes it, its bytes being those that its shape asks for.

    Attributes:
        data: Its bytes; None before they are known.
        kind: One of `KINDS`.
        shape: Its shape.
        fortran: The first index changes fastest in memory, not the last.
    """

    data: bytes | bytearray | None = None
    kind: str = ""
    shape: tuple[int, ...] = ()
    fortran: bool = False
    _tensor: Tensor | None = None

    def fill(self, shape: Any, dtype: Any, fortran: bool, data: bytes | bytearray) -> None:
        """Say what it holds.

        Raises:
            DamagedPickleError: The bytes are fewer or more than the shape asks for.
        """
        if not expect(dtype, _Dtype).known or len(expect(shape, tuple)) > MAX_DIMENSIONS:
            raise TypeError
        sizes = tuple(map(count_of, shape))
        elements = 1
        for size in sizes:
            # Without what is empty too: the strides of such arrays count it.
            elements *= max(size, 1)
        count_of(elements * 8)
        if (0 if 0 in sizes else elements) * int(dtype.kind[1:]) != len(data):
            raise DamagedPickleError("an array has not the size that is declared")
        self.data, self.kind, self.shape, self.fortran = data, dtype.kind, sizes, fortran

    def tensor(self) -> Tensor:
        """Its copy, always the same."""
        if self._tensor is None:
            if self.data is None:
                raise DamagedPickleError("an array has no elements")
            # As bytes first: a bool must be 0 or 1 in memory, which a file does not promise.
            flat = np.frombuffer(self.data, "u1" if self.kind == "b1" else f"<{self.kind}")
            flat = flat != 0 if self.kind == "b1" else flat.copy()
            shaped = flat.reshape(self.shape, order="F" if self.fortran else "C")
            self._tensor = torch.from_numpy(shaped).contiguous()
            self.data = b""
        return self._tensor


class _NumpyMachine(Machine):
    """Arrays and scalars of numpy besides plain values.

    Args:
        size: Bytes of the file. As many may become arrays: one text could be asked for again and again.
    """

    KNOWN: ClassVar[frozenset[str]] = frozenset(
        {ORDERED_DICT, _ENCODE, _BYTES, _BYTES_2, _ARRAY, _DTYPE, *_RECONSTRUCT, *_SCALAR, *_FROM_BUFFER}
    )
    PROTOCOLS: ClassVar[range] = range(2, 6)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoded = self.filled = self.size = size

    def argument(self, instruction: pickletools.OpcodeInfo, stream: Stream) -> Any:
        """What follows an instruction's code; texts of Python 2 as latin1."""
        if instruction.name == "STRING":
            line = stream.readline()
            quotes = {line[:1], line[-2:-1]}
            if len(line) < 3 or line[-1:] != b"\n" or len(quotes) > 1 or not quotes <= {b"'", b'"'}:
                raise ValueError("no text")
            return codecs.escape_decode(line[1:-2])[0].decode("latin1")
        return super().argument(instruction, stream)

    def memoize(self, _: Any) -> None:
        """Keep the top of the stack in the next place."""
        self.remember(len(self.memo))

    def name_on_stack(self, _: Any) -> None:
        """A name of Python whose two parts lie on the stack."""
        module, attribute = (expect(part, str) for part in top(self.stack, 2))
        del self.stack[-2:]
        self.name(f"{module}.{attribute}")

    def list_since_mark(self, _: Any) -> None:
        """Make a list of what lies above the mark."""
        items = self.since_mark()
        self.stack.append(items)

    def dict_since_mark(self, _: Any) -> None:
        """Make a dict of the keys and values, in turn, above the mark."""
        items = self.since_mark()
        self.stack.append({})
        self.update(items)

    def call(self, _: Any) -> None:
        """Stand-ins for the few calls that arrays are made by."""
        arguments = expect(self.stack.pop(), tuple)
        called = expect(self.stack.pop(), Name).path
        if called == ORDERED_DICT and len(arguments) <= 1:
            self.ordered_dict(arguments)
        elif called == _ENCODE:
            text, encoding = arguments
            if encoding != "latin1":
                raise PickleRefusedError("it encodes texts in a way that no array does")
            self.stack.append(self._encode(expect(text, str)))
        elif called in (_BYTES, _BYTES_2) and not arguments:
            self.stack.append(b"")
        elif called == _DTYPE:
            kind, _align, _copy = arguments
            self.stack.append(_Dtype(_kind(kind)))
        elif called in _RECONSTRUCT:
            kind, _shape, _dtype = arguments
            if expect(kind, Name).path != _ARRAY:
                raise PickleRefusedError("it makes objects other than arrays")
            self.stack.append(ArrayRecord())
        elif called in _SCALAR:
            dtype, data = arguments
            self._fill(ArrayRecord(), (), dtype, False, data)
        elif called in _FROM_BUFFER:
            data, dtype, shape, order = arguments
            if order not in ("C", "F"):
                raise TypeError
            self._fill(ArrayRecord(), shape, dtype, order == "F", data)
        else:
            raise PickleRefusedError(f"it calls {called} in a way that no array does")

    def build(self, _: Any) -> None:
        """Set the state of a dtype or an array."""
        state, target = expect(self.stack.pop(), tuple), self.stack[-1]
        if isinstance(target, _Dtype):
            _version, order, *compound = state[:5]
            if order not in (("<", "|", "=") if target.kind[1:] != "1" else ("<", "|", "=", ">")):
                raise PickleRefusedError("its arrays are not little-endian")
            if any(part is not None for part in compound):
                raise PickleRefusedError("its arrays have more than plain numbers as elements")
            target.known = True
        elif isinstance(target, ArrayRecord):
            _version, shape, dtype, fortran, data = state
            self.stack.pop()
            self._fill(target, shape, dtype, bool(expect(fortran, bool, int)), data)
        else:
            raise PickleRefusedError("it sets attributes that no array has")

    def _fill(self, array: ArrayRecord, shape: Any, dtype: Any, fortran: bool, data: Any) -> None:
        content = self._encode(data) if isinstance(data, str) else expect(data, bytes, bytearray)
        self.filled -= len(content)
        if self.filled < 0:
            raise PickleRefusedError("its arrays use the same bytes again and again")
        array.fill(shape, dtype, fortran, content)
        self.stack.append(array)

    def _encode(self, text: str) -> bytes:
        self.encoded -= len(text)
        if self.encoded < 0:
            raise PickleRefusedError("it encodes the same text again and again")
        return text.encode("latin1")


def _same(value: Any) -> Any:
    return value


_NumpyMachine.PUSH = {
    **Machine.PUSH,
    **dict.fromkeys(("INT", "LONG", "LONG4", "FLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _same),
    **dict.fromkeys(("STRING", "BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _same),
}
_NumpyMachine.STEPS = {
    **Machine.STEPS,
    "FRAME": lambda machine, _: None,
    "MEMOIZE": _NumpyMachine.memoize,
    "PUT": Machine.remember,
    "GET": Machine.recall,
    "STACK_GLOBAL": _NumpyMachine.name_on_stack,
    "LIST": _NumpyMachine.list_since_mark,
    "DICT": _NumpyMachine.dict_since_mark,
    "REDUCE": _NumpyMachine.call,
    "BUILD": _NumpyMachine.build,
}


def _kind(kind: Any) -> str:
    """The kind of elements that a dtype's name says."""
    name: str = expect(kind, str)
    if name not in KINDS:
        raise PickleRefusedError(
            f"it holds arrays of {ascii(name[:20])[1:-1]}; read are {', '.join(sorted(KINDS))}, and never objects"
        )
    return name
