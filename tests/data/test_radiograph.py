"""Films from real files: depths, colours, orientations, and everything that can be wrong with a file."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from vertinst.data import radiograph
from vertinst.data.radiograph import find_films, read_film, read_size, window
from vertinst.errors import DataError


@pytest.fixture
def ramp() -> np.ndarray:
    """(30, 40) uint16, all values different, an L shape so that every turn shows."""
    pixels = (np.arange(1200).reshape(30, 40) * 50).astype(np.uint16)
    pixels[:5, :20] = 60000
    return pixels


def expected(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, [0.5, 99.5])
    return np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
def test_sixteen_bits_keep_their_depth(tmp_path: Path, ramp: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    cv2.imwrite(str(path), ramp)
    film = read_film(path)
    assert film.bits == 16
    assert film.pixels.dtype == np.float32
    assert film.image_size == (30, 40) == read_size(path)
    np.testing.assert_allclose(film.pixels, expected(ramp), atol=2e-3)
    assert len(np.unique(film.pixels)) > 1000


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_eight_bits(tmp_path: Path, ramp: np.ndarray, suffix: str) -> None:
    small = (ramp // 256).astype(np.uint8)
    Image.fromarray(small).save(tmp_path / f"film{suffix}")
    film = read_film(tmp_path / f"film{suffix}")
    assert film.bits == 8
    np.testing.assert_allclose(film.pixels, expected(small), atol=1e-2)


def test_jpeg_is_close(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(20, 230, 64, dtype=np.uint8), (48, 1))
    Image.fromarray(smooth).save(tmp_path / "film.jpg", quality=95)
    np.testing.assert_allclose(read_film(tmp_path / "film.jpg").pixels, expected(smooth), atol=0.03)


def test_sixteen_bit_colour_is_read_as_luma(tmp_path: Path, ramp: np.ndarray) -> None:
    colour = np.stack([ramp, ramp // 2, ramp // 4], axis=2)
    cv2.imwrite(str(tmp_path / "film.png"), np.ascontiguousarray(colour[:, :, ::-1]))
    film = read_film(tmp_path / "film.png")
    luma = colour.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert film.bits == 16
    np.testing.assert_allclose(film.pixels, expected(luma), atol=2e-3)


def test_grey_saved_as_colour_with_alpha_is_the_grey(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    alpha = np.full_like(grey, 7)
    Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, alpha]), mode="LA").save(tmp_path / "la.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    reference = read_film(tmp_path / "grey.png").pixels
    np.testing.assert_array_equal(read_film(tmp_path / "rgba.png").pixels, reference)
    np.testing.assert_array_equal(read_film(tmp_path / "la.png").pixels, reference)


def test_palette_and_one_bit_films(tmp_path: Path) -> None:
    shape = np.zeros((20, 30), dtype=np.uint8)
    shape[5:15, 8:20] = 255
    Image.fromarray(shape).convert("1").save(tmp_path / "one.png")
    Image.fromarray(shape).convert("P").save(tmp_path / "palette.png")
    for name in ("one.png", "palette.png"):
        np.testing.assert_array_equal(read_film(tmp_path / name).pixels, shape / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(tmp_path: Path, ramp: np.ndarray, orientation: int) -> None:
    image = Image.fromarray((ramp // 256).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "film.png", exif=exif)
    with Image.open(tmp_path / "film.png") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    film = read_film(tmp_path / "film.png")
    assert film.image_size == upright.shape == read_size(tmp_path / "film.png")
    np.testing.assert_allclose(film.pixels, expected(upright), atol=1e-2)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("kind", ["grey", "deep", "colour"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_the_same_film_as_a_turned_png(
    tmp_path: Path, ramp: np.ndarray, orientation: int, kind: str, compression: str | None
) -> None:
    eight = (ramp // 256).astype(np.uint8)
    stored = {"grey": eight, "deep": eight.astype(np.uint16) * 257, "colour": np.stack([eight] * 3, axis=-1)}[kind]
    Image.fromarray(stored).save(tmp_path / "film.tif", tiffinfo={274: orientation}, compression=compression)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(eight).save(tmp_path / "film.png", exif=exif)
    film, same = read_film(tmp_path / "film.tif"), read_film(tmp_path / "film.png")
    assert film.image_size == same.image_size == read_size(tmp_path / "film.tif") == read_size(tmp_path / "film.png")
    np.testing.assert_allclose(film.pixels, same.pixels, atol=1e-6)


def test_tiff_whose_zero_is_white_is_turned_around(tmp_path: Path, ramp: np.ndarray) -> None:
    Image.fromarray(ramp).save(tmp_path / "film.tif", tiffinfo={262: 0})
    np.testing.assert_allclose(read_film(tmp_path / "film.tif").pixels, expected(65535 - ramp), atol=2e-3)


def test_the_window_ignores_few_extreme_pixels() -> None:
    pixels = np.random.default_rng(0).integers(1000, 2000, (100, 100)).astype(np.uint16)
    pixels[0, :10] = 65535
    stretched, black, white = window(pixels)
    assert black >= 1000
    assert white <= 2000
    assert stretched.min() == 0
    assert stretched.max() == 1


@pytest.mark.parametrize("value", [0, 77, 65535])
def test_a_constant_film_is_black(value: int) -> None:
    stretched, black, white = window(np.full((5, 6), value, dtype=np.uint16))
    assert not stretched.any()
    assert black == white == value


def test_a_film_of_one_small_object_keeps_it() -> None:
    pixels = np.zeros((100, 100), dtype=np.uint16)
    pixels[50, 50:60] = 300
    assert window(pixels)[0].max() == 1


def test_broken_files_are_named(tmp_path: Path, ramp: np.ndarray) -> None:
    good = tmp_path / "good.png"
    cv2.imwrite(str(good), np.random.default_rng(0).integers(0, 65535, (200, 200), dtype=np.uint16))
    content = good.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a film")
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("cut.png", r"cut\.png: film is broken or cut short"),
        ("text.png", r"text\.png: is not an image"),
        ("empty.png", r"empty\.png: is not an image"),
        ("missing.png", r"missing\.png: no such film"),
        ("missing.dcm", r"missing\.dcm: no such film"),
    ):
        with pytest.raises(DataError, match=message):
            read_film(tmp_path / name)


def test_a_cut_jpeg_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "film.jpg")
    content = (tmp_path / "film.jpg").read_bytes()
    (tmp_path / "film.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="broken or cut short"):
        read_film(tmp_path / "film.jpg")


def test_size_is_checked_before_decoding(tmp_path: Path, ramp: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "film.png"), ramp)
    monkeypatch.setattr(radiograph, "MAX_PIXELS", 1199)
    monkeypatch.setattr(radiograph, "_decode", lambda path: pytest.fail("decoded"))
    with pytest.raises(DataError, match="at most 1199 pixels"):
        read_film(tmp_path / "film.png")


def test_a_header_that_promises_a_huge_film_is_refused(tmp_path: Path, ramp: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "film.png"), ramp)
    content = bytearray((tmp_path / "film.png").read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    # The header's check sum has to be right for the size to be believed.
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    (tmp_path / "film.png").write_bytes(bytes(content))
    with pytest.raises(DataError, match="must have at most"):
        read_film(tmp_path / "film.png")


def test_find_films(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.tif", "notes.txt", ".hidden.png", "scan"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = find_films([tmp_path])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["a.JPG", "b.png", "sub/c.tif"]
    assert find_films([tmp_path / "b.png", tmp_path, tmp_path / "scan"])[0] == tmp_path / "b.png"
    assert len(find_films([tmp_path / "b.png", tmp_path, tmp_path / "scan"])) == 4


def test_find_films_refuses_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no film found"):
        find_films([tmp_path])
    with pytest.raises(DataError, match=r"missing: no such file or folder"):
        find_films([tmp_path / "missing"])


def test_stored_tone_divides_by_the_largest_value_of_the_type(tmp_path: Path, ramp: np.ndarray) -> None:
    dark = ramp // 4
    cv2.imwrite(str(tmp_path / "deep.png"), dark)
    cv2.imwrite(str(tmp_path / "flat.png"), (dark // 256).astype(np.uint8))
    deep, flat = (read_film(tmp_path / name, tone="stored") for name in ("deep.png", "flat.png"))
    np.testing.assert_array_equal(deep.pixels, dark.astype(np.float32) / np.float32(65535))
    np.testing.assert_array_equal(flat.pixels, (dark // 256).astype(np.float32) / np.float32(255))
    assert (deep.black, deep.white, flat.black, flat.white) == (0, 65535, 0, 255)
    assert read_film(tmp_path / "deep.png").pixels.max() == 1


def test_stored_tone_of_colour_is_its_luma_turned_upright(tmp_path: Path) -> None:
    colour = np.zeros((20, 30, 3), dtype=np.uint8)
    colour[:10] = (200, 100, 50)
    exif = Image.Exif()
    exif[radiograph.EXIF_ORIENTATION] = 6
    Image.fromarray(colour).save(tmp_path / "film.png", exif=exif)
    film = read_film(tmp_path / "film.png", tone="stored")
    assert film.image_size == (30, 20)
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    np.testing.assert_array_equal(film.pixels[:, 10:], np.float32(luma) / np.float32(255))
    assert not film.pixels[:, :10].any()


def test_stored_tone_of_one_value_keeps_it(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((8, 9), 51, dtype=np.uint8))
    np.testing.assert_array_equal(read_film(tmp_path / "grey.png", tone="stored").pixels, np.float32(0.2))


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ((0.0, np.nan), "NaN or infinite values"),
        ((np.inf, 9.0), "NaN or infinite values"),
        ((-5.0, 9.0), "-5 to 9"),
        ((0.0, 70000.0), "0 to 70000"),
        ((0.0, 0.75), "fractions between 0 and 1"),
    ],
)
def test_floating_point_tiffs_that_would_lose_their_values_are_refused(
    tmp_path: Path, values: tuple[float, float], got: str
) -> None:
    Image.fromarray(np.tile(np.float32(values), (6, 4))).save(tmp_path / "film.tif")
    with pytest.raises(DataError, match=rf"film\.tif: grey values must be whole numbers 0\.\.65535, got {got}"):
        read_film(tmp_path / "film.tif")


def test_floating_point_tiffs_of_whole_numbers_are_read(tmp_path: Path, ramp: np.ndarray) -> None:
    # Half a grey value is rounded, not cut off.
    Image.fromarray(ramp.astype(np.float32) - np.float32(0.25) * (ramp > 0)).save(tmp_path / "film.tif")
    cv2.imwrite(str(tmp_path / "film.png"), ramp)
    wanted, got = (read_film(tmp_path / name, tone="stored").pixels for name in ("film.png", "film.tif"))
    np.testing.assert_array_equal(got, wanted)
