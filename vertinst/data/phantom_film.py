"""From line integrals to a film: exposure, scatter, blur, noise, collimation, windowing and the side marker."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vertinst.data.phantom_style import PhantomStyle

Field = NDArray[np.float32]

_LEAST_TISSUE = 1.5
"""Line integral below which a pixel shows air or skin, which no window is set for."""


@dataclass(frozen=True)
class Exposure:
    """How one film is taken and shown.

    Attributes:
        scatter: Share of scattered radiation in all that reaches the film.
        photons: Quanta per pixel behind the median of the field.
        focus_blur_px: Blur of the picture before the noise.
        detector_blur_px: Blur after the noise.
        equalisation: Share of the coarse brightness differences taken away, 0 to 1.
        window: Percentiles of the patient within the field shown as black and as white.
        gamma: Exponent of the display curve; above 1 darkens.
        field_px: (4, 2) corners of the collimated field, xy px.
        marker: `L` or `R`.
        marker_px: Place of the marker's lower left corner, xy px.
        marker_scale: Height of the marker in units of 38 px.
    """

    scatter: float
    photons: float
    focus_blur_px: float
    detector_blur_px: float
    equalisation: float
    window: tuple[float, float]
    gamma: float
    field_px: NDArray[np.float64]
    marker: str
    marker_px: tuple[int, int]
    marker_scale: float


def draw_exposure(rng: Generator, size: tuple[int, int], facing: str, style: PhantomStyle) -> Exposure:
    """Draw how a film is taken.

    Args:
        rng: Drawn from.
        size: (rows, columns) of the film.
        facing: `left` or `right`, the patient's anterior side.
        style: Ranges of what is drawn.
    """
    field = _draw_field(rng, size)
    marker_scale = float(rng.uniform(0.9, 1.7) * size[0] / 1024)
    place = _draw_marker_place(rng, np.clip(field, 0, size[::-1]), marker_scale, facing)
    return Exposure(
        scatter=float(rng.uniform(*style.scatter)),
        photons=float(np.exp(rng.uniform(*np.log(style.photons)))),
        focus_blur_px=float(rng.uniform(*style.focus_blur_px)),
        detector_blur_px=float(rng.uniform(*style.detector_blur_px)),
        equalisation=float(rng.uniform(*style.equalisation)),
        window=(float(rng.uniform(1, 16)), float(rng.uniform(99.4, 99.95))),
        gamma=float(rng.uniform(*style.gamma)),
        field_px=field,
        marker=str(rng.choice(["L", "R"])),
        marker_px=place,
        marker_scale=marker_scale,
    )


def _draw_marker_place(rng: Generator, field: NDArray[np.float64], scale: float, facing: str) -> tuple[int, int]:
    """Lower left corner of a letter that lies whole in one corner of the field, in front of the patient's spine."""
    letter = np.array([32.0, 38.0]) * scale
    room = rng.uniform(12, 40, 2) * scale
    at_bottom = rng.integers(2)
    left, top = np.sort(field, axis=0)[1]
    right, bottom = np.sort(field, axis=0)[2]
    x = right - letter[0] - room[0] if facing == "right" else left + room[0]
    y = bottom - room[1] if at_bottom else top + letter[1] + room[1]
    return int(x), int(y)


def _draw_field(rng: Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """Corners of the collimated field: mostly narrow side borders, sometimes none, turned by a degree or less."""
    rows, columns = size
    share = rng.uniform(-0.02, 0.07, 4) * np.array([1.3, 1.3, 0.35, 0.35])
    left, right, top, bottom = np.maximum(share, -0.01)
    box = np.array([(left, top), (1 - right, top), (1 - right, 1 - bottom), (left, 1 - bottom)])
    angle = np.radians(rng.normal(0, 0.5))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned: NDArray[np.float64] = (box - 0.5) * (columns, rows) @ turn + np.array([columns, rows]) / 2
    return turned


def develop(rng: Generator, tissue_and_bone: Field, metal: Field, exposure: Exposure) -> Field:
    """Take and show a film of line integrals.

    Args:
        rng: Draws the noise.
        tissue_and_bone: (H, W) line integrals of what is not metal.
        metal: (H, W) line integrals of metal.
        exposure: How it is taken.

    Returns:
        (H, W) float32 in 0..1, dense matter bright.
    """
    size = metal.shape
    marker = _marker_integral(exposure, (size[0], size[1]))
    primary = cv2.GaussianBlur(cv2.exp(-(tissue_and_bone + metal + marker)), (0, 0), exposure.focus_blur_px)
    # Rays that pass beside the patient do not scatter, however bright they are.
    scattering = np.minimum(primary, np.float32(3 * np.median(primary[::4, ::4])))
    signal = primary + exposure.scatter / (1 - exposure.scatter) * _coarse_blur(scattering, size[0] / 14)
    density = _log_with_noise(rng, signal, exposure)
    field = _field_mask(exposure, (size[0], size[1]))
    inside = density[::4, ::4][field[::4, ::4] > 127]
    density -= exposure.equalisation * (_coarse_blur(density, size[0] / 16) - np.float32(inside.mean()))
    few = np.s_[::4, ::4]
    typical = (field[few] > 127) & (metal[few] < 0.1) & (tissue_and_bone[few] > _LEAST_TISSUE)
    low, high = np.percentile(density[few][typical], exposure.window)
    shown = np.clip((density - np.float32(low)) / np.float32(max(high - low, 0.05)), 0, 1)
    shown = cv2.pow(shown, exposure.gamma) * (field.astype(np.float32) / np.float32(255))
    return np.asarray(shown, np.float32)


def _log_with_noise(rng: Generator, signal: Field, exposure: Exposure) -> Field:
    """Attenuation as the detector sees it: quantum noise grows where little arrives."""
    quanta = np.float32(exposure.photons / max(float(np.median(signal[::4, ::4])), 1e-9))
    noisy = signal + np.sqrt(signal / quanta) * rng.standard_normal(signal.shape, dtype=np.float32)
    noisy = cv2.GaussianBlur(noisy, (0, 0), exposure.detector_blur_px)
    return np.asarray(-cv2.log(np.maximum(noisy, np.float32(0.02) * signal + np.float32(1e-7))), np.float32)


def _coarse_blur(image: Field, sigma_px: float) -> Field:
    """A wide Gaussian blur, computed on an eighth of the pixels along each side."""
    small = cv2.resize(image, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma_px / 8)
    return np.asarray(cv2.resize(blurred, image.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _field_mask(exposure: Exposure, size: tuple[int, int]) -> NDArray[np.uint8]:
    mask = np.zeros(size, np.uint8)
    corners = np.round(exposure.field_px * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.2), np.uint8)


def _marker_integral(exposure: Exposure, size: tuple[int, int]) -> Field:
    """Line integrals of a lead letter."""
    letter = np.zeros(size, np.uint8)
    scale = exposure.marker_scale
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(letter, exposure.marker, exposure.marker_px, font, 1.6 * scale, 255, max(1, round(4 * scale)))
    return letter.astype(np.float32) * np.float32(6.5 / 255)


def to_pixels(shown: Field, bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Grey values 0..1 as integers of 8 or 16 bits."""
    if bits == 8:
        return np.round(shown * 255).astype(np.uint8)
    return np.round(shown * 65535).astype(np.uint16)
