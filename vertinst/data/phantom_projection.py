"""From solids in space to line integrals on the film."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import shapely
from numpy.random import Generator
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from vertinst.data.phantom_anatomy import Anatomy, Frame, rotation
from vertinst.data.phantom_solids import Points, Solid
from vertinst.data.phantom_style import PhantomStyle

_SUBPIXEL_BITS = 4
_FILLED_BORDER_PX = 0.65
"""How far OpenCV's anti-aliased filling reaches beyond a polygon, measured on squares and circles."""


@dataclass(frozen=True)
class View:
    """How a patient stands before the film.

    Attributes:
        size: (rows, columns) of the film in px.
        pixel_spacing_mm: Size of a pixel in the plane through the spine's middle, parallel to the film.
        centre_px: Where the origin of the patient (middle of S1's superior endplate) lies on the film, xy px.
        facing: `right` where the anterior side is the film's right, else `left`; always `right` on antero-posterior
            films, which show the patient's left on the right.
        pose: Turns the patient about the origin.
        focus_mm: Distance of the source from the spine's middle; infinity for parallel rays.
        focus_px: Film position, xy px, of the ray that meets the film at a right angle.
    """

    size: tuple[int, int]
    pixel_spacing_mm: float
    centre_px: tuple[float, float]
    facing: str
    pose: Frame
    focus_mm: float
    focus_px: tuple[float, float]

    def project(self, points: Points) -> Points:
        """Film positions (..., 2), xy px with 0, 0 at the outer corner of the first pixel, of points (..., 3) mm."""
        posed = self.pose.place(points)
        mirror = 1.0 if self.facing == "right" else -1.0
        flat = posed[..., :2] * np.array([mirror, 1.0]) / self.pixel_spacing_mm + np.array(self.centre_px)
        nearness = 1.0 if np.isinf(self.focus_mm) else self.focus_mm / (self.focus_mm + posed[..., 2:])
        projected: Points = np.array(self.focus_px) + (flat - np.array(self.focus_px)) * nearness
        return projected


def draw_view(rng: Generator, anatomy: Anatomy, style: PhantomStyle, *, room_mm: float | None = None) -> View:
    """Draw pose, zoom and position such that S1 is in view and T12 as well unless a close-up is drawn.

    Args:
        rng: Drawn from.
        anatomy: The patient.
        style: Size of the film, and the shares of close-ups and of parallel rays.
        room_mm: Least room in front of and behind the spine; None leaves it to chance.
    """
    rows, columns = style.height_px, style.width_px
    close = rng.random() < style.close_up_share
    facing = "right" if rng.random() < 0.5 else "left"
    pose = Frame(rotation(rng.normal(0, 3.0), rng.normal(0, 2.2), rng.normal(0, 1.8)), np.zeros(3))
    if anatomy.variant.view == "ap":
        facing, pose = "right", Frame(pose.rotation @ rotation(0.0, 90.0), pose.origin)
    parallel = rng.random() < style.parallel_share
    top, bottom = _spine_extent(anatomy, pose)
    span = (bottom[1] - top[1]) * (rng.uniform(0.82, 0.97) if close else rng.uniform(1.05, 1.32))
    spacing = span / rows
    if room_mm is not None:
        spacing = max(spacing, (bottom[0] - top[0] + 2 * room_mm) / columns)
    slack = max(0.0, rows - (bottom[1] - top[1]) / spacing)
    lowest = rows - (slack * rng.uniform(0.25, 0.8) if not close else rows * 0.03)
    middle = (top[0] + bottom[0]) / 2 + rng.normal(0, 9)
    mirror = 1.0 if facing == "right" else -1.0
    centre = (columns / 2 - mirror * middle / spacing, lowest - bottom[1] / spacing)
    aim = (columns * rng.uniform(0.42, 0.58), rows * rng.uniform(0.4, 0.62))
    focus = np.inf if parallel else float(rng.uniform(780, 1400))
    return View((rows, columns), float(spacing), centre, facing, pose, focus, aim)


def _spine_extent(anatomy: Anatomy, pose: Frame) -> tuple[Points, Points]:
    """Corners (x, y) mm of the box around the mid-sagittal corners of T12 to S2."""
    levels = (*reversed(anatomy.lumbar_levels), "S1", "S2")
    points = np.concatenate([pose.place(_corners_mm(anatomy, level)) for level in levels])[:, :2]
    return points.min(axis=0), points.max(axis=0)


def _corners_mm(anatomy: Anatomy, level: str) -> Points:
    vertebra = anatomy.vertebrae[level]
    return vertebra.frame.place(vertebra.shape.corners_mm())


def above_sacrum(rng: Generator, view: View, anatomy: Anatomy) -> View:
    """The same view with the beam centred higher, so that the film ends at or up to 6 mm above S1.

    It comes nearer where it would show more than the phantom has on top.
    """
    rows, columns = view.size
    lowest, highest = (view.project(_corners_mm(anatomy, level))[:, 1].min() for level in ("S1", "T9"))
    view = replace(view, pixel_spacing_mm=view.pixel_spacing_mm * min(1.0, 0.97 * float(lowest - highest) / rows))
    bottom = rows + (1.0 + rng.uniform(0, 6)) / view.pixel_spacing_mm
    lumbar = np.concatenate([_corners_mm(anatomy, level) for level in anatomy.lumbar_levels])
    shift = bottom - view.project(_corners_mm(anatomy, "S1"))[:, 1].min()
    aside = columns / 2 - view.project(lumbar)[:, 0].mean()
    return replace(view, centre_px=(float(view.centre_px[0] + aside), float(view.centre_px[1] + shift)))


def integrate(solids: Iterable[Solid], view: View) -> NDArray[np.float32]:
    """Line integrals of attenuation through solids, (H, W) float32, added up where they overlap."""
    total = np.zeros(view.size, np.float32)
    canvas = np.empty(view.size, np.uint8)
    for solid in solids:
        corners = _drawn_in(view.project(solid.slices) - 0.5)
        box = _box_inside(corners, view.size)
        if box is not None:
            _add_slices(total, canvas, corners, solid.integral, box)
    return total


def _drawn_in(outlines: Points) -> Points:
    """Outlines (S, V, 2) drawn in by what OpenCV's filling adds around a polygon, whose border it draws as well."""
    along = np.roll(outlines, -1, axis=1) - np.roll(outlines, 1, axis=1)
    length = np.sqrt(along[..., 0] ** 2 + along[..., 1] ** 2) + 1e-9
    following = np.roll(outlines, -1, axis=1)
    twice_area = (outlines[..., 0] * following[..., 1] - outlines[..., 1] * following[..., 0]).sum(axis=1)
    inward = np.stack([-along[..., 1], along[..., 0]], axis=-1) / length[..., None]
    moved: Points = outlines + _FILLED_BORDER_PX * np.sign(twice_area)[:, None, None] * inward
    return moved


def _box_inside(points: Points, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of the film that points (..., 2) span, as x0, y0, x1, y1, with a margin; None if outside."""
    low = np.floor(points.reshape(-1, 2).min(axis=0)).astype(int) - 1
    high = np.ceil(points.reshape(-1, 2).max(axis=0)).astype(int) + 2
    x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], size[1]), min(high[1], size[0])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _add_slices(
    total: NDArray[np.float32],
    canvas: NDArray[np.uint8],
    corners: Points,
    integral: float,
    box: tuple[int, int, int, int],
) -> None:
    """Count the slices over every pixel of a box and add their integral."""
    x0, y0, x1, y1 = box
    fixed = np.round((corners - (x0, y0)) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    mask = canvas.reshape(-1)[: (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0)
    covered = np.zeros(mask.shape, np.float32)
    for polygon in fixed:
        mask.fill(0)
        cv2.fillPoly(mask, [polygon], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.accumulate(mask, covered)
    total[y0:y1, x0:x1] += covered * np.float32(integral / 255)


def silhouette(slices: Points, view: View, tolerance_px: float) -> Polygon:
    """Outline of what slices cover on the film: the union of their projections, without holes, simplified.

    Args:
        slices: (S, V, 3) mm.
        view: The projection.
        tolerance_px: Furthest that a vertex left out may lie from the outline.
    """
    outlines = np.atleast_1d(np.asarray(shapely.polygons(view.project(slices)), dtype=object))
    crossed = ~shapely.is_valid(outlines)
    outlines[crossed] = shapely.buffer(outlines[crossed], 0)
    union = shapely.union_all(outlines)
    # Slices of a thin tube may fail to touch by a rounding error: they are one region all the same.
    if isinstance(union, MultiPolygon):
        union = union.buffer(0.75).buffer(-0.75)
    return largest_polygon(Polygon(largest_polygon(union).exterior).simplify(tolerance_px))


def largest_polygon(shape: BaseGeometry) -> Polygon:
    """The largest polygon of a geometry; an empty one if it has none."""
    parts = [part for part in getattr(shape, "geoms", [shape]) if isinstance(part, Polygon)]
    return max(parts, key=lambda part: part.area, default=Polygon())
