"""Torch's own weights files: what is in comes out, whatever else they hold is refused, unrun and before memory goes."""

import io
import pickle
import pickletools
import random
import resource
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vertinst.engine import pickle_machine
from vertinst.engine.torch_file import START_BYTES, is_torch_file, read_state_dict
from vertinst.errors import CheckpointError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def state() -> "OrderedDict[str, torch.Tensor]":
    """A state dict with all that ordinary ones have."""
    torch.manual_seed(0)
    shared = torch.randn(6, 4)
    tensors = OrderedDict(
        a=torch.randn(2, 3),
        turned=shared.t(),
        part=shared[2:4, 1:],
        parameter=torch.nn.Parameter(torch.randn(3)),
        count=torch.tensor(3),
        none=torch.zeros(0, 3),
        half=torch.randn(3).half(),
        bf16=torch.randn(3).bfloat16(),
        flags=torch.tensor([True, False]),
    )
    tensors._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return tensors


def saved(content: Any, *, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def legacy(content: bytes, keys: list[str], data: bytes = b"", magic: int = 0x1950A86A20F9469CFC6C) -> bytes:
    """A legacy file with a hand-made pickle as its content."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join([*(pickle.dumps(part, 2) for part in (magic, 1001, facts)), content, pickle.dumps(keys, 2), data])


def archive(content: bytes, data: bytes = b"", method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """A zip file as torch writes it, with a hand-made pickle as its content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, part in {
            "data.pkl": content,
            "byteorder": b"little",
            "data/0": data,
            "version": b"3",
            **more,
        }.items():
            file.writestr(f"archive/{name}", part)
    return stream.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def storage(count: int, key: str = "0", *, more: bytes = b"") -> bytes:
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + more + b"tQ"


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(count: int, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *, more: bytes = b"") -> bytes:
    """Instructions that make a state dict with one tensor."""
    body = storage(count, more=more) + number(first) + numbers(shape) + numbers(strides) + b"\x89N"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + body + b"tRs."


def refuse(path: Path, content: bytes, match: str) -> None:
    """The file is refused without memory being taken for what it declares."""
    path.write_bytes(content)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            read_state_dict(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert caught.value.where == path
    assert caught.value.fix


@FORMATS
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3, "args": {"lr": 0.1, "names": ["a", None]}},
        lambda tensors: {"model": {"state_dict": tensors}},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in tensors.items()}},
    ],
)
def test_what_was_saved_is_read(tmp_path: Path, zipped: bool, wrap: Callable[[Any], Any]) -> None:
    tensors = state()
    (tmp_path / "weights.pth").write_bytes(saved(wrap(tensors), zipped=zipped))
    found = read_state_dict(tmp_path / "weights.pth")
    assert list(found) == list(tensors)
    for name, wanted in tensors.items():
        assert type(found[name]) is torch.Tensor
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        # Parameters of torch 0.2 and 0.3, and of 0.1.
        (b"ctorch.nn.parameter\nParameter\n", b"\x85R(\x88\x89Ntb"),
        (b"ctorch.nn.parameter\nParameter\n)\x81(", b"NN\x88\x89tb"),
    ],
)
def test_tensors_as_the_oldest_versions_wrote_them(tmp_path: Path, before: bytes, after: bytes) -> None:
    body = b"ctorch._utils\n_rebuild_tensor\n(" + storage(6, more=b"N") + number(0) + numbers((2, 3)) + numbers((3, 1))
    content = b"\x80\x02}" + text("w") + before + body + b"tR" + after + b"s."
    values = torch.arange(6.0)
    (tmp_path / "old.pth").write_bytes(legacy(content, ["0"], struct.pack("<q", 6) + values.numpy().tobytes()))
    assert torch.equal(read_state_dict(tmp_path / "old.pth")["w"], values.reshape(2, 3))


def test_state_dicts_of_python_2(tmp_path: Path) -> None:
    short = b"U\x01w"
    body = (
        b"ctorch._utils\n_rebuild_tensor\n(" + storage(6, more=b"N") + number(0) + numbers((6,)) + numbers((1,)) + b"tR"
    )
    content = b"\x80\x02ccollections\nOrderedDict\n](](" + short + body + b"ee\x85R."
    values = torch.arange(6.0)
    (tmp_path / "old.pth").write_bytes(legacy(content, ["0"], struct.pack("<q", 6) + values.numpy().tobytes()))
    assert torch.equal(read_state_dict(tmp_path / "old.pth")["w"], values)
    refuse(tmp_path / "odd.pth", legacy(content.replace(short, b"U\x01wN"), ["0"]), "list of tensors is damaged")


def test_views_of_storages_are_read_and_kept_inside(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    data = struct.pack("<q", 6) + values.numpy().tobytes()
    view = b"(" + text("v") + number(2) + number(3) + b"t"
    (tmp_path / "view.pth").write_bytes(legacy(tensor(6, 0, (3,), (1,), more=view), ["0"], data))
    assert torch.equal(read_state_dict(tmp_path / "view.pth")["w"], values[2:5])
    refuse(tmp_path / "a.pth", legacy(tensor(6, 0, (4,), (1,), more=view), ["0"], data), "reach beyond what is stored")
    beyond = b"(" + text("v") + number(4) + number(3) + b"t"
    refuse(tmp_path / "b.pth", legacy(tensor(6, 0, (1,), (1,), more=beyond), ["0"], data), "reach beyond what is stor")


@FORMATS
@pytest.mark.parametrize(
    ("count", "first", "shape", "strides", "message"),
    [
        (10**12, 0, (2,), (1,), "fewer than its tensors need|has not the size"),
        (2**61, 0, (2,), (1,), "fewer than its tensors need|has not the size"),
        (2**70, 0, (2,), (1,), "declares sizes that cannot be"),
        (-4, 0, (2,), (1,), "declares sizes that cannot be"),
        (6, 0, (7,), (1,), "reach beyond what is stored"),
        (6, 0, (2,), (6,), "reach beyond what is stored"),
        (6, 5, (2,), (1,), "reach beyond what is stored"),
        (6, -1, (2,), (1,), "declares sizes that cannot be"),
        (6, 0, (2,), (-1,), "declares sizes that cannot be"),
        (6, 0, (10**6, 10**6), (0, 0), "reach beyond what is stored"),
        (6, 0, (1,) * 30, (1,) * 30, "list of tensors is damaged"),
        (6, 0, (2, 3), (1,), "list of tensors is damaged"),
    ],
)
def test_sizes_that_are_declared_are_checked_first(
    tmp_path: Path, zipped: bool, count: int, first: int, shape: tuple[int, ...], strides: tuple[int, ...], message: str
) -> None:
    data = torch.arange(6.0).numpy().tobytes()
    content = tensor(count, first, shape, strides, more=b"" if zipped else b"N")
    file = archive(content, data) if zipped else legacy(content, ["0"], struct.pack("<q", 6) + data)
    refuse(tmp_path / "weights.pth", file, message)


@FORMATS
def test_storages_that_no_tensor_keeps_are_counted(tmp_path: Path, zipped: bool) -> None:
    content = tensor(6, 0, (6,), (1,), more=b"" if zipped else b"N")[:-1]
    content += text("x") + storage(10**11, "1", more=b"" if zipped else b"N") + b"s" + text("x") + b"Ns."
    data = torch.arange(6.0).numpy().tobytes()
    file = archive(content, data) if zipped else legacy(content, ["0", "1"], struct.pack("<q", 6) + data)
    refuse(tmp_path / "weights.pth", file, "fewer than its tensors need|has not the size")


@FORMATS
def test_files_that_are_cut_short_are_refused(tmp_path: Path, zipped: bool) -> None:
    content = saved(state(), zipped=zipped)
    for length in (4, 9, 100, len(content) // 2, len(content) - 1):
        refuse(tmp_path / "weights.pth", content[:length], "broken or cut short")


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@FORMATS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"w": torch.zeros(2), "x": Call(exec, "raise SystemExit")},
            r"asks for (__builtin__|builtins)\.exec, which is co",
        ),
        ({"w": torch.zeros(2), "x": Call(bytearray, 10**13)}, r"asks for (__builtin__|builtins)\.bytearray"),
        ({"w": torch.zeros(2), "x": Call(OrderedDict, [], 3)}, "in a way that no state dict does"),
        ({"w": torch.zeros(2), "x": zipfile.ZipInfo()}, r"asks for zipfile\.ZipInfo, which is code"),
        ({"w": torch.zeros(2).to_sparse()}, "asks for torch.*, which is code"),
        (torch.zeros(2), "must be tensors by name, got a tensor alone"),
        ([torch.zeros(2)], "must be tensors by name, got a list without any"),
        ({"state_dict": {}, "epoch": 3}, "must be tensors by name, got a dict without any"),
        ({"w": torch.zeros(2), "epoch": 3}, "must be tensors by name, got int for 'epoch'"),
        ({"w": torch.zeros(2), 3: torch.zeros(2)}, "must be tensors by name, got TensorRecord for 3"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, zipped: bool, content: Any, message: str) -> None:
    refuse(tmp_path / "weights.pth", saved(content, zipped=zipped), message)


def test_whole_models_are_refused(tmp_path: Path) -> None:
    module = b"\x80\x02(" + text("module") + b"ctorch._utils\n_rebuild_tensor\n" + text("a.py") + text("code") + b"tQ."
    refuse(tmp_path / "weights.pth", legacy(module, []), "whole model with its code, which was not run")
    for zipped in (True, False):
        refuse(tmp_path / "weights.pth", saved(torch.nn.Linear(2, 2), zipped=zipped), "which is code and was not run")


def test_other_pickles_and_zips_are_refused(tmp_path: Path) -> None:
    plain = tensor(6, 0, (6,), (1,))
    data = bytes(24)
    for content, message in {
        pickle.dumps({"w": 1}, 2): "a pickle, but none that torch.save wrote",
        legacy(plain, [], magic=5): "a pickle, but none that torch.save wrote",
        pickle.dumps({"w": 1}, 4): "its pickle has protocol 4",
        legacy(plain, ["1"], data): "list of storages is not that of its tensors",
        archive(plain, bytes(20)): "has not the size that is declared",
        archive(plain, data, zipfile.ZIP_DEFLATED): "its entries are compressed, which torch.save never does",
        archive(plain, data, **{"DATA.PKL": plain}): "two entries of one name",
        archive(plain, data, **{"code/a.py": b""}): "a TorchScript program, not weights",
        archive(plain + bytes(4_000_000), data): "its list of tensors is too long",
        archive(plain, data).replace(b"data.pkl", b"data.txt"): "a zip, but none that torch.save wrote",
        archive(plain, data).replace(b"archive/version", b"another/version"): "a zip, but none that torch.save wrote",
    }.items():
        refuse(tmp_path / "weights.pth", content, message)


def test_hostile_pickles_end_soon(tmp_path: Path) -> None:
    nested = b"\x80\x02)" + b"\x85" * 200_000 + b"."
    doubling = b"\x80\x02)" + b"q\x00h\x00\x86" * 1000
    for content, message in {
        legacy(nested, []): "got a tuple without any",
        # The hash of a key that holds 2^1000 empty tuples would never be done.
        legacy(b"\x80\x02}" + doubling[2:] + b"Ns.", []): "list of tensors is damaged",
        legacy(b"\x80\x02Nr\xff\xff\xff\xff.", []): "got a NoneType without any",
        legacy(b"\x80\x02X\xff\xff\xff\x7fabc.", []): "list of tensors is damaged",
        legacy(b"\x80\x02" + b"c" + b"a" * 3_000_000, []): "broken or cut short",
    }.items():
        refuse(tmp_path / "weights.pth", content, message)


def test_work_that_a_short_file_can_ask_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_STEPS", 20_000)
    # One list from which dicts are made again and again; keys of one hash; nested lists and dicts of a byte each.
    one_list = b"(K\x01Ntq\x01]q\x00(" + b"h\x01" * 7_000 + b"e"
    dicts = b"ccollections\nOrderedDict\nq\x02" + one_list + b"h\x02h\x00\x85R" * 20
    alike = b"}(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 9))
    for content, message in {
        dicts: "its list of tensors is too long",
        alike + b"u": "list of tensors is damaged",
        b"(" * 21_000: "its list of tensors is too long",
        b"}" * 21_000: "its list of tensors is too long",
    }.items():
        refuse(tmp_path / "weights.pth", legacy(b"\x80\x02" + content + b".", []), message)
    name = "module." * 500
    content = tensor(6, 0, (6,), (1,)).replace(text("w"), text(name))
    (tmp_path / "long.pth").write_bytes(archive(content, bytes(24)))
    assert list(read_state_dict(tmp_path / "long.pth")) == [name.removeprefix("module." * 4)]


def end_of_zip(first: int, length: int, entries: int, at: int, place: int | None = None) -> bytes:
    """The end of a zip as torch writes it: with a second, larger form that is found through its `place`."""
    larger = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, length, first)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at if place is None else place, 1)
    return larger + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, entries, entries, length, first, 0)


def test_zips_with_two_tables_of_contents_are_refused(tmp_path: Path) -> None:
    # Torch reads the first zip of these two, Python the second.
    bomb = saved({"w": torch.zeros(6), "x": Call(bytearray, 10**13)}, zipped=True)
    stream = io.BytesIO(bomb)
    with zipfile.ZipFile(stream, "a") as file:
        first_entry = len(file.infolist())
        for name, part in {"data.pkl": tensor(6, 0, (6,), (1,)), "data/0": bytes(24)}.items():
            file.writestr(f"other/{name}", part)
        end, entries = file.fp.tell(), len(file.infolist())  # type: ignore[union-attr]
    content = stream.getvalue()
    table = content[end : content.rfind(b"PK\5\6")]
    own = table[table.rfind(b"PK\1\2", 0, table.rfind(b"PK\1\2")) :]
    at = end + len(own)
    for place, message in ((bomb.rfind(b"PK\6\6"), "two tables of contents"), (10**6, "two tables of contents")):
        file_end = end_of_zip(end, len(own), entries - first_entry, at, place)
        refuse(tmp_path / "weights.pth", content[:end] + own + file_end, message)
    (tmp_path / "same.pth").write_bytes(content[:end] + own + end_of_zip(end, len(own), entries - first_entry, at))
    assert read_state_dict(tmp_path / "same.pth")["w"].tolist() == [0.0] * 6


def test_unusual_zips_are_refused(tmp_path: Path) -> None:
    plain = archive(tensor(6, 0, (6,), (1,)), bytes(24))
    encrypted = bytearray(plain)
    encrypted[plain.find(b"PK\x03\x04") + 6] |= 1
    encrypted[plain.find(b"PK\x01\x02") + 8] |= 1
    damaged = plain.replace(bytes(24), bytes(23) + b"\x01")
    first = plain.find(b"PK\x01\x02")
    for content, message in {
        bytes(encrypted): "its entries are encrypted",
        damaged: "broken or cut short",
        plain[:-2] + struct.pack("<H", 22) + plain[-22:]: "table of contents is not where it says",
        plain + b"more": "does not end as a zip that torch.save wrote",
        plain[:4] + bytes(60) + plain: "table of contents is not where it says",
        plain[:first] + bytes(21_000_000) + end_of_zip(first, 21_000_000, 9, first + 21_000_000): "at most 20000000 by",
        plain.replace(b"little", b"LITTLE"): "broken or cut short",
    }.items():
        refuse(tmp_path / "weights.pth", content, message)
    with zipfile.ZipFile(tmp_path / "big.pth", "w") as file:
        for name, part in {"data.pkl": tensor(6, 0, (6,), (1,)), "byteorder": b"big", "data/0": bytes(24)}.items():
            file.writestr(f"archive/{name}", part)
    with pytest.raises(CheckpointError, match="written on a big-endian machine"):
        read_state_dict(tmp_path / "big.pth")


def test_the_legacy_file_says_each_storage_s_size_twice(tmp_path: Path) -> None:
    content = legacy(tensor(6, 0, (6,), (1,), more=b"N"), ["0"], struct.pack("<q", 5) + bytes(24))
    refuse(tmp_path / "weights.pth", content, "has not the size that is declared")


@FORMATS
@pytest.mark.parametrize(
    "odd",
    [
        lambda: torch.zeros(3).to(torch.float8_e4m3fn),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: torch.zeros(3, dtype=torch.uint16),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch._neg_view(torch.ones(3)),
        lambda: torch.ones(3, dtype=torch.complex64).conj(),
    ],
)
def test_unusual_tensors_are_refused(tmp_path: Path, zipped: bool, odd: Callable[[], torch.Tensor]) -> None:
    refuse(tmp_path / "weights.pth", saved({"w": odd()}, zipped=zipped), "is code and was not run|tensors is damaged")


def test_tensors_of_a_graphics_card_are_read(tmp_path: Path) -> None:
    content = saved({"w": torch.arange(3.0)}, zipped=False).replace(text("cpu"), text("cuda:0"))
    (tmp_path / "weights.pth").write_bytes(content)
    assert read_state_dict(tmp_path / "weights.pth")["w"].tolist() == [0.0, 1.0, 2.0]


def test_flags_are_0_or_1_in_memory(tmp_path: Path) -> None:
    content = tensor(4, 0, (4,), (1,)).replace(b"FloatStorage", b"BoolStorage")
    (tmp_path / "weights.pth").write_bytes(archive(content, bytes([0, 1, 2, 255])))
    found = read_state_dict(tmp_path / "weights.pth")["w"]
    assert found.view(torch.uint8).tolist() == [0, 1, 1, 1]


@FORMATS
def test_no_damage_does_worse_than_be_refused(tmp_path: Path, zipped: bool) -> None:
    content = saved({"model": state()}, zipped=zipped)
    draw = random.Random(0)
    path = tmp_path / "weights.pth"
    refused = 0
    for round_ in range(150):
        damaged = bytearray(content)
        # The list of tensors at the start, and a zip's table of contents at the end.
        at = draw.randrange(1500) - (len(content) < 1500 or round_ % 3 == 0) * 1500
        how = draw.randrange(3)
        if how == 0:
            damaged[at] = draw.randrange(256)
        elif how == 1:
            del damaged[at : at + draw.randrange(1, 8)]
        else:
            damaged[at:at] = bytes(draw.choice([ord(code.code) for code in pickletools.opcodes]) for _ in range(3))
        path.write_bytes(damaged)
        try:
            read_state_dict(path)
        except CheckpointError:
            refused += 1
    assert refused > 60


def test_files_are_told_apart_by_how_they_start() -> None:
    for content in (saved(state(), zipped=True), saved(state(), zipped=False)):
        assert is_torch_file(content[:START_BYTES])
    # A safetensors header of 640 bytes.
    assert not is_torch_file((640).to_bytes(8, "little") + b"{")
    assert not is_torch_file(b"")
