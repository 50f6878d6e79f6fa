"""How often a follow-up calls a change what is none, finds what is one, and notices shifted levels, on phantoms.

    OMP_NUM_THREADS=1 python benchmarks/follow_up.py --patients 60

Each patient has two films, taken from other places and, of half of the patients, at two dates with known changes. The
masks are perfect, with a stated scale unless `--without-scale` is given. Of patients without changes, every change that
exceeds its uncertainty is a false one: by the kind of measure, with the robust standard deviation between the films and
that of the outlines. Of the others, a change counts as found if any measure at its place exceeds its uncertainty. For
shifted levels, all names of the second film go up by one. No pixels are made.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import hypot, sqrt
from typing import Any

import numpy as np

from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.postprocess.follow_up import follow_up
from vertinst.postprocess.labelling import Anchor
from vertinst.postprocess.pipeline import build_spine, relabel
from vertinst.report.outlines import inner_point
from vertinst.structures import Disc, Instances, Scale, Spine, rle
from vertinst.structures.dataset import CLASSES
from vertinst.structures.spine import level_above

SEED = 11


def main() -> None:
    """Draw, measure, compare, count."""
    parser = argparse.ArgumentParser(description="Follow-up on phantoms with known changes.")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--without-scale", action="store_true")
    chosen = parser.parse_args()
    false: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    found: Counter[str] = Counter()
    there: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    sizes: dict[str, list[tuple[float, float]]] = {}
    for before, after, changes in _pairs(chosen.patients, chosen.seed, scaled=not chosen.without_scale):
        compared = follow_up(before, after)
        flags["pairs"] += 1
        flags["called shifted"] += compared.shift is not None
        moved = _shifted(after)
        if moved is not None:
            flags["shifted"] += 1
            flags["shifted and noticed"] += follow_up(before, moved).shift == -1
        if not changes:
            for name, change in compared.changes:
                kind = f"{_kind(name)} {change.name}"
                judged[kind] += change.beyond is not None
                false[kind] += bool(change.beyond)
                outlines = hypot(change.before.sd or 0.0, change.after.sd or 0.0) / sqrt(2)
                sizes.setdefault(kind, []).append((change.change / sqrt(2), outlines))
        marked = {name for name, change in compared.changes if change.beyond}
        for change in changes:
            there[change["kind"]] += 1
            found[change["kind"]] += any(_is_place(part, change) for part in marked)
    total, wrong = sum(judged.values()), sum(false.values())
    print(f"unchanged measures beyond their uncertainty: {wrong} of {total} ({wrong / max(total, 1):.1%})")
    for kind, count in sorted(judged.items()):
        between, outlines = (np.abs(np.array(sizes[kind])[:, column]) for column in (0, 1))
        told = f"SD between films {1.4826 * np.median(between):.3g}, of outlines {outlines.mean():.3g}"
        print(f"  {kind}: {false[kind]} of {count} ({false[kind] / max(count, 1):.0%}); {told}")
    print("changes found:", ", ".join(f"{kind} {found[kind]} of {count}" for kind, count in sorted(there.items())))
    print(", ".join(f"{name} {count}" for name, count in flags.items()))


def _kind(part: str) -> str:
    """What a part of the follow-up is: film, body, sacrum, disc, or a class of implants."""
    if part == "film" or " " in part:
        return part.split()[0]
    return "disc" if "/" in part else "sacrum" if part.startswith("S") else "body"


def _pairs(patients: int, seed: int, *, scaled: bool) -> Iterator[tuple[Spine, Spine, list[dict[str, Any]]]]:
    """Spines of two films, and what changed between them."""
    for number in range(1, patients + 1):
        style = PhantomStyle(films_per_patient=2, follow_up_share=float(number % 2))
        patient = draw_patient(seed, number, style)
        if patient.films < 2:
            continue
        spines, changes = [], []
        for film in (1, patient.films):
            regions, truth = film_regions(patient, seed, film, style)
            size = truth["height"], truth["width"]
            masks = [rle.polygons_to_rle([region.outline], size) for region in regions]
            kept = [n for n, mask in enumerate(masks) if rle.area(mask)]
            ids = [CLASSES.index(regions[n].category) + 1 for n in kept]
            instances = Instances.from_masks(size, [masks[n] for n in kept], ids, [1.0] * len(kept))
            spacing = truth["pixel_spacing_mm"]
            scale = Scale(spacing, spacing, "phantom") if scaled else None
            spines.append(build_spine(instances, CLASSES, scale=scale))
            changes = truth.get("changes") or []
        yield spines[0], spines[1], changes


def _shifted(spine: Spine) -> Spine | None:
    """The spine with every name one level higher, as a wrong count gives it, without its sacrum."""
    lumbar = [v for v in spine.vertebrae if v.category == "lumbar"]
    higher = level_above(lumbar[0].level) if lumbar else None
    if higher is None:
        return None
    bare = replace(spine, vertebrae=tuple(lumbar), naming=None)
    return relabel(bare, anchor=Anchor(higher, "at", inner_point(lumbar[0].mask)))


def _is_place(part: str, change: dict[str, Any]) -> bool:
    """Whether a part of the follow-up is where something changed."""
    if change["kind"] in ("narrowed", "slip"):
        return part == Disc(change["upper"], change["lower"]).name
    if change["kind"] == "fracture":
        return part == change["level"]
    metal = change["kind"].split("_")[0]
    levels = change.get("levels") or [change["level"]] if metal != "rod" else []
    return part.startswith(metal) and set(levels) <= set(part.removeprefix(metal).strip().split("-"))


if __name__ == "__main__":
    main()
