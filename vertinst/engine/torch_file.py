"""Weights files of torch (.pth, .pt), in its zip format and in the legacy format of before torch 1.6.

Such files are pickles, which can hold code, and come from strangers. What a file declares is checked against its size
first (`torch_pickle`); only then does torch read it, with `weights_only`.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vertinst.engine.torch_pickle import MAX_PICKLE_BYTES, DamagedPickleError, PickleRefusedError, TensorRecord, follow
from vertinst.errors import CheckpointError

__all__ = ["is_torch_file", "read_state_dict"]

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
# As torch writes them at the start of a legacy file (torch.serialization).
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
MAX_ENTRIES = 100_000
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.")
DAMAGED = "Copy or download it again."
PLAIN = "Only files that hold a state dict are read: torch.save(model.state_dict(), path)."


def is_torch_file(start: bytes) -> bool:
    """Whether a file is a zip or a pickle, whatever its name, by its first nine bytes."""
    # The length of a safetensors header can have these very bytes; but then the header starts in the ninth.
    return start.startswith((ZIP_START, PICKLE_START)) and start[8:] != b"{"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name; no code in the file is run.

    The state dict may lie in a dict under one of `WRAPPERS`, and all its names may start with one of `PREFIXES`, as
    data-parallel or compiled models write them; these are cut off.

    Raises:
        CheckpointError: Cut short, damaged, no weights file of torch, or with anything in it but tensors and plain
            values. No more memory than the file's size is taken to find out.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = _of_zip(file, size) if file.read(4) == ZIP_START else _of_legacy(file, size)
        except DamagedPickleError as error:
            raise CheckpointError(f"weights file is broken or cut short: {error}", where=path, fix=DAMAGED) from error
        except PickleRefusedError as error:
            raise CheckpointError(f"weights file is refused: {error}", where=path, fix=PLAIN) from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
            # What Python's zip reader raises on damaged files.
            raise CheckpointError("weights file is broken or cut short", where=path, fix=DAMAGED) from error
        way, records = _state_dict(content, path)
        file.seek(0)
        loaded = _load(file, path)
    for key in way:
        loaded = loaded[key]
    tensors = {name: tensor.detach() for name, tensor in dict.items(loaded)}
    if {n: tuple(t.shape) for n, t in tensors.items()} != {n: r.shape for n, r in records.items()}:
        raise CheckpointError("weights file reads in two ways", where=path, fix=DAMAGED)
    return _without_prefix(tensors)


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's reader has no family of errors, and whatever it stumbles over is the file's fault by now.
        raise CheckpointError("weights file is broken: torch cannot read it", where=path, fix=DAMAGED) from error


def _of_zip(file: BinaryIO, size: int) -> Any:
    """What the zip's list of tensors says, all storages being there in their full size."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, size)
        sizes = {entry.filename: entry.file_size for entry in entries}
        top = entries[0].filename.split("/")[0]
        if f"{top}/constants.pkl" in sizes or any(name.startswith(f"{top}/code/") for name in sizes):
            raise PickleRefusedError("it is a TorchScript program, not weights")
        if f"{top}/data.pkl" not in sizes:
            raise PickleRefusedError("it is a zip, but none that torch.save wrote")
        if sizes[f"{top}/data.pkl"] > MAX_PICKLE_BYTES:
            raise PickleRefusedError("its list of tensors is too long")
        content, storages = follow(io.BytesIO(archive.read(f"{top}/data.pkl")))
    for storage in storages.values():
        if sizes.get(f"{top}/data/{storage.key}") != storage.size_bytes:
            raise DamagedPickleError("what is stored has not the size that is declared")
    return content


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise PickleRefusedError(f"it must have 1 to {MAX_ENTRIES} entries, has {len(entries)}")
    if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        raise PickleRefusedError("its entries are compressed, which torch.save never does")
    if sum(e.file_size for e in entries) > size or any(e.header_offset + e.file_size > size for e in entries):
        raise DamagedPickleError("its entries are larger than the file")
    # Torch's zip reader does not tell capitals apart.
    if len({e.filename.lower() for e in entries}) < len(entries):
        raise DamagedPickleError("it has two entries of one name")
    if len({e.filename.split("/")[0] for e in entries}) > 1:
        raise PickleRefusedError("it is a zip, but none that torch.save wrote")


def _of_legacy(file: BinaryIO, size: int) -> Any:
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
        raise PickleRefusedError("it was written on a big-endian machine")
    content, storages = follow(stream)
    keys = follow(stream)[0]
    if not isinstance(keys, list) or set(map(type, keys)) - {str} or sorted(keys) != sorted(storages):
        raise DamagedPickleError("its list of storages is not that of its tensors")
    if stream.tell() + sum(8 + storage.size_bytes for storage in storages.values()) > size:
        raise DamagedPickleError(f"it has {size} bytes, fewer than its tensors need")
    return content


def _state_dict(content: Any, path: Path) -> tuple[list[str], dict[str, TensorRecord]]:
    """The state dict in what was saved, and the keys that lead to it."""
    way: list[str] = []
    while isinstance(content, dict) and not _holds_tensors(content) and len(way) < len(WRAPPERS):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        way.append(inner)
        content = content[inner]
    if not isinstance(content, dict) or not _holds_tensors(content):
        kind = "a tensor alone" if isinstance(content, TensorRecord) else f"a {type(content).__name__} without any"
        raise CheckpointError(f"weights must be tensors by name, got {kind}", where=path, fix=PLAIN)
    wrong = next((k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, TensorRecord))), None)
    if wrong is not None:
        raise CheckpointError(
            f"weights must be tensors by name, got {type(content[wrong]).__name__} for {ascii(wrong)[:80]}",
            where=path,
            fix=PLAIN,
        )
    return way, content


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, TensorRecord) for value in content.values())


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
