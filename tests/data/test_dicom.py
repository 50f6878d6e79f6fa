"""DICOM films made here: every compression, every display rule, broken and hostile files, and no word of a patient."""

import io
import json
import logging
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.datadict import DicomDictionary, keyword_dict
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_rescale, apply_voi_lut
from pydicom.sequence import Sequence

from vertinst.data import dicom, radiograph
from vertinst.data.dicom import read_dicom
from vertinst.data.dicom_display import Display, Table, Window
from vertinst.data.dicom_streams import jpeg_2000_facts, jpeg_facts, unpack_rle
from vertinst.data.radiograph import find_films, read_film, read_header, read_size, window
from vertinst.errors import DataError

NAME = "Mustermann^Erika"


def picture(bits: int, shape: tuple[int, int] = (31, 42)) -> np.ndarray:
    """Smooth, with noise, using the whole range."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    wave = (np.sin(columns / 9) * np.cos(rows / 11) + 1) / 2 + np.random.default_rng(0).normal(0, 0.01, shape)
    grey = np.clip(wave, 0, 1) * (2**bits - 1)
    grey[0, :2] = 0, 2**bits - 1
    return np.rint(grey).astype(np.uint8 if bits == 8 else np.uint16)


def header(pixels: np.ndarray, bits: int, syntax: str = uid.ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3.4"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = pixels.dtype.itemsize * 8
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def save(path: Path, pixels: np.ndarray, bits: int, syntax: str = uid.ExplicitVRLittleEndian, **elements: Any) -> Path:
    made = header(pixels, bits, syntax, **elements)
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    content += b"\0" * (len(content) % 2)
    if order == ">" and pixels.dtype.itemsize == 1:
        # Bytes in words of 16 bits.
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    made.PixelData = content
    made["PixelData"].VR = "OW"
    made.save_as(path, enforce_file_format=True)
    return path


def save_compressed(path: Path, frame: bytes, made: Dataset) -> Path:
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.save_as(path, enforce_file_format=True)
    return path


def by_gdcm(source: Path, target: Path, syntax: int) -> Path:
    """The same film in another transfer syntax."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def frame_of(path: Path) -> bytes:
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    return get_frame(dcmread(path).PixelData, 0, number_of_frames=1)


def stretched(values: np.ndarray) -> np.ndarray:
    """What a film of these values looks like in the end, computed the plain way."""
    low, high = np.percentile(values.astype(np.float64), [0.5, 99.5], method="inverted_cdf")
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)


def assert_shows(path: Path, values: np.ndarray, tolerance: float = 1e-3) -> None:
    film = read_film(path)
    assert film.image_size == values.shape == read_size(path)
    assert film.pixels.dtype == np.float32
    np.testing.assert_allclose(film.pixels, stretched(values), atol=tolerance)


# Transfer syntaxes


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_uncompressed_films(tmp_path: Path, syntax: str, bits: int) -> None:
    pixels = picture(bits)
    path = save(tmp_path / "film.dcm", pixels, bits, syntax)
    assert_shows(path, pixels)
    assert read_film(path).bits == bits


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    "kind", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
)
def test_lossless_compressions_give_the_same_film(tmp_path: Path, kind: str, bits: int) -> None:
    plain = save(tmp_path / "plain.dcm", picture(bits), bits)
    packed = by_gdcm(plain, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, kind))
    np.testing.assert_array_equal(read_film(packed).pixels, read_film(plain).pixels)
    assert read_film(packed).bits == bits


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(
    "kind", ["JPEGLosslessProcess14_1", "JPEG2000Lossless", "RLELossless", "ExplicitVRLittleEndian"]
)
def test_signed_films(tmp_path: Path, kind: str, bits: int) -> None:
    pixels = (picture(bits).astype(np.int32) - 2 ** (bits - 1)).astype(np.int16)
    path = save(tmp_path / "plain.dcm", pixels, bits, RescaleSlope=2, RescaleIntercept=-7)
    if kind != "ExplicitVRLittleEndian":
        path = by_gdcm(path, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, kind))
    assert_shows(path, pixels)


@pytest.mark.parametrize("kind", ["JPEGLSNearLossless", "JPEG2000"])
def test_lossy_compressions_are_close(tmp_path: Path, kind: str) -> None:
    plain = save(tmp_path / "plain.dcm", picture(12), 12)
    packed = by_gdcm(plain, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, kind))
    assert_shows(packed, picture(12), 0.02)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_eight_bits(tmp_path: Path, syntax: str, progressive: bool) -> None:
    pixels, packed = picture(8), io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=98, progressive=progressive)
    path = save_compressed(tmp_path / "film.dcm", packed.getvalue(), header(pixels, 8, syntax))
    assert_shows(path, pixels, 0.03)


def test_jpeg_2000_of_a_foreign_encoder(tmp_path: Path) -> None:
    pixels, packed = picture(16), io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG2000", irreversible=False, no_jp2=False)
    path = save_compressed(tmp_path / "film.dcm", packed.getvalue(), header(pixels, 16, uid.JPEG2000Lossless))
    assert packed.getvalue().startswith(b"\0\0\0\x0cjP")
    assert_shows(path, pixels)


def test_a_frame_of_several_fragments(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.dcm", picture(12), 12)
    frame = frame_of(by_gdcm(plain, tmp_path / "packed.dcm", gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    made = header(picture(12), 12, uid.JPEGLosslessSV1)
    made.PixelData = encapsulate([frame], fragments_per_frame=3)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.save_as(tmp_path / "parts.dcm", enforce_file_format=True)
    assert_shows(tmp_path / "parts.dcm", picture(12))


def test_colour_films_are_read_as_luma(tmp_path: Path) -> None:
    red = picture(8)
    colour = np.stack([red, 255 - red, red // 3], axis=2)
    luma = np.rint(colour @ np.array([0.299, 0.587, 0.114]))
    plain = save(tmp_path / "film.dcm", colour, 8)
    assert_shows(plain, luma, 0.01)
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1))
    made = header(colour, 8, PlanarConfiguration=1)
    made.PixelData = planes.tobytes()
    made.save_as(tmp_path / "planes.dcm", enforce_file_format=True)
    assert_shows(tmp_path / "planes.dcm", luma, 0.01)
    packed = by_gdcm(plain, tmp_path / "rle.dcm", gdcm.TransferSyntax.RLELossless)
    assert_shows(packed, luma, 0.01)
    stream = io.BytesIO()
    Image.fromarray(colour).save(stream, "JPEG", quality=98, subsampling=0)
    made = header(colour, 8, uid.JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    assert_shows(save_compressed(tmp_path / "jpeg.dcm", stream.getvalue(), made), luma, 0.05)


# Which decoders


def test_only_permissive_decoders_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import base

    asked = []
    original = base.Decoder._validate_plugins

    def note(self: base.Decoder, plugin: str = "") -> Any:
        asked.append((self.UID, plugin))
        return original(self, plugin)

    monkeypatch.setattr(base.Decoder, "_validate_plugins", note)
    plain = save(tmp_path / "plain.dcm", picture(12), 12)
    for kind in ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"):
        read_film(by_gdcm(plain, tmp_path / f"{kind}.dcm", getattr(gdcm.TransferSyntax, kind)))
    assert [plugin for _, plugin in asked] == ["gdcm", "gdcm", "pillow"]


@pytest.mark.parametrize("syntax", [uid.JPEG2000MCLossless, uid.JPEG2000MC, "1.2.3.99", NAME])
def test_other_compressions_are_refused_by_name(tmp_path: Path, syntax: str) -> None:
    # pydicom would not write an unknown syntax: a known one of the same length is replaced in the file.
    made = save_compressed(tmp_path / "film.dcm", b"\0\0", header(picture(8), 8, uid.JPEGBaseline8Bit))
    known, other = uid.JPEGBaseline8Bit.encode(), syntax.encode().ljust(22, b"\0")[:22]
    made.write_bytes(made.read_bytes().replace(known, other, 1))
    name = uid.UID(syntax).name if syntax in uid.AllTransferSyntaxes else "of an unknown kind"
    refused(made, f"DICOM's compression is not read: {re.escape(name)}")


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import Decoder

    plain = save(tmp_path / "plain.dcm", picture(12), 12)
    packed = by_gdcm(plain, tmp_path / "packed.dcm", gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    monkeypatch.setattr(Decoder, "available_plugins", property(lambda self: ("pillow",)))
    refused(packed, r"no decoder is there for JPEG Lossless(.|\n)*python-gdcm")
    assert_shows(plain, picture(12))


# Display


def test_the_window_comes_before_the_inversion(tmp_path: Path) -> None:
    pixels = picture(12)
    elements = {"WindowCenter": 1500, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}
    path = save(tmp_path / "film.dcm", pixels, 12, PhotometricInterpretation="MONOCHROME1", **elements)
    shown = 1 / (1 + np.exp(-4 * (pixels - 1500.0) / 1000))
    assert_shows(path, 1 - shown)
    inverted_first = 1 / (1 + np.exp(-4 * (4095.0 - pixels - 1500) / 1000))
    assert np.abs(stretched(inverted_first) - stretched(1 - shown)).max() > 0.5


def test_stored_tone_is_what_a_viewer_shows(tmp_path: Path) -> None:
    pixels = picture(12)
    elements = {"WindowCenter": 1500, "WindowWidth": 3000, "VOILUTFunction": "LINEAR_EXACT"}
    path = save(tmp_path / "film.dcm", pixels, 12, PhotometricInterpretation="MONOCHROME1", **elements)
    film = read_film(path, tone="stored")
    np.testing.assert_allclose(film.pixels, 1 - np.clip(pixels / 3000, 0, 1), atol=2e-5)
    assert (film.bits, film.black, film.white) == (12, 0, 65535)


def test_stored_tone_of_colour_goes_by_its_bits(tmp_path: Path) -> None:
    colour = np.repeat(picture(12)[..., None], 3, axis=2)
    film = read_film(save(tmp_path / "film.dcm", colour, 12), tone="stored")
    np.testing.assert_allclose(film.pixels, colour[..., 0] / 4095, atol=1e-6)
    assert film.white == 4095


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [(1, 0), (0.5, -1024), (-2, 9000)])
def test_rescaling_and_window_as_in_pydicom(tmp_path: Path, function: str, rescale: tuple[float, float]) -> None:
    pixels = picture(12)
    elements: dict[str, Any] = {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1], "VOILUTFunction": function}
    values = pixels.astype(np.float64) * rescale[0] + rescale[1]
    elements |= {"WindowCenter": float(np.median(values)), "WindowWidth": float(np.ptp(values) / 2)}
    path = save(tmp_path / "film.dcm", pixels, 12, **elements)
    theirs = header(pixels, 12, **elements)
    rescaled = apply_rescale(pixels, theirs)
    # Told of a negative slope, pydicom would turn its output around as well.
    del theirs.RescaleSlope, theirs.RescaleIntercept
    assert_shows(path, apply_voi_lut(rescaled, theirs).astype(np.float64), 2e-3)


def lut(entries: np.ndarray, first: int, bits: int) -> Sequence:
    item = Dataset()
    item.add(DataElement("LUTDescriptor", "US", [len(entries) % 65536, first, bits]))
    item.add(DataElement("LUTData", "OW", entries.astype("<u2").tobytes()))
    item.LUTExplanation = NAME
    return Sequence([item])


@pytest.mark.parametrize("implicit", [False, True])
def test_tables_as_in_pydicom(tmp_path: Path, implicit: bool) -> None:
    pixels = picture(12)
    modality = (np.sqrt(np.arange(4096)) * 1000).astype(np.uint16)
    curve = (65535 / (1 + np.exp(-(np.arange(60000) - 30000) / 6000))).astype(np.uint16)
    elements = {"ModalityLUTSequence": lut(modality, 0, 16), "VOILUTSequence": lut(curve, 2000, 16)}
    syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    path = save(tmp_path / "film.dcm", pixels, 12, syntax, WindowCenter=5, WindowWidth=9, **elements)
    theirs = header(pixels, 12, **elements)
    assert_shows(path, apply_voi_lut(apply_rescale(pixels, theirs), theirs), 2e-3)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 90000, "WindowWidth": 10},
        {"WindowCenter": 2000, "WindowWidth": 1},
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": 10000000},
        {"WindowCenter": 2000, "WindowWidth": 400, "VOILUTFunction": "GAMMA"},
        {"WindowCenter": 2000},
        {},
    ],
)
def test_a_window_that_shows_nothing_is_passed_over(tmp_path: Path, elements: dict[str, Any]) -> None:
    pixels = picture(12)
    assert_shows(save(tmp_path / "film.dcm", pixels, 12, **elements), pixels)


def test_the_first_of_several_windows_counts(tmp_path: Path) -> None:
    pixels = picture(12)
    path = save(tmp_path / "film.dcm", pixels, 12, WindowCenter=[1000, 3000], WindowWidth=[1200, 200])
    assert_shows(path, np.clip(pixels.astype(float), 400, 1599))


def test_a_film_and_its_export_as_png_look_alike(tmp_path: Path) -> None:
    pixels = picture(12)
    path = save(tmp_path / "film.dcm", pixels, 12, WindowCenter=2000, WindowWidth=2400)
    export = np.rint(Window(2000, 2400).apply(pixels.astype(np.float64)) * 255).astype(np.uint8)
    Image.fromarray(export).save(tmp_path / "film.png")
    np.testing.assert_allclose(read_film(path).pixels, read_film(tmp_path / "film.png").pixels, atol=1 / 255)


def test_overlays_in_the_unused_bits_are_left_out(tmp_path: Path) -> None:
    pixels = picture(12)
    with_overlay = pixels.copy()
    with_overlay[5:20, 5:20] |= 0x8000
    assert_shows(save(tmp_path / "film.dcm", with_overlay, 12), pixels)
    assert_shows(save(tmp_path / "high.dcm", pixels << 4, 12, HighBit=15), pixels)


def test_padding_does_not_set_the_range(tmp_path: Path) -> None:
    pixels = picture(12)
    pixels[:, :10] = 4000
    padded = pixels.copy()
    padded[:, :10] = 65535
    path = save(tmp_path / "film.dcm", padded, 16, PixelPaddingValue=65535)
    shown = read_film(path).pixels[:, 10:]
    assert len(np.unique(shown)) > 300
    assert shown.max() > 0.95


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 16),
    is_signed=st.booleans(),
    slope=st.floats(0.01, 100),
    intercept=st.floats(-1e5, 1e5),
    seed=st.integers(0, 2**16),
)
def test_rescaling_alone_changes_nothing_and_inversion_turns_around(
    bits: int, is_signed: bool, slope: float, intercept: float, seed: int
) -> None:
    stored = np.random.default_rng(seed).integers(0, 2**bits, (9, 11)).astype(np.uint16)

    def shown(slope: float = 1, intercept: float = 0, *, inverted: bool = False) -> np.ndarray:
        return Display(bits, is_signed, slope, intercept).show(stored, inverted=inverted).astype(np.int64)

    plain = shown()
    assert np.abs(plain - shown(slope, intercept)).max() <= 1
    assert np.abs(65535 - plain - shown(-slope, intercept)).max() <= 1
    assert np.abs(65535 - plain - shown(inverted=True)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    center=st.floats(-5000, 5000),
    width=st.floats(1, 5000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_rise_from_black_to_white(center: float, width: float, function: str) -> None:
    values = np.linspace(-20000, 20000, 501)
    grey = Window(center, width, function).apply(values)
    assert (np.diff(grey) >= 0).all()
    assert 0 <= grey[0] < 0.01
    assert 0.99 < grey[-1] <= 1
    assert Window(center, width, function).apply(np.array([center]))[0] == pytest.approx(0.5, abs=1 / max(width - 1, 1))


def test_a_table_is_clipped_at_its_ends() -> None:
    table = Table(-2, np.array([0.0, 10.0, 20.0]), 20)
    np.testing.assert_array_equal(table.apply(np.array([-9.0, -2, -1, 0, 5])), [0, 0, 0.5, 1, 1])


# Spacing


@pytest.mark.parametrize(
    ("elements", "spacing", "source"),
    [
        (
            {"PixelSpacing": [0.2, 0.3], "PixelSpacingCalibrationType": "GEOMETRY", "ImagerPixelSpacing": [0.2, 0.3]},
            (0.2, 0.3),
            "PixelSpacing, calibrated: GEOMETRY",
        ),
        (
            {"PixelSpacing": [0.2, 0.3], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.2, 0.3),
            "PixelSpacing, calibrated: FIDUCIAL",
        ),
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.15, 0.15]}, (0.1, 0.1), "PixelSpacing, calibrated"),
        (
            {"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.15, 0.15]},
            (0.15, 0.15),
            "ImagerPixelSpacing, at the detector",
        ),
        (
            {"ImagerPixelSpacing": [0.15, 0.3], "EstimatedRadiographicMagnificationFactor": 1.5},
            (0.1, 0.2),
            "ImagerPixelSpacing with magnification",
        ),
        (
            {"ImagerPixelSpacing": [0.15, 0.15], "EstimatedRadiographicMagnificationFactor": 0},
            (0.15, 0.15),
            "ImagerPixelSpacing, at the detector",
        ),
        ({"PixelSpacing": [0.7, 0.7]}, (0.7, 0.7), "PixelSpacing"),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "NominalScannedPixelSpacing, on the film sheet"),
        ({"PixelSpacing": [0, 0]}, None, None),
        ({"PixelSpacing": [-0.1, 0.1]}, None, None),
        ({"PixelSpacing": [100, 100]}, None, None),
        ({"PixelSpacing": [0.1, 9]}, None, None),
        ({"ImagerPixelSpacing": 0.1}, None, None),
        ({}, None, None),
    ],
)
def test_spacing_names_its_source(
    tmp_path: Path, elements: dict[str, Any], spacing: tuple[float, float] | None, source: str | None
) -> None:
    found = read_header(save(tmp_path / "film.dcm", picture(8), 8, **elements))
    assert found.pixel_spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert found.pixel_spacing_source == source


@pytest.mark.parametrize(
    ("said", "view"), [("LL", "lateral"), ("RL", "lateral"), ("AP", "ap"), ("PA", "ap"), ("RLO", None), (None, None)]
)
def test_the_view_is_taken_from_the_header(tmp_path: Path, said: str | None, view: str | None) -> None:
    elements = {"ViewPosition": said} if said else {}
    assert read_header(save(tmp_path / "film.dcm", picture(8), 8, **elements)).view == view


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_resolution_of_other_formats_is_no_spacing(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(picture(8)).save(tmp_path / f"film{suffix}", dpi=(254, 254))
    assert read_header(tmp_path / f"film{suffix}").pixel_spacing_mm is None


def test_converters_take_the_spacing_where_annotators_gave_none(tmp_path: Path) -> None:
    from vertinst.converters import via

    save(tmp_path / "film.dcm", picture(8), 8, ImagerPixelSpacing=[0.2, 0.2], PatientID=NAME)
    shape = {"name": "rect", "x": 2, "y": 3, "width": 9, "height": 8}
    region = {"shape_attributes": shape, "region_attributes": {"Objekte": "lumbar"}}
    film = {"filename": "film.dcm", "size": -1, "regions": [region], "file_attributes": {}}
    for attributes, source in (
        ({}, "ImagerPixelSpacing, at the detector"),
        ({"pixel_spacing": "0.3"}, "pixel_spacing"),
    ):
        film["file_attributes"] = attributes
        (tmp_path / "via.json").write_text(json.dumps({"film.dcm-1": film}))
        dataset, _ = via.read([tmp_path / "via.json"], tmp_path)
        assert dataset.images[0].pixel_spacing_source == source
        assert dataset.images[0].patient is None


# Found by content


def test_dicom_is_known_by_content_and_by_suffix(tmp_path: Path) -> None:
    pixels = picture(12)
    content = save(tmp_path / "film.dcm", pixels, 12, uid.ImplicitVRLittleEndian).read_bytes()
    explicit = save(tmp_path / "explicit.dcm", pixels, 12).read_bytes()
    (tmp_path / "named.png").write_bytes(content)
    for name in ("IM0001", "1.2.840.10", "1.2.840.11"):
        (tmp_path / name).write_bytes(content)
    meta = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    (tmp_path / "bare.dcm").write_bytes(content[meta:])
    meta = 132 + 12 + struct.unpack_from("<L", explicit, 140)[0]
    (tmp_path / "bare_explicit.DCM").write_bytes(explicit[meta:])
    (tmp_path / "DICOMDIR").write_bytes(content)
    (tmp_path / "LIESMICH").write_text("no film")
    found = find_films([tmp_path])
    assert [p.name for p in found] == [
        "1.2.840.10", "1.2.840.11", "IM0001", "bare.dcm", "bare_explicit.DCM", "explicit.dcm", "film.dcm", "named.png",
    ]  # fmt: skip
    for path in found:
        assert_shows(path, pixels)


# Broken and hostile files


def refused(path: Path, message: str) -> DataError:
    with pytest.raises(DataError, match=message) as caught:
        read_film(path)
    assert NAME.split("^")[0] not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert caught.value.fix
    return caught.value


def test_several_frames_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "film.dcm", np.tile(picture(12), (2, 1)), 12, Rows=31, NumberOfFrames=2)
    refused(path, r"film\.dcm: DICOM must hold one frame, got several")
    path = save(tmp_path / "unsaid.dcm", np.tile(picture(12), (2, 1)), 12, Rows=31)
    refused(path, "got more pixels than that")
    assert_shows(save(tmp_path / "one.dcm", picture(12), 12, NumberOfFrames=1), picture(12))


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"grey values or colours \(MONOCHROME1"),
        ({"PhotometricInterpretation": "MUSTERMANN"}, "grey values or colours"),
        ({"SamplesPerPixel": 4}, "grey values or colours"),
        ({"BitsAllocated": 32}, "8 or 16 bits allocated to a value, got 32"),
        ({"BitsAllocated": 1}, "got 1"),
        ({"BitsStored": 17}, "within those allocated"),
        ({"HighBit": 3}, "within those allocated"),
        ({"Rows": 60000, "Columns": 60000}, "must have at most 400000000 pixels"),
        ({"Rows": 300}, "fewer pixels than rows and columns say"),
        ({"Rows": 0}, "it has no pixels"),
    ],
)
def test_pixels_of_other_kinds_are_refused(tmp_path: Path, elements: dict[str, Any], message: str) -> None:
    refused(save(tmp_path / "film.dcm", picture(12), 12, **elements), message)


def test_films_without_pixels_are_refused(tmp_path: Path) -> None:
    made = header(picture(12), 12, PatientName=NAME)
    made.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    refused(tmp_path / "film.dcm", "it has no pixels")
    made = Dataset()
    made.file_meta = header(picture(12), 12).file_meta
    made.PatientName = NAME
    made.save_as(tmp_path / "report.dcm", implicit_vr=False, little_endian=True)
    refused(tmp_path / "report.dcm", "it has no pixels")


def test_files_that_are_no_dicom_are_refused(tmp_path: Path) -> None:
    for name, content in (("empty.dcm", b""), ("text.dcm", b"not a film" * 99), ("mark.dcm", b"\0" * 128 + b"DICM")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "is not a DICOM film|broken or cut short")
    with pytest.raises(DataError, match="no such film"):
        read_film(tmp_path / "missing.dcm")


@pytest.mark.parametrize(
    "kind", ["plain", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"]
)
def test_cut_films_are_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "film.dcm", picture(12), 12, PatientName=NAME)
    if kind != "plain":
        path = by_gdcm(path, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, kind))
    content = path.read_bytes()
    for length in (140, 200, 300, len(content) // 2, len(content) - 100):
        (tmp_path / "cut.dcm").write_bytes(content[:length])
        refused(tmp_path / "cut.dcm", "broken|no pixels|not a DICOM")


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"])
def test_cut_frames_in_whole_files_are_refused(tmp_path: Path, kind: str) -> None:
    plain = save(tmp_path / "plain.dcm", picture(12), 12)
    packed = by_gdcm(plain, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, kind))
    made = header(picture(12), 12, uid.UID(str(gdcm.TransferSyntax.GetTSString(getattr(gdcm.TransferSyntax, kind)))))
    for share in (0.1, 0.5, 0.9):
        frame = frame_of(packed)
        save_compressed(tmp_path / "cut.dcm", frame[: int(len(frame) * share) // 2 * 2], made)
        refused(tmp_path / "cut.dcm", "broken")


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_a_frame_that_promises_another_size_meets_no_decoder(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = save(tmp_path / "plain.dcm", picture(12), 12)
    frame = frame_of(by_gdcm(plain, tmp_path / "packed.dcm", getattr(gdcm.TransferSyntax, kind)))
    is_2000 = kind == "JPEG2000Lossless"
    assert (jpeg_2000_facts if is_2000 else jpeg_facts)(frame)[:3] == (31, 42, 1)
    size, huge = (struct.pack(">2I", 42, 31), struct.pack(">2I", 2**31, 2**31)) if is_2000 else (
        struct.pack(">HH", 31, 42), b"\xff\xff\xff\xff")  # fmt: skip
    made = header(picture(12), 12, uid.UID(str(gdcm.TransferSyntax.GetTSString(getattr(gdcm.TransferSyntax, kind)))))
    save_compressed(tmp_path / "bomb.dcm", frame.replace(size, huge, 1), made)
    monkeypatch.setattr("vertinst.data.dicom_pixels._array", lambda *_, **__: pytest.fail("decoded"))
    refused(tmp_path / "bomb.dcm", "another size than its header states")


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = save(tmp_path / "film.dcm", picture(12), 12, uid.DeflatedExplicitVRLittleEndian)
    content = made.read_bytes()
    start = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    element = struct.pack("<HH2sxxL", 0x0011, 0x1010, b"OB", 2**28)
    packed = packer.compress(element) + b"".join(packer.compress(b"\0" * 2**20) for _ in range(256)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(content[:start] + packed)
    inflated = []
    original = dicom._inflate

    def measure(*arguments: Any) -> Any:
        inflated.append(original(*arguments))
        return inflated[-1]

    monkeypatch.setattr(dicom, "_inflate", measure)
    refused(tmp_path / "bomb.dcm", "no pixels|broken")
    assert sum(len(part.getvalue()) for part in inflated) <= 2**25


def test_a_large_deflated_film_is_inflated_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "_HEADER_BYTES", 1000)
    pixels = picture(12)
    assert_shows(save(tmp_path / "film.dcm", pixels, 12, uid.DeflatedExplicitVRLittleEndian), pixels)


def test_rle_that_would_unpack_to_more_is_cut_at_its_size() -> None:
    run = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x07" * 100_000
    assert unpack_rle(run, 10, 1) == [b"\x07" * 10]


def test_deep_sequences_do_not_end_the_program(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "film.dcm", picture(12), 12).read_bytes())
    start = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    opened = struct.pack("<HH2sxxL", 0x0009, 0x1010, b"SQ", 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    (tmp_path / "deep.dcm").write_bytes(bytes(content[:start]) + opened * 20_000)
    refused(tmp_path / "deep.dcm", "broken")


def test_a_length_beyond_the_end_takes_no_memory(tmp_path: Path) -> None:
    content = save(tmp_path / "film.dcm", picture(12), 12).read_bytes()
    start = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
    # A modality table of 4 GB in a file of 3 kB.
    element = struct.pack("<HH2sxxL", 0x0028, 0x3000, b"OB", 0xFFFFFFF0)
    (tmp_path / "long.dcm").write_bytes(content[:start] + element + content[start:])
    refused(tmp_path / "long.dcm", "broken|no pixels")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers_give_a_film_or_one_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "film.dcm"
    if not path.exists():
        save(path, picture(8), 8, PatientName=NAME, WindowCenter=100, WindowWidth=90, RescaleSlope=1)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(128, 700))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(bytes(content))
    try:
        film = read_film(damaged)
    except DataError as error:
        said = f"{error!r} {error.__context__!r}"
    else:
        said = repr(film.image_size)
        assert np.isfinite(film.pixels).all()
    assert "Mustermann" not in said


# Nothing of the patient


def texts_of(vr: str) -> Any:
    if vr in ("AE", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT", "AS"):
        return NAME.encode()
    return (NAME.encode() + b" ") * 1


def planted(pixels: bytes, skip: frozenset[int]) -> bytes:
    """A data set with the name in every element of the dictionary, raw, wherever a value can stand."""
    parts = []
    for tag, entry in sorted({**DicomDictionary, 0x7FE00010: ("OW",)}.items()):
        group, element = tag >> 16, tag & 0xFFFF
        if group < 8 or tag in skip or 0x7FE00000 < tag < 0x7FE00010 or tag > 0x7FE00010:
            continue
        value = pixels if tag == 0x7FE00010 else texts_of(str(entry[0]))
        parts.append(struct.pack("<HHL", group, element, len(value)) + value)
    return b"".join(parts)


def listen(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """All that reading the film says, wherever it says it."""
    spoken = []
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for read in (read_film, read_header):
            try:
                spoken.append(repr(read(path)))
            except DataError as error:
                spoken += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    return " ".join([*spoken, caplog.text, *(str(w.message) for w in caught)])


PIXEL_FACTS = frozenset(
    keyword_dict[k] for k in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
)


@pytest.mark.parametrize("debugging", [False, True])
@pytest.mark.parametrize("facts", [True, False])
def test_a_name_in_every_element_is_never_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], facts: bool, debugging: bool
) -> None:
    from pydicom import config

    pixels = picture(8, (30, 40))
    good = b""
    if facts:
        values = {"SamplesPerPixel": 1, "Rows": 30, "Columns": 40, "BitsAllocated": 8}
        good = b"".join(struct.pack("<HHLH", 0x28, keyword_dict[k] & 0xFFFF, 2, v) for k, v in values.items())
        good += struct.pack("<HHL", 0x28, 4, 12) + b"MONOCHROME2 "
    body = planted(pixels.tobytes(), PIXEL_FACTS if facts else frozenset())
    # The facts stand before all else: pydicom does not mind the order.
    (tmp_path / "film.dcm").write_bytes(struct.pack("<HHL", 8, 0x16, 4) + b"1.2\0" + good + body)
    was = config.debugging
    config.debug(debugging)
    try:
        said = listen(tmp_path / "film.dcm", caplog)
    finally:
        config.debug(was)
    streams = capfd.readouterr()
    assert "Mustermann" not in said + streams.out + streams.err
    if facts:
        assert read_film(tmp_path / "film.dcm").image_size == (30, 40)


def test_a_name_as_each_element_alone_is_never_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tags = [*dicom._TAGS, 0x00080005, 0x00100010, 0x00091010]
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        content = save(tmp_path / "film.dcm", picture(8, (30, 40)), 8, syntax).read_bytes()
        start = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
        for tag in tags:
            group, element = int(tag) >> 16, int(tag) & 0xFFFF
            for vr in (b"DS", b"CS", b"US", b"IS"):
                typed = struct.pack("<HH2sH", group, element, vr, 16)
                plain = struct.pack("<HHL", group, element, 16)
                begin = typed if syntax == uid.ExplicitVRLittleEndian else plain
                # Last wins in pydicom, so the planted one has to come after the true ones and before the pixels.
                at = content.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
                (tmp_path / "planted.dcm").write_bytes(content[:at] + begin + NAME.encode() + content[at:])
                said = listen(tmp_path / "planted.dcm", caplog)
                assert "Mustermann" not in said, (hex(tag), vr)
        (tmp_path / "planted.dcm").write_bytes(content[:start].replace(b"1.2.840.10008.1.2", NAME.encode() + b"1"))
        assert "Mustermann" not in listen(tmp_path / "planted.dcm", caplog)
    streams = capfd.readouterr()
    assert "Mustermann" not in streams.out + streams.err


def test_warnings_and_logs_of_others_are_heard_again_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_film(save(tmp_path / "film.dcm", picture(8), 8))
    logging.getLogger("pydicom").warning("heard")
    assert "heard" in caplog.text
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)


def test_values_are_as_stored_below_the_display(tmp_path: Path) -> None:
    pixels = picture(12)
    shown, bits = read_dicom(save(tmp_path / "film.dcm", pixels, 12))
    assert bits == 12
    np.testing.assert_array_equal(shown, np.rint(pixels / 4095 * 65535))
    np.testing.assert_array_equal(window(shown)[0], read_film(tmp_path / "film.dcm").pixels)


def test_other_films_above_pillows_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".png", ".jpg", ".tif"):
        Image.fromarray(picture(8)).save(tmp_path / f"film{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for suffix in (".png", ".jpg"):
        assert read_film(tmp_path / f"film{suffix}").image_size == (31, 42)
    with pytest.raises(DataError, match="too large for one strip"):
        read_film(tmp_path / "film.tif")
    monkeypatch.setattr(radiograph, "MAX_PIXELS", 31 * 42 - 1)
    for suffix in (".png", ".jpg", ".tif"):
        with pytest.raises(DataError, match="at most 1301 pixels"):
            read_film(tmp_path / f"film{suffix}")
