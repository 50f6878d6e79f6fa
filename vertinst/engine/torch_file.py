"""Weights files of torch (.pth, .pt), in its zip format and in the legacy format of before torch 1.6.

Such files are pickles, which can hold code, and come from strangers. They are never unpickled, and torch's own reader
is not asked either, not even with `weights_only`: it takes whatever memory a file asks for, and a zip can have two
tables of contents of which Python reads one and torch the other, so that what was checked is not what is loaded. Here
the tensors are made from what was checked (`torch_pickle`) and from nothing else.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias, TypeVar

import torch
from torch import Tensor

from vertinst.engine.pickle_machine import DamagedPickleError, PickleRefusedError
from vertinst.engine.torch_pickle import MAX_PICKLE_BYTES, Storage, TensorRecord, follow
from vertinst.errors import CheckpointError

__all__ = ["START_BYTES", "find_state_dict", "is_torch_file", "read_state_dict", "refused", "without_prefix"]

ZIP_START = b"PK\x03\x04"
# As torch writes them at the start of a legacy file (torch.serialization).
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
# What of a file tells its kind: later protocols put eleven bytes before the number.
START_BYTES = 23
MAX_ENTRIES = 100_000
# Of a zip's table of contents: torch writes about 80 bytes an entry.
MAX_TABLE_BYTES = 20_000_000
ZIP_END, ZIP64_END, ZIP64_LOCATOR = struct.Struct("<4s8xIIH"), struct.Struct("<4s36xQQ"), struct.Struct("<4s4xQ4x")
ENCRYPTED = 1
CHUNK_BYTES = 1 << 20
DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    # As bytes first: a bool must be 0 or 1 in memory, which a file does not promise.
    "BoolStorage": torch.uint8,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
# The last is Caffe2's.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "blobs")
PREFIXES = ("module.", "_orig_mod.")
MAX_PREFIXES = 4
LITTLE = b"little"
BIG_ENDIAN = "it was written on a big-endian machine"
DAMAGED = "Copy or download it again."
PLAIN = "Only files that hold a state dict, tensors by name, are read: torch.save(model.state_dict(), path)."

Record = TypeVar("Record")


def is_torch_file(start: bytes) -> bool:
    """Whether a file is a zip or a legacy file of torch, whatever its name, by its first `START_BYTES`."""
    # The length of a safetensors header can have a zip's very bytes; but then the header starts in the ninth.
    return (start.startswith(ZIP_START) and start[8:9] != b"{") or LEGACY_MAGIC.to_bytes(10, "little") in start


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name; no code in the file is run.

    The state dict may lie in a dict under one of `WRAPPERS`, and all its names may start with one of `PREFIXES`, as
    data-parallel or compiled models write them; these are cut off.

    Raises:
        CheckpointError: Cut short, damaged, no weights file of torch, or with anything in it but tensors and plain
            values. Finding out takes no memory for what a file
            declares, only for what is in it.
    """
    with path.open("rb") as file, refused(path):
        size = os.fstat(file.fileno()).st_size
        content, stored = _of_zip(file, size) if file.read(4) == ZIP_START else _of_legacy(file, size)
        return without_prefix(_tensors(find_state_dict(content, TensorRecord, path), stored))


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or hostile file ends in into one message.

    Raises:
        CheckpointError: Of all that.
    """
    try:
        yield
    except DamagedPickleError as error:
        raise CheckpointError(f"weights file is broken or cut short: {error}", where=path, fix=DAMAGED) from error
    except PickleRefusedError as error:
        raise CheckpointError(f"weights file is refused: {error}", where=path, fix=PLAIN) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error) as error:
        # What Python's zip reader raises on damaged files.
        raise CheckpointError("weights file is broken or cut short", where=path, fix=DAMAGED) from error


Stored: TypeAlias = Callable[[Storage], IO[bytes]]
"""Opens a file where a storage starts."""


def _tensors(records: Mapping[str, TensorRecord], stored: Stored) -> dict[str, Tensor]:
    """The tensors themselves; those that share a storage in the file share it in memory."""
    storages = {record.storage.key: record.storage for record in records.values()}
    memory = {key: _read(storage, stored(storage)) for key, storage in storages.items()}
    return {n: memory[r.storage.key].as_strided(r.shape, r.strides, r.first) for n, r in records.items()}


def _read(storage: Storage, source: IO[bytes]) -> Tensor:
    memory = torch.empty(storage.count, dtype=DTYPES[storage.kind])
    rest = memory.view(torch.uint8).numpy().data
    while rest:
        part = source.read(min(len(rest), CHUNK_BYTES))
        if not part:
            raise DamagedPickleError("it ends within a tensor")
        rest[: len(part)] = part
        rest = rest[len(part) :]
    return memory.ne(0) if storage.kind == "BoolStorage" else memory


def _of_zip(file: BinaryIO, size: int) -> tuple[Any, Stored]:
    """What the zip's list of tensors says, all storages being there in their full size."""
    _check_table(file, size)
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    _check_entries(archive.infolist(), size)
    top = next(iter(entries)).split("/")[0]
    if f"{top}/constants.pkl" in entries or any(name.startswith(f"{top}/code/") for name in entries):
        raise PickleRefusedError("it is a TorchScript program, not weights")
    if f"{top}/data.pkl" not in entries:
        raise PickleRefusedError("it is a zip, but none that torch.save wrote")
    if entries[f"{top}/data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise PickleRefusedError("its list of tensors is too long")
    order = entries.get(f"{top}/byteorder")
    if order and (order.file_size > len(LITTLE) or archive.read(order) != LITTLE):
        raise PickleRefusedError(BIG_ENDIAN)
    content, storages = follow(io.BytesIO(archive.read(f"{top}/data.pkl")))
    for storage in storages.values():
        entry = entries.get(f"{top}/data/{storage.key}")
        if entry is None or entry.file_size != storage.size_bytes:
            raise DamagedPickleError("what is stored has not the size that is declared")
    return content, lambda storage: archive.open(f"{top}/data/{storage.key}")


def _check_table(file: BinaryIO, size: int) -> None:
    """Refuse a table of contents that is too long, or that is not the only one a reader could find."""
    at = size - ZIP_END.size
    sign, length, first, comment = _unpack(file, ZIP_END, at)
    if sign != b"PK\x05\x06" or comment:
        raise DamagedPickleError("it does not end as a zip that torch.save wrote")
    if at >= ZIP64_LOCATOR.size:
        locator = at - ZIP64_LOCATOR.size
        sign, place = _unpack(file, ZIP64_LOCATOR, locator)
        if sign == b"PK\x06\x07":
            at = locator - ZIP64_END.size
            if place != at:
                raise DamagedPickleError("it has two tables of contents")
            _, length, first = _unpack(file, ZIP64_END, at)
    if first + length != at:
        raise DamagedPickleError("its table of contents is not where it says")
    if length > MAX_TABLE_BYTES:
        raise PickleRefusedError(f"its table of contents must have at most {MAX_TABLE_BYTES} bytes, has {length}")
    file.seek(0)


def _unpack(file: BinaryIO, form: struct.Struct, at: int) -> tuple[Any, ...]:
    file.seek(at)
    return form.unpack(file.read(form.size))


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise PickleRefusedError(f"it must have 1 to {MAX_ENTRIES} entries, has {len(entries)}")
    if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        raise PickleRefusedError("its entries are compressed, which torch.save never does")
    if any(e.flag_bits & ENCRYPTED for e in entries):
        raise PickleRefusedError("its entries are encrypted")
    if sum(e.file_size for e in entries) > size or any(e.header_offset + e.file_size > size for e in entries):
        raise DamagedPickleError("its entries are larger than the file")
    # Torch's zip reader does not tell capitals apart.
    if len({e.filename.lower() for e in entries}) < len(entries):
        raise DamagedPickleError("it has two entries of one name")
    if len({e.filename.split("/")[0] for e in entries}) > 1:
        raise PickleRefusedError("it is a zip, but none that torch.save wrote")


def _of_legacy(file: BinaryIO, size: int) -> tuple[Any, Stored]:
    """What a legacy file's list of tensors says, the file being long enough for all its storages.

    The file is five pickles: a magic number, a version, facts of the system, the content and the names of the
    storages; then each storage as its number of elements (int64) and its bytes.
    """
    file.seek(0)
    stream = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    if follow(stream)[0] != LEGACY_MAGIC:
        raise PickleRefusedError("it is a pickle, but none that torch.save wrote")
    if follow(stream)[0] != LEGACY_VERSION:
        raise PickleRefusedError("it has a legacy format of another version than torch's 1001")
    facts = follow(stream)[0]
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise PickleRefusedError(BIG_ENDIAN)
    content, storages = follow(stream)
    keys = follow(stream)[0]
    if not isinstance(keys, list) or set(map(type, keys)) - {str} or sorted(keys) != sorted(storages):
        raise DamagedPickleError("its list of storages is not that of its tensors")
    if stream.tell() + sum(8 + storage.size_bytes for storage in storages.values()) > size:
        raise DamagedPickleError(f"it has {size} bytes, fewer than its tensors need")
    places: dict[str, int] = {}
    end = stream.tell()
    for key in keys:
        places[key] = end
        end += 8 + storages[key].size_bytes

    def stored(storage: Storage) -> IO[bytes]:
        file.seek(places[storage.key])
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise DamagedPickleError("what is stored has not the size that is declared")
        return file

    return content, stored


def find_state_dict(content: Any, record: type[Record], path: Path) -> dict[str, Record]:
    """The tensors by name in what was saved, which may lie in dicts under `WRAPPERS`.

    Args:
        content: What the file holds.
        record: Stand-in for a tensor.
        path: The file, for messages.

    Raises:
        CheckpointError: There are none, or something else lies among them.
    """
    for _ in WRAPPERS:
        if not isinstance(content, dict) or _holds(content, record):
            break
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not _holds(content, record):
        kind = "a tensor alone" if isinstance(content, record) else f"a {type(content).__name__} without any"
        raise CheckpointError(f"weights must be tensors by name, got {kind}", where=path, fix=PLAIN)
    wrong = next((k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, record))), None)
    if wrong is not None:
        raise CheckpointError(
            f"weights must be tensors by name, got {type(content[wrong]).__name__} for {ascii(wrong)[:80]}",
            where=path,
            fix=PLAIN,
        )
    return content


def _holds(content: Mapping[Any, Any], record: type) -> bool:
    return any(isinstance(value, record) for value in content.values())


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with what all names start with cut off, if it is one of `PREFIXES`."""
    for _ in range(MAX_PREFIXES):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), "")
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
