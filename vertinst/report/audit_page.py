"""The audit on disk: its JSON, and beside it the page that a human reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from vertinst.files import write_json, write_text
from vertinst.progress import Progress, silent, track
from vertinst.report.audit_figures import FRAME, plot_distributions
from vertinst.report.audit_pictures import film_picture, instance_pictures
from vertinst.report.pages import template
from vertinst.report.palette import COLOURS
from vertinst.structures import Dataset
from vertinst.version import __version__

__all__ = ["SHOWN_INSTANCES", "write_audit"]

SHOWN_SKIPS = 500
SHOWN_INSTANCES = 60
SHOWN_PER_FILM = 4
SHOWN_FILMS = 200
SHOWN_GROUPS, PICTURED_GROUPS = 100, 8
SHOWN_CLASSES = 100
SHOWN_REASONS = 50
SHOWN_NAMES = 50


class InstanceCard(NamedTuple):
    """A suspicious instance on the page.

    Attributes:
        entry: As the audit has it.
        picture: Data URI, or None where the film cannot be shown.
    """

    entry: Mapping[str, Any]
    picture: str | None


class GroupCard(NamedTuple):
    """Films that are nearly the same picture, on the page.

    Attributes:
        entry: As the audit has it.
        pictures: Names and data URIs of its first two films; none for groups that are only listed.
    """

    entry: Mapping[str, Any]
    pictures: list[tuple[str, str | None]]


def write_audit(
    audit: Mapping[str, Any], dataset: Dataset, images: Path | None, out: Path, *, progress: Progress = silent
) -> Path:
    """Write an audit as JSON, and as a page beside it. Existing ones are replaced.

    Args:
        audit: From `vertinst.report.audit.audit`.
        dataset: The data set that it is about, whose outlines are drawn.
        images: Folder of the films; without it, or where a film cannot be read, the page has no picture of it.
        out: The JSON file, `….audit.json`; the page is `….audit.html`.
        progress: Told after each film that is shown.

    Returns:
        The page.

    Raises:
        VertinstError: One of them cannot be written.
    """
    page = out.with_suffix(".html")
    write_json(out, audit)
    filters = {"percent": _percent, "number": _number, "plural": _plural}
    write_text(page, template("audit.html.j2", filters).render(_contents(audit, dataset, images, out, progress)))
    return page


def _contents(
    audit: Mapping[str, Any], dataset: Dataset, images: Path | None, out: Path, progress: Progress
) -> dict[str, Any]:
    """Everything that the template shows, by the names that it uses."""
    suspicious = audit["suspicious"]
    folder = out.resolve().parent
    chosen = choose(suspicious["instances"], list(suspicious["rules"]["instances"]))
    return {
        # In the folder of a split the file's own name says nothing.
        "title": out.name.removesuffix(".json").removesuffix(".audit") if out.name != "audit.json" else folder.name,
        "json_name": out.name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "audit": audit,
        "reasons": _grouped(audit["skips"]),
        "skips": audit["skips"]["all"][:SHOWN_SKIPS],
        "several_files": len({skip["file"] for skip in audit["skips"]["all"]}) > 1,
        "cards": _cards(chosen, dataset, images, progress),
        "has_films": images is not None,
        "films": suspicious["films"][:SHOWN_FILMS],
        "groups": _groups(audit["near_identical"], images),
        "classes": sorted(audit["classes"], key=lambda entry: -entry["instances"])[:SHOWN_CLASSES],
        "without": audit["counts"]["without_annotations"][:SHOWN_NAMES],
        "not_compared": audit["distributions"]["overlap"]["films_not_compared"][:SHOWN_NAMES],
        "plots": plot_distributions(audit["distributions"]),
        "frame": FRAME,
        "colours": COLOURS,
    }


def choose(instances: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[Mapping[str, Any]]:
    """The instances to show: of each kind in turn, the gravest kinds and within them the strongest first.

    Where there are too many, a film of which `SHOWN_PER_FILM` were chosen waits until the others had their turn.

    Args:
        instances: As the audit lists them; each counts as of the gravest of its kinds.
        kinds: From the gravest.
    """
    lists: dict[str, list[tuple[float, Mapping[str, Any]]]] = {kind: [] for kind in kinds}
    for entry in instances:
        first = min(entry["reasons"], key=lambda reason: kinds.index(reason["kind"]))
        lists[first["kind"]].append((first["strength"], entry))
    ranked = [sorted(entries, key=lambda pair: -pair[0]) for entries in lists.values()]
    turns = [pair[1] for turn in zip_longest(*ranked) for pair in turn if pair is not None]
    taken: Counter[str] = Counter()
    chosen: list[Mapping[str, Any]] = []
    waiting: list[Mapping[str, Any]] = []
    for entry in turns:
        (chosen if taken[entry["image"]] < SHOWN_PER_FILM else waiting).append(entry)
        taken[entry["image"]] += 1
    return [*chosen, *waiting][:SHOWN_INSTANCES]


def _cards(
    chosen: Sequence[Mapping[str, Any]], dataset: Dataset, images: Path | None, progress: Progress
) -> list[InstanceCard]:
    """Pictures of the chosen ones; each film is read once."""
    pictures: dict[tuple[str, int], str | None] = {}
    if images is not None:
        records = {image.file_name: image for image in dataset.images}
        wanted: dict[str, list[int]] = {}
        for entry in chosen:
            wanted.setdefault(entry["image"], []).append(entry["annotation"])
        for name, numbers in track(wanted.items(), len(wanted), "drawing the audit", progress):
            drawn = instance_pictures(records[name], images, numbers)
            pictures |= {(name, number): uri for number, uri in zip(numbers, drawn, strict=True)}
    return [InstanceCard(entry, pictures.get((entry["image"], entry["annotation"]))) for entry in chosen]


def _groups(near: Mapping[str, Any] | None, images: Path | None) -> list[GroupCard]:
    groups = near["groups"][:SHOWN_GROUPS] if near else []
    return [
        GroupCard(
            group,
            [(name, film_picture(images, name)) for name in group["films"][:2]]
            if images is not None and number < PICTURED_GROUPS
            else [],
        )
        for number, group in enumerate(groups)
    ]


def _grouped(skips: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reasons, the rarest of very many as one."""
    reasons: list[dict[str, Any]] = skips["reasons"]
    if len(reasons) <= SHOWN_REASONS:
        return reasons
    rest = reasons[SHOWN_REASONS:]
    more = {"reason": f"{len(rest)} other reasons", "kept": None, "count": sum(entry["count"] for entry in rest)}
    return [*reasons[:SHOWN_REASONS], more]


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.3g} %"


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
