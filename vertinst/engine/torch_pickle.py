"""What the pickles inside torch's weights files say, found without unpickling them.

Torch's own `weights_only` reader runs no foreign code, but it takes whatever memory a file asks for (a storage of a
declared size, a tensor larger than its storage, `bytearray(10**12)`). So the few instructions that a state dict is
made of are followed here on stand-ins, every other instruction is refused, and their work is counted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

from vertinst.engine.pickle_machine import (
    MAX_DIMENSIONS,
    ORDERED_DICT,
    DamagedPickleError,
    Machine,
    Name,
    PickleRefusedError,
    count_of,
    expect,
    walk,
)

__all__ = ["MAX_PICKLE_BYTES", "Storage", "TensorRecord", "follow"]

MAX_PICKLE_BYTES = 4_000_000
"""Names, shapes and offsets alone: those of 800 tensors take 0.1 MB."""

ITEM_BYTES = {
    "BFloat16Storage": 2,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
    "ShortStorage": 2,
}
"""Kinds of storage that are read, with the bytes of one element."""


@dataclass(frozen=True)
class Storage:
    """Memory that tensors lie in.

    Attributes:
        kind: A key of `ITEM_BYTES`.
        key: Its name in the file.
        count: Elements of all of it.
        view: First element and number of elements where only a part is meant (very old files), else None.
    """

    kind: str
    key: str
    count: int
    view: tuple[int, int] | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return self.count * ITEM_BYTES[self.kind]


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as the file describes it, known to lie inside its storage and not to use an element twice."""

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    """Element of the storage that it starts with."""


class _Parameter:
    """An `nn.Parameter` before it is filled, as the oldest files make it."""


_PARAMETER = "torch.nn.parameter.Parameter"
_TENSOR_V1 = "torch._utils._rebuild_tensor"
_TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
_REBUILT_PARAMETER = "torch._utils._rebuild_parameter"
_KINDS = {f"{module}.{kind}": kind for kind in ITEM_BYTES for module in ("torch", "torch.cuda")}
_KNOWN = frozenset({ORDERED_DICT, _PARAMETER, _TENSOR_V1, _TENSOR_V2, _REBUILT_PARAMETER, *_KINDS})


def follow(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Follow one pickle from where the stream stands to its end.

    Args:
        stream: At most `MAX_PICKLE_BYTES` long.

    Returns:
        Its value: dicts, lists, tuples, texts, numbers and None as they are, a `TensorRecord` for each tensor. And
        every storage that reading it would make, by key, whether or not a tensor lies in it.

    Raises:
        PickleRefusedError: See there. Nothing of the file was run, and no memory taken but for what stands in it.
    """
    machine = _TorchMachine()
    return walk(machine, stream), machine.storages


class _TorchMachine(Machine):
    """Storages and tensors besides plain values."""

    KNOWN: ClassVar[frozenset[str]] = _KNOWN
    FOREIGN: ClassVar[str] = "torch.save does not write by itself"

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[str, Storage] = {}

    def storage(self, _: Any) -> None:
        """A storage named by a tuple: `storage`, kind, key, device, elements and, in legacy files, a view of it."""
        what, *parts = expect(self.stack.pop(), tuple)
        if what != "storage":
            raise PickleRefusedError("it holds a whole model with its code, which was not run")
        kind, key, _device, count, *rest = parts
        view = None
        if rest and rest[0] is not None:
            _view_key, first, length = expect(rest[0], tuple)
            view = (count_of(first), count_of(length))
            _inside(sum(view), count)
        storage = Storage(_KINDS[expect(kind, Name).path], expect(key, str), count_of(count), view)
        known = self.storages.setdefault(storage.key, storage)
        if (known.kind, known.count) != (storage.kind, storage.count):
            raise DamagedPickleError("two tensors disagree on what they share")
        self.stack.append(storage)

    def call(self, _: Any) -> None:
        arguments = expect(self.stack.pop(), tuple)
        called = expect(self.stack.pop(), Name).path
        if called == ORDERED_DICT and len(arguments) <= 1:
            self.ordered_dict(arguments)
        elif called == _TENSOR_V1:
            self.stack.append(_tensor(*arguments))
        elif called == _TENSOR_V2:
            storage, first, shape, strides, requires_grad, hooks = arguments
            _no_hooks(requires_grad, hooks)
            self.stack.append(_tensor(storage, first, shape, strides))
        elif called == _REBUILT_PARAMETER:
            tensor, requires_grad, hooks = arguments
            _no_hooks(requires_grad, hooks)
            self.stack.append(expect(tensor, TensorRecord))
        elif called == _PARAMETER:
            (tensor,) = arguments
            self.stack.append(expect(tensor, TensorRecord))
        else:
            raise PickleRefusedError(f"it calls {called} in a way that no state dict does")

    def new(self, _: Any) -> None:
        arguments = expect(self.stack.pop(), tuple)
        if expect(self.stack.pop(), Name).path != _PARAMETER or arguments:
            raise PickleRefusedError("it makes objects other than tensors")
        self.stack.append(_Parameter())

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict) and not set(expect(state, dict)) - {"_metadata"}:
            return
        if isinstance(target, TensorRecord):
            requires_grad, _volatile, hooks = expect(state, tuple)
        elif isinstance(target, _Parameter):
            tensor, _gradient, hooks, requires_grad, _volatile = expect(state, tuple)
            self.stack[-1] = expect(tensor, TensorRecord)
        else:
            raise PickleRefusedError("it sets attributes that no state dict has")
        _no_hooks(requires_grad, hooks)


_TorchMachine.STEPS = {
    **Machine.STEPS,
    "BINPERSID": _TorchMachine.storage,
    "REDUCE": _TorchMachine.call,
    "NEWOBJ": _TorchMachine.new,
    "BUILD": _TorchMachine.build,
}


def _no_hooks(requires_grad: Any, hooks: Any) -> None:
    if not isinstance(requires_grad, bool) or not (hooks is None or hooks == {}):
        raise TypeError


def _inside(end: int, count: int) -> None:
    if end > count:
        raise DamagedPickleError("it declares tensors that reach beyond what is stored")


def _tensor(storage: Any, first: Any, shape: Any, strides: Any) -> TensorRecord:
    expect(storage, Storage)
    if len(expect(shape, tuple)) != len(expect(strides, tuple)) or len(shape) > MAX_DIMENSIONS:
        raise TypeError
    sizes, steps = tuple(map(count_of, shape)), tuple(map(count_of, strides))
    available = storage.view[1] if storage.view else storage.count
    elements = 1
    for size in sizes:
        elements *= size
    last = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if elements else -1
    # A stride of 0 shows one element many times: tensors that are copied must not be larger than what is stored.
    _inside(max(count_of(first) + last + 1, elements), available)
    return TensorRecord(storage, sizes, steps, first + (storage.view[0] if storage.view else 0))
