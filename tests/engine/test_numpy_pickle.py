"""Model-zoo files of numpy arrays: what is in comes out, whatever else they hold is refused, unrun and unread."""

import io
import pickle
import pickletools
import random
import resource
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vertinst.engine import pickle_machine
from vertinst.engine.numpy_pickle import is_numpy_pickle, read_arrays
from vertinst.engine.torch_file import START_BYTES, is_torch_file
from vertinst.errors import CheckpointError

PROTOCOLS = pytest.mark.parametrize("protocol", range(6))
# {'w': arange(3) as float32, 'é': True as an array} by Python 2.7 with numpy 1.16, in protocols 0, 1 and 2.
PYTHON_2 = (
    (
        b"(dp0\nS'\\xc3\\xa9'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nnda"
        b"rray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n(I1\n(tcnumpy\ndtype\np8\n(S'b1'\np9\nI0\nI1\n"
        b"tp10\nRp11\n(I3\nS'|'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\nS'\\x01'\np14\ntp15\nbsS'w'"
        b"\np16\ng2\n(g3\n(I0\ntp17\ng5\ntp18\nRp19\n(I1\n(I3\ntp20\ng8\n(S'f4'\np21\nI0\nI1\ntp2"
        b"2\nRp23\n(I3\nS'<'\np24\nNNNI-1\nI-1\nI0\ntp25\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00"
        b"\\x80?\\x00\\x00 \\xc0'\np26\ntp27\nbs."
    ),
    (
        b"}q\x01(U\x02\xc3\xa9q\x02cnumpy.core.multiarray\n_reconstruct\nq\x03(cnumpy\nndarray\nq\x04(K\x00t"
        b"U\x01btRq\x05(K\x01)cnumpy\ndtype\nq\x06(U\x02b1K\x00K\x01tRq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\nU\x01\x01t"
        b"bU\x01wh\x03(h\x04(K\x00tU\x01btRq\x08(K\x01(K\x03th\x06(U\x02f4K\x00K\x01tRq\t(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\nU"
        b"\x0c\x00\x00\x00\x00\x00\x00\x80?\x00\x00 \xc0tbu."
    ),
    (
        b"\x80\x02}q\x01(U\x02\xc3\xa9q\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01)cnumpy\ndtype\nq\x06U\x02b1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x01\x01tbU\x01w"
        b"h\x03h\x04K\x00\x85U\x01b\x87Rq\x08(K\x01K\x03\x85h\x06U\x02f4K\x00K\x01\x87Rq\t(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x0c\x00\x00\x00\x00\x00\x00\x80?\x00\x00"
        b" \xc0tbu."
    ),
)


def arrays() -> dict[str, Any]:
    """Arrays of all kinds that are read, in the layouts that files have."""
    draw = np.random.default_rng(0)
    plain = draw.normal(size=(3, 4)).astype("f4")
    kinds = {kind: np.arange(6).astype(kind).reshape(2, 3) for kind in ("f2", "f8", "i1", "i2", "i4", "i8", "u1", "b1")}
    return {
        **kinds,
        "plain": plain,
        "again": plain,
        "fortran": np.asfortranarray(draw.normal(size=(3, 4)).astype("f4")),
        "part": draw.normal(size=(6, 6)).astype("f4")[::2, 1:4],
        "none": np.zeros((0, 3), "f4"),
        "single": np.array(2.5, "f4"),
        "scalar": np.float32(1.25),
        "large": draw.normal(size=(300, 100)).astype("f4"),
    }


def check(path: Path, wanted: dict[str, Any]) -> None:
    found = read_arrays(path)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        tensor = torch.from_numpy(np.asarray(array).copy())
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)
        assert found[name].is_contiguous()


def refuse(path: Path, content: bytes, match: str) -> None:
    """The file is refused without memory being taken for what it declares."""
    path.write_bytes(content)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            read_arrays(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert caught.value.where == path
    assert caught.value.fix


@PROTOCOLS
@pytest.mark.parametrize(
    "wrap",
    [
        lambda arrays: arrays,
        lambda arrays: {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True},
        lambda arrays: {"model": OrderedDict(arrays), "__author__": "torchvision"},
        lambda arrays: {"blobs": {**arrays, "plain_momentum": arrays["plain"]}, "cfg": "MODEL: 1\n", "n": 10**30},
    ],
)
def test_what_was_written_is_read(tmp_path: Path, protocol: int, wrap: Callable[[Any], Any]) -> None:
    content = pickle.dumps(wrap(arrays()), protocol)
    (tmp_path / "weights.pkl").write_bytes(content)
    assert is_numpy_pickle(content[:START_BYTES])
    assert not is_torch_file(content[:START_BYTES])
    check(tmp_path / "weights.pkl", arrays())


@PROTOCOLS
def test_numpy_1_is_read_like_numpy_2(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"w": np.arange(3.0), "n": np.float32(2)}, protocol, fix_imports=True)
    older = content.replace(b"numpy._core.", b"numpy.core.")
    for module in (b"multiarray", b"numeric"):
        # In later protocols names have their length before them, and all that is in a frame.
        long, short = b"\x16numpy.core." + module, b"\x15numpy.core." + module
        older = older.replace(bytes([12 + len(module)]) + short[1:], bytes([11 + len(module)]) + long[1:])
    frame = older.find(b"\x95") if protocol >= 4 else -1
    if frame == 2:
        older = older[:3] + (len(older) - 11).to_bytes(8, "little") + older[11:]
    assert b"numpy.core" in older
    (tmp_path / "weights.pkl").write_bytes(older)
    check(tmp_path / "weights.pkl", {"w": np.arange(3.0), "n": np.float32(2)})


@pytest.mark.parametrize("content", PYTHON_2)
def test_files_of_python_2_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "R-50.pkl").write_bytes(content)
    found = read_arrays(tmp_path / "R-50.pkl")
    assert is_numpy_pickle(content[:START_BYTES])
    assert set(found) == {"w", "\xc3\xa9"}
    assert torch.equal(found["w"], torch.tensor([0.0, 1.0, -2.5]))
    assert found["\xc3\xa9"].tolist() is True


def test_names_of_one_array_share_its_memory(tmp_path: Path) -> None:
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(arrays()))
    found = read_arrays(tmp_path / "weights.pkl")
    assert found["plain"].data_ptr() == found["again"].data_ptr()


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@PROTOCOLS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"w": np.zeros(2), "x": Call(exec, "raise SystemExit")},
            r"asks for (__builtin__|builtins)\.exec, which is co",
        ),
        ({"w": np.zeros(2), "x": Call(bytearray, 10**13)}, r"asks for (__builtin__|builtins)\.bytearray"),
        ({"w": np.zeros(2), "x": Call(np.dtype, "f4", "O4")}, "list of tensors is damaged"),
        ({"w": np.zeros(2), "x": Call(zipfile.ZipInfo)}, r"asks for zipfile\.ZipInfo, which is code"),
        ({"w": np.zeros(2), "x": torch.zeros(2)}, r"asks for .*, which is code"),
        ({"w": np.zeros(2), "x": np.array([None])}, r"holds arrays of O8; read are b1.* and never objects"),
        ({"w": np.zeros(2), "x": np.zeros(2, "c8")}, r"holds arrays of c8"),
        ({"w": np.zeros(2), "x": np.zeros(2, "u2")}, r"holds arrays of u2"),
        ({"w": np.zeros(2), "x": np.zeros(2, "S5")}, r"holds arrays of S5"),
        ({"w": np.zeros(2), "x": np.zeros(2, [("a", "f4")])}, r"holds arrays of V4"),
        ({"w": np.zeros(2, ">f4")}, "are not little-endian"),
        ({"w": np.zeros((1,) * 20)}, "list of tensors is damaged"),
        (np.zeros(2), "must be tensors by name, got a tensor alone"),
        ([np.zeros(2)], "must be tensors by name, got a list without any"),
        ({"model": {"w": np.zeros(2), "epoch": 3}}, "must be tensors by name, got int for 'epoch'"),
        ({"w": np.zeros(2), 3: np.zeros(2)}, "must be tensors by name, got ArrayRecord for 3"),
    ],
)
def test_what_is_no_plain_array_is_refused(tmp_path: Path, protocol: int, content: Any, message: str) -> None:
    refuse(tmp_path / "weights.pkl", pickle.dumps(content, protocol), message)


def array(shape: bytes, data: bytes) -> bytes:
    """Instructions of protocol 2 that make an array of float32."""
    kind = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return made + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


def text(value: bytes) -> bytes:
    return b"T" + len(value).to_bytes(4, "little") + value


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        (b"K\x03\x85", text(bytes(8)), "an array has not the size that is declared"),
        (b"K\x01\x85", text(bytes(8)), "an array has not the size that is declared"),
        (b"J\xff\xff\xff\xff\x85", text(bytes(8)), "declares sizes that cannot be"),
        (b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", text(bytes(8)), "declares sizes that cannot be"),
        (b"(K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", text(b""), "declares sizes that cannot be"),
        (b"K\x02\x85", b"T\xff\xff\xff\x7f" + bytes(8), "list of tensors is damaged"),
        (b"K\x02\x85", b"B\xff\xff\xff\xff" + bytes(8), "list of tensors is damaged"),
        (b"K\x02\x85", b"\x8e" + b"\xff" * 7 + b"\x7f" + bytes(8), "list of tensors is damaged"),
        (b"K\x02\x85", b"X\x04\x00\x00\x00\xe2\x82\xac\x20", "broken or cut short"),
        (b"K\x02\x85", b"N", "list of tensors is damaged"),
        (b"N", text(bytes(8)), "list of tensors is damaged"),
    ],
)
def test_sizes_that_are_declared_are_checked_first(tmp_path: Path, shape: bytes, data: bytes, message: str) -> None:
    refuse(tmp_path / "weights.pkl", b"\x80\x02}U\x01w" + array(shape, data) + b"s.", message)


def test_the_same_array_by_hand_is_read(tmp_path: Path) -> None:
    values = np.array([1.0, 2.0], "f4")
    content = b"\x80\x02}U\x01w" + array(b"K\x02\x85", text(values.tobytes())) + b"s."
    (tmp_path / "weights.pkl").write_bytes(content)
    check(tmp_path / "weights.pkl", {"w": values})


def test_bytes_that_are_used_again_and_again_are_counted(tmp_path: Path) -> None:
    # 4 MB that are the elements of a thousand arrays, or a text that is encoded a thousand times.
    shape = b"J" + (1_000_000).to_bytes(4, "little") + b"\x85"
    elements = b"]B" + (4_000_000).to_bytes(4, "little") + bytes(4_000_000) + b"q\x01a"
    arrays = b"".join(b"M" + i.to_bytes(2, "little") + array(shape, b"h\x01") + b"s" for i in range(1000))
    latin = b"]X" + (4_000_000).to_bytes(4, "little") + bytes(4_000_000) + b"q\x01ac_codecs\nencode\nq\x020"
    encoded = b"".join(b"h\x02h\x01U\x06latin1\x86Ra" for _ in range(1000))
    for content, message in {
        elements + b"}" + arrays: "use the same bytes again and again",
        latin[:-1] + b"a]" + encoded: "encodes the same text again and again",
    }.items():
        refuse(tmp_path / "weights.pkl", b"\x80\x02" + content + b".", message)


def test_work_that_a_short_file_can_ask_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_STEPS", 20_000)
    alike = b"}(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 9))
    for content, message in {
        b"(" * 21_000: "its list of tensors is too long",
        b"}" * 21_000: "its list of tensors is too long",
        alike + b"u": "list of tensors is damaged",
        b")" + b"q\x00h\x00\x86" * 1000 + b"q\x01}h\x01Ns": "list of tensors is damaged",
        b"Np1000000000000000000000000\n": "list of tensors is damaged",
    }.items():
        refuse(tmp_path / "weights.pkl", b"\x80\x02" + content + b".", message)


def test_files_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"model": arrays()})
    for length in (2, 9, 100, len(content) // 2, len(content) - 1):
        refuse(tmp_path / "weights.pkl", content[:length], "broken or cut short")
    refuse(tmp_path / "weights.pkl", b"\x80\x06" + content[2:], "protocol 6, which is not read")


def test_flags_are_0_or_1_in_memory(tmp_path: Path) -> None:
    content = array(b"K\x04\x85", text(bytes([0, 1, 2, 255]))).replace(b"U\x02f4", b"U\x02b1")
    (tmp_path / "weights.pkl").write_bytes(b"\x80\x02}U\x01w" + content + b"s.")
    assert read_arrays(tmp_path / "weights.pkl")["w"].view(torch.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_no_damage_does_worse_than_be_refused(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"model": {n: a for n, a in arrays().items() if n != "large"}, "author": "x"}, protocol)
    draw = random.Random(protocol)
    path = tmp_path / "weights.pkl"
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        at = draw.randrange(len(content))
        how = draw.randrange(3)
        if how == 0:
            damaged[at] = draw.randrange(256)
        elif how == 1:
            del damaged[at : at + draw.randrange(1, 8)]
        else:
            damaged[at:at] = bytes(draw.choice([ord(code.code) for code in pickletools.opcodes]) for _ in range(3))
        path.write_bytes(damaged)
        try:
            read_arrays(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_files_are_told_apart_by_how_they_start() -> None:
    legacy, zipped = io.BytesIO(), io.BytesIO()
    for stream, new in ((legacy, False), (zipped, True)):
        torch.save({"w": torch.zeros(2)}, stream, _use_new_zipfile_serialization=new)
        assert is_torch_file(stream.getvalue()[:START_BYTES])
    # A safetensors header of 128 bytes, a web page, a text.
    for other in ((128).to_bytes(8, "little") + b"{", b"<!DOCTYPE html>", b"classes: 3", b"{}", b""):
        assert not is_numpy_pickle(other)
