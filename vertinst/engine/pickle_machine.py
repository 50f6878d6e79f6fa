"""Pickles followed on stand-ins: nothing is imported, called or run, and the work is counted.

Weights files of others are pickles, which can hold code, and come from strangers. The few instructions that tensors by
name are made of are followed here; each kind of file adds its own (`torch_pickle`, `numpy_pickle`), and every other
instruction is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Protocol, cast

__all__ = [
    "MAX_DIMENSIONS",
    "ORDERED_DICT",
    "DamagedPickleError",
    "Machine",
    "Name",
    "PickleRefusedError",
    "Stream",
    "count_of",
    "expect",
    "top",
    "walk",
]

MAX_STEPS = 1_000_000
"""Instructions, and items of lists that are copied: the 932 tensors of torchvision's ResNet-152 take 31 570."""
MAX_DIMENSIONS = 16
# From here on integers can be chosen that all have one hash.
MAX_KEY = 2**31
# Old optimisers name their state by addresses in memory.
MAX_ADDRESS = 2**60

ORDERED_DICT = "collections.OrderedDict"


class PickleRefusedError(Exception):
    """The pickle holds more than tensors and plain values; the text says what."""


class DamagedPickleError(PickleRefusedError):
    """The pickle, or the file around it, is cut short or contradicts itself."""


class Stream(Protocol):
    """What a pickle is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; no memory is taken for more than there are."""

    def readline(self) -> bytes:
        """Up to the end of the line."""


@dataclass(frozen=True)
class Name:
    """A name of Python that the pickle asks for."""

    path: str


_BY_CODE = {code.code: code for code in pickletools.opcodes}

Instruction = tuple[pickletools.OpcodeInfo, Any]
Push = Mapping[str, Callable[[Any], Any]]
Steps = Mapping[str, Callable[[Any, Any], None]]


def walk(machine: Machine, stream: Stream) -> Any:
    """Follow one pickle from where the stream stands to its end.

    Args:
        machine: A fresh one.
        stream: Where it lies.

    Returns:
        Its value, with stand-ins for what the machine knows.

    Raises:
        PickleRefusedError: See there. Nothing of the file was run, and no memory taken but for what stands in it.
    """
    try:
        return machine.run(_instructions(stream))
    except (ValueError, IndexError, KeyError, TypeError) as error:
        # What the walk over damaged instructions ends in: a text cut short, a stack too small, a wrong kind of value.
        raise DamagedPickleError("its list of tensors is damaged") from error


def _instructions(stream: Stream) -> Iterator[Instruction]:
    while True:
        instruction = _BY_CODE[stream.read(1).decode("latin1")]
        # Read by the one who follows it: texts of Python 2 are no ASCII, which the standard reader asks for.
        yield instruction, stream if instruction.arg else None


class Machine:
    """The stack and memo of a pickle, restricted to plain values and containers.

    Attributes:
        KNOWN: Names that the pickle may ask for.
        PROTOCOLS: Protocols that are followed.
        FOREIGN: What to say of others.
        PUSH: Instructions that put a value made of their argument on the stack.
        STEPS: All others.
    """

    KNOWN: ClassVar[frozenset[str]] = frozenset({ORDERED_DICT})
    PROTOCOLS: ClassVar[range] = range(2, 3)
    FOREIGN: ClassVar[str] = "is not read"
    PUSH: ClassVar[Push]
    STEPS: ClassVar[Steps]

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def count(self, steps: int) -> None:
        """Count work, and refuse what would never end."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise PickleRefusedError("its list of tensors is too long")

    def run(self, instructions: Iterator[Instruction]) -> Any:
        """The value that the instructions leave on the stack."""
        for instruction, stream in instructions:
            self.count(1)
            name = instruction.name
            if name == "STOP":
                return self.stack.pop()
            if name not in self.PUSH and name not in self.STEPS:
                raise PickleRefusedError(f"it holds more than tensors and plain values (instruction {name})")
            argument = self.argument(instruction, stream) if stream else None
            if name in self.PUSH:
                self.stack.append(self.PUSH[name](argument))
            else:
                self.STEPS[name](self, argument)
        raise ValueError("no end")

    def argument(self, instruction: pickletools.OpcodeInfo, stream: Stream) -> Any:
        """What follows an instruction's code."""
        assert instruction.arg is not None
        return instruction.arg.reader(cast(IO[bytes], stream))

    def protocol(self, number: int) -> None:
        """Refuse protocols that are not followed."""
        if number not in self.PROTOCOLS:
            raise PickleRefusedError(f"its pickle has protocol {number}, which {self.FOREIGN}")

    def since_mark(self) -> list[Any]:
        """Take what lies above the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        """Begin a list of arguments."""
        self.marks.append(self.stack)
        self.stack = []

    def remember(self, place: int) -> None:
        """Keep the top of the stack."""
        self.memo[int(_key(place))] = self.stack[-1]

    def recall(self, place: int) -> None:
        """Put back what was kept."""
        self.stack.append(self.memo[place])

    def name(self, argument: str) -> None:
        """Put a name of Python on the stack, if it is known; it is not imported."""
        path = argument.replace(" ", ".")
        if path not in self.KNOWN:
            raise PickleRefusedError(f"it asks for {ascii(path[:80])[1:-1]}, which is code and was not run")
        self.stack.append(Name(path))

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the top of the stack."""
        self.stack[len(self.stack) - count :] = [tuple(top(self.stack, count))]

    def tuple_since_mark(self, _: Any) -> None:
        """Make a tuple of what lies above the mark."""
        items = tuple(self.since_mark())
        self.stack.append(items)

    def extend(self, items: list[Any]) -> None:
        """Append to the list on the stack."""
        expect(self.stack[-1], list).extend(items)

    def append(self, _: Any) -> None:
        """Append one item."""
        self.extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        """Append what lies above the mark."""
        items = self.since_mark()
        self.extend(items)

    def update(self, items: list[Any]) -> None:
        """Set keys and values, in turn, of the dict on the stack."""
        target = expect(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def setitem(self, _: Any) -> None:
        """Set one item."""
        items = top(self.stack, 2)
        del self.stack[-2:]
        self.update(items)

    def setitems(self, _: Any) -> None:
        """Set what lies above the mark."""
        items = self.since_mark()
        self.update(items)

    def ordered_dict(self, arguments: tuple[Any, ...]) -> None:
        """Put a dict on the stack. Python 2 wrote the items as an argument, Python 3 sets them afterwards."""
        (given,) = arguments or ([],)
        items = expect(given, list)
        # The memo can give the same list again and again.
        self.count(len(items))
        items = [expect(item, list, tuple) for item in items]
        self.stack.append({})
        self.update([part for key, value in items for part in (key, value)])


def _same(value: Any) -> Any:
    return value


Machine.PUSH = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), _same),
}
Machine.STEPS = {
    "PROTO": Machine.protocol,
    "MARK": Machine.mark,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "GLOBAL": Machine.name,
    "TUPLE": Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "SETITEM": Machine.setitem,
    "SETITEMS": Machine.setitems,
}


def top(stack: list[Any], count: int) -> list[Any]:
    """The top of a stack.

    Raises:
        IndexError: It is smaller.
    """
    if len(stack) < count:
        raise IndexError
    return stack[-count:]


def expect(value: Any, *kinds: type) -> Any:
    """The value, if it is of one of these kinds.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(value, kinds):
        raise TypeError
    return value


def _key(value: Any) -> str | int:
    """A key of a dict, quick to hash: not so tuples of tuples of ..., and large integers can all have one hash."""
    key: str | int = expect(value, str, int)
    if isinstance(key, str) or abs(key) < MAX_KEY:
        return key
    if abs(key) >= MAX_ADDRESS:
        raise TypeError
    return str(key)


def count_of(value: Any) -> int:
    """A size, or a place in a list.

    Raises:
        DamagedPickleError: It is negative, or larger than any memory.
    """
    number: int = expect(value, int)
    if not 0 <= number < 2**62:
        raise DamagedPickleError("it declares sizes that cannot be")
    return number
