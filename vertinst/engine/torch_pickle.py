"""What the pickles inside torch's weights files say, found without unpickling them.

Torch's own `weights_only` reader runs no foreign code, but it takes whatever memory a file asks for (a storage of a
declared size, a tensor larger than its storage, `bytearray(10**12)`). So the few instructions that a state dict is
made of are followed here on stand-ins, every other instruction is refused, and their work is counted.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_PICKLE_BYTES", "DamagedPickleError", "PickleRefusedError", "Storage", "TensorRecord", "follow"]

MAX_PICKLE_BYTES = 4_000_000
"""Names, shapes and offsets alone: those of 800 tensors take 0.1 MB."""
MAX_STEPS = 1_000_000
"""Instructions, and items of lists that are copied: the 932 tensors of torchvision's ResNet-152 take 31 570."""
MAX_DIMENSIONS = 16

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


class PickleRefusedError(Exception):
    """The pickle holds more than tensors and plain values; the text says what."""


class DamagedPickleError(PickleRefusedError):
    """The pickle, or the file around it, is cut short or contradicts itself."""


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


@dataclass(frozen=True)
class _Name:
    """A name of Python that the pickle asks for."""

    path: str


class _Parameter:
    """An `nn.Parameter` before it is filled, as the oldest files make it."""


_ORDERED_DICT = "collections.OrderedDict"
_PARAMETER = "torch.nn.parameter.Parameter"
_TENSOR_V1 = "torch._utils._rebuild_tensor"
_TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
_REBUILT_PARAMETER = "torch._utils._rebuild_parameter"
_KINDS = {f"{module}.{kind}": kind for kind in ITEM_BYTES for module in ("torch", "torch.cuda")}
_KNOWN = {_ORDERED_DICT, _PARAMETER, _TENSOR_V1, _TENSOR_V2, _REBUILT_PARAMETER, *_KINDS}


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
    machine = _Machine()
    try:
        return machine.run(pickletools.genops(stream)), machine.storages
    except (ValueError, IndexError, KeyError, TypeError) as error:
        # What the walk over damaged instructions ends in: a text cut short, a stack too small, a wrong kind of value.
        raise DamagedPickleError("its list of tensors is damaged") from error


class _Machine:
    """The stack and memo of a pickle, restricted to what state dicts need."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise PickleRefusedError("its list of tensors is too long")

    def run(self, instructions: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        for instruction, argument, _ in instructions:
            self.count(1)
            name = instruction.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH:
                self.stack.append(_PUSH[name](argument))
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise PickleRefusedError(f"it holds more than tensors and plain values (instruction {name})")
        raise ValueError("no end")

    def protocol(self, number: int) -> None:
        if number != 2:
            raise PickleRefusedError(f"its pickle has protocol {number}, which torch.save does not write by itself")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def name(self, argument: str) -> None:
        path = argument.replace(" ", ".")
        if path not in _KNOWN:
            raise PickleRefusedError(f"it asks for {ascii(path)[1:-1][:80]}, which is code and was not run")
        self.stack.append(_Name(path))

    def tuple_of(self, count: int) -> None:
        self.stack[len(self.stack) - count :] = [tuple(_last(self.stack, count))]

    def tuple_since_mark(self, _: Any) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def extend(self, items: list[Any]) -> None:
        _of(self.stack[-1], list).extend(items)

    def append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        items = self.since_mark()
        self.extend(items)

    def update(self, items: list[Any]) -> None:
        target = _of(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def setitem(self, _: Any) -> None:
        items = _last(self.stack, 2)
        del self.stack[-2:]
        self.update(items)

    def setitems(self, _: Any) -> None:
        items = self.since_mark()
        self.update(items)

    def storage(self, _: Any) -> None:
        """A storage named by a tuple: `storage`, kind, key, device, elements and, in legacy files, a view of it."""
        what, *parts = _of(self.stack.pop(), tuple)
        if what != "storage":
            raise PickleRefusedError("it holds a whole model with its code, which was not run")
        kind, key, _device, count, *rest = parts
        view = None
        if rest and rest[0] is not None:
            _view_key, first, length = _of(rest[0], tuple)
            view = (_count(first), _count(length))
            _inside(sum(view), count)
        storage = Storage(_KINDS[_of(kind, _Name).path], _of(key, str), _count(count), view)
        known = self.storages.setdefault(storage.key, storage)
        if (known.kind, known.count) != (storage.kind, storage.count):
            raise DamagedPickleError("two tensors disagree on what they share")
        self.stack.append(storage)

    def call(self, _: Any) -> None:
        arguments = _of(self.stack.pop(), tuple)
        called = _of(self.stack.pop(), _Name).path
        if called == _ORDERED_DICT and len(arguments) <= 1:
            # Python 2 wrote the items as an argument, Python 3 sets them afterwards.
            items = _of(arguments[0], list) if arguments else []
            # The memo can give the same list again and again.
            self.count(len(items))
            items = [_of(item, list, tuple) for item in items]
            self.stack.append({})
            self.update([part for key, value in items for part in (key, value)])
        elif called == _TENSOR_V1:
            self.stack.append(_tensor(*arguments))
        elif called == _TENSOR_V2:
            storage, first, shape, strides, requires_grad, hooks = arguments
            _no_hooks(requires_grad, hooks)
            self.stack.append(_tensor(storage, first, shape, strides))
        elif called == _REBUILT_PARAMETER:
            tensor, requires_grad, hooks = arguments
            _no_hooks(requires_grad, hooks)
            self.stack.append(_of(tensor, TensorRecord))
        elif called == _PARAMETER:
            (tensor,) = arguments
            self.stack.append(_of(tensor, TensorRecord))
        else:
            raise PickleRefusedError(f"it calls {called} in a way that no state dict does")

    def new(self, _: Any) -> None:
        arguments = _of(self.stack.pop(), tuple)
        if _of(self.stack.pop(), _Name).path != _PARAMETER or arguments:
            raise PickleRefusedError("it makes objects other than tensors")
        self.stack.append(_Parameter())

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict) and not set(_of(state, dict)) - {"_metadata"}:
            return
        if isinstance(target, TensorRecord):
            requires_grad, _volatile, hooks = _of(state, tuple)
        elif isinstance(target, _Parameter):
            tensor, _gradient, hooks, requires_grad, _volatile = _of(state, tuple)
            self.stack[-1] = _of(tensor, TensorRecord)
        else:
            raise PickleRefusedError("it sets attributes that no state dict has")
        _no_hooks(requires_grad, hooks)


_PUSH: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), lambda value: value
    ),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
}


def _last(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise IndexError
    return stack[-count:]


def _of(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError
    return value


def _key(value: Any) -> str | int:
    """A key of a dict, quick to hash: not so tuples of tuples of ..., and large integers can all have one hash."""
    key: str | int = _of(value, str, int)
    if isinstance(key, int) and abs(key) >= 2**31:
        raise TypeError
    return key


def _count(value: Any) -> int:
    number: int = _of(value, int)
    if not 0 <= number < 2**62:
        raise DamagedPickleError("it declares sizes that cannot be")
    return number


def _no_hooks(requires_grad: Any, hooks: Any) -> None:
    if not isinstance(requires_grad, bool) or not (hooks is None or hooks == {}):
        raise TypeError


def _inside(end: int, count: int) -> None:
    if end > count:
        raise DamagedPickleError("it declares tensors that reach beyond what is stored")


def _tensor(storage: Any, first: Any, shape: Any, strides: Any) -> TensorRecord:
    _of(storage, Storage)
    if len(_of(shape, tuple)) != len(_of(strides, tuple)) or len(shape) > MAX_DIMENSIONS:
        raise TypeError
    sizes, steps = tuple(map(_count, shape)), tuple(map(_count, strides))
    available = storage.view[1] if storage.view else storage.count
    elements = 1
    for size in sizes:
        elements *= size
    last = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if elements else -1
    # A stride of 0 shows one element many times: tensors that are copied must not be larger than what is stored.
    _inside(max(_count(first) + last + 1, elements), available)
    return TensorRecord(storage, sizes, steps, first + (storage.view[0] if storage.view else 0))
