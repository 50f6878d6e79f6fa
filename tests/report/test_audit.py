import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vertinst import plugins
from vertinst.data.near_duplicates import NearPair
from vertinst.errors import VertinstError
from vertinst.report import audit_measures, audit_page
from vertinst.report.audit import audit, known_films
from vertinst.report.audit_films import film_files
from vertinst.report.audit_measures import histogram, measure, summary
from vertinst.report.audit_page import choose, write_audit
from vertinst.report.audit_suspects import robust_z
from vertinst.structures import Annotation, Dataset, ImageRecord, rle
from vertinst.structures.conversion import FilmFacts, ReadOptions, Skip
from vertinst.structures.dataset import CLASSES

SIZE = (200, 160)
HOSTILE = "<script>alert(1)</script>&\"'.png"
SECRET = "Mustermann"


def box(left, top, right, bottom, category="lumbar", level=None, size=SIZE, **more):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    attributes = {"level": level} if level else {}
    return Annotation(category, rle.encode(mask), attributes={**attributes, "note": SECRET}, **more)


def spine(levels=("L1", "L2", "L3", "L4", "L5"), left=50):
    return tuple(box(left, 10 + 35 * n, left + 50, 40 + 35 * n, level=name) for n, name in enumerate(levels))


def film(number, annotations=(), name=None, **more):
    return ImageRecord(number, name or f"{number:02}.png", SIZE[1], SIZE[0], annotations=annotations, **more)


def dataset(*films):
    return Dataset(CLASSES, films)


def kinds(entries):
    return [(entry["image"], entry["kind"]) for entry in entries]


def reasons(result):
    return {
        (entry["image"], entry["annotation"]): [r["kind"] for r in entry["reasons"]]
        for entry in result["suspicious"]["instances"]
    }


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.hidden = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden = tag == "style"
        self.text += " "

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        self.text += "" if self.hidden else data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(result, data, tmp_path, images=None, **more):
    page = write_audit(result, data, images, tmp_path / "coco.audit.json", **more)
    assert page == tmp_path / "coco.audit.html"
    text = page.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures take most of the time: they are drawn once, in `whole`, which is made before this."""
    monkeypatch.setattr(audit_page, "plot_distributions", lambda distributions: [])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with faults, its films, and all of its audit."""
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(0)
    names = [f"{n:02}.png" for n in range(1, 13)]
    names[1] = HOSTILE.replace("/", "")
    films = []
    for number, name in enumerate(names, start=1):
        Image.fromarray(rng.integers(0, 255, SIZE, dtype=np.uint8)).save(folder / name)
        shapes = [*spine(), box(100, 50, 110, 60, "screw")]
        if number == 2:
            shapes[0] = box(50, 10, 53, 12, level="L1")
        films.append(film(number, tuple(shapes), name, patient=f"{SECRET} {number % 4}"))
    films.append(film(13, (), "blank.png"))
    skips = (
        Skip("a.json", names[1], 3, "polygon must have at least three different points, got 1"),
        Skip("a.json", "03.png", 0, "polygon must have at least three different points, got 2"),
        Skip("a.json", "03.png", 5, "the same as region 4: both kept", repaired=True),
        Skip("b.json", "03.png", 6, "the same as region 7 of a <b>.json: left out"),
    )
    near = [NearPair("01.png", "03.png", 4), NearPair("03.png", "05.png", 6), NearPair("04.png", "08.png", 0)]
    sides = {"train": [*names[:8], "blank.png"], "val": names[8:]}
    sides["train"].remove("05.png")
    sides["val"].append("05.png")
    data = dataset(*films)
    result = audit(data, skips, near=near, sides=sides, images=folder, sources=["a.json", "b.json"])
    return folder, data, result


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    folder, data, result = made
    return page_of(result, data, tmp_path_factory.mktemp("page"), folder)


def test_counts(made):
    _, _, result = made
    counts = result["counts"]
    assert (counts["films"], counts["films_with_annotations"], counts["without_annotations"]) == (13, 12, ["blank.png"])
    assert (counts["patients"], counts["films_of_known_patient"]) == (4, 12)
    assert (counts["instances"], counts["ignored"]) == (72, 0)
    by_class = {entry["name"]: entry for entry in result["classes"]}
    assert list(by_class) == list(CLASSES)
    assert (by_class["lumbar"]["films"], by_class["lumbar"]["instances"]) == (12, 60)
    assert by_class["lumbar"]["width_px"]["median"] == 50
    assert by_class["lumbar"]["area_share"]["median"] == pytest.approx(50 * 30 / (200 * 160), rel=1e-3)
    assert by_class["cage"]["area_share"] is None
    assert result["levels"] == {"counts": {f"L{n}": 12 for n in range(1, 6)}, "none": 12, "other_text": 0}
    assert result["attention"] == {
        "skipped": 3,
        "changed": 1,
        "suspicious_instances": 1,
        "suspicious_films": 0,
        "near_identical": 3,
        "near_identical_across_sides": 1,
    }


def test_ignored_instances_are_counted_apart_and_not_judged():
    data = dataset(film(1, (box(10, 10, 12, 12, ignore=True), *spine())))
    result = audit(data, ())
    assert (result["counts"]["instances"], result["counts"]["ignored"]) == (5, 1)
    assert reasons(result) == {}
    assert measure(data).number.tolist() == [1, 2, 3, 4, 5]


def test_every_skip_is_there_and_reasons_are_grouped(made):
    _, _, result = made
    assert [(s["image"], s["region"], s["kept"]) for s in result["skips"]["all"]] == [
        (HOSTILE.replace("/", ""), 3, False),
        ("03.png", 0, False),
        ("03.png", 5, True),
        ("03.png", 6, False),
    ]
    assert [(entry["reason"], entry["kept"], entry["count"]) for entry in result["skips"]["reasons"]] == [
        ("polygon must have at least three different points, got …", False, 2),
        ("the same as region … of another file: left out", False, 1),
        ("the same as region …: both kept", True, 1),
    ]


def test_split_sides(made):
    _, _, result = made
    train, val = result["split"]["sides"]
    assert (train["films"], train["patients"], train["films_of_unknown_patient"]) == (8, 4, 1)
    assert (val["films"], val["films_share"]) == (5, round(5 / 13, 4))
    assert train["classes"]["lumbar"] == {"instances": 35, "share": round(35 / 60, 4)}
    assert result["split"]["patients_on_several_sides"] == 4
    assert result["split"]["films_on_no_side"] == 0


def test_near_identical_films_are_joined_and_patients_compared(made):
    _, _, result = made
    near = result["near_identical"]
    assert near["pairs"][0] == {"a": "01.png", "b": "03.png", "distance": 4}
    assert [(g["films"], g["sides"], g["one_patient"]) for g in near["groups"]] == [
        (["01.png", "03.png", "05.png"], ["train", "val"], False),
        (["04.png", "08.png"], ["train"], True),
    ]
    assert (near["across_sides"], near["across_patients"]) == (1, 1)


def test_what_was_not_looked_for_is_not_none_found():
    data = dataset(film(1, spine()))
    assert audit(data, ())["near_identical"] is None
    # Without films nothing was compared.
    assert audit(data, (), near=())["attention"]["near_identical"] is None


def test_nobody_is_named(made, whole):
    _, _, result = made
    assert SECRET not in json.dumps(result)
    assert SECRET not in whole[0]


def test_overlaps_are_those_of_the_masks():
    shapes = (box(0, 0, 10, 10), box(5, 0, 15, 10), box(0, 5, 10, 15, "cage"), box(100, 100, 120, 130), box(9, 9, 9, 9))
    measures = measure(dataset(film(1), film(2, shapes)))
    found = {
        tuple(pair): (iou, over)
        for pair, iou, over in zip(measures.pairs.tolist(), measures.iou, measures.over_smaller, strict=True)
    }
    assert found == {
        (0, 1): (pytest.approx(50 / 150), pytest.approx(0.5)),
        (0, 2): (pytest.approx(50 / 150), pytest.approx(0.5)),
        (1, 2): (pytest.approx(25 / 175), pytest.approx(0.25)),
    }
    assert measures.film.tolist() == [1] * 5
    result = audit(dataset(film(2, shapes)), ())["distributions"]["overlap"]
    assert (result["pairs"], sum(result["counts"]["same class"]), sum(result["counts"]["different classes"])) == (
        3,
        1,
        2,
    )


def test_films_with_very_many_objects_are_not_searched_for_overlaps(monkeypatch):
    monkeypatch.setattr(audit_measures, "MAX_OVERLAP_OBJECTS", 4)
    data = dataset(film(1, spine()), film(2, spine()[:2]))
    assert measure(data).not_compared == (0,)
    assert audit(data, ())["distributions"]["overlap"]["films_not_compared"] == ["01.png"]


def test_suspicious_instances():
    twin = box(50, 12, 100, 40, level="L1")
    odd = (
        (*spine()[1:], box(20, 20, 40, 22)),
        (*spine()[1:], box(10, 10, 10, 10)),
        (*spine(), twin),
        (*spine(), box(5, 60, 155, 190)),
        (*spine()[1:], box(60, 5, 66, 45)),
        (*spine()[1:], box(0, 5, 50, 30)),
    )
    usual = [film(n, spine()) for n in range(10, 16)]
    result = audit(dataset(*(film(n, shapes) for n, shapes in enumerate(odd, start=1)), *usual), ())
    found = reasons(result)
    assert found.pop(("01.png", 4))[0] == "tiny"
    assert found.pop(("02.png", 4)) == ["empty"]
    assert found.pop(("03.png", 5)) == ["overlap"]
    assert found.pop(("04.png", 5)) == ["area"]
    assert found.pop(("05.png", 4)) == ["area", "shape"]
    assert found.pop(("06.png", 4)) == ["edge"]
    # The vertebrae that the large one of the fourth film covers.
    assert {key[0] for key in found} == {"04.png"}
    texts = [r["text"] for e in result["suspicious"]["instances"] for r in e["reasons"] if e["image"] == "03.png"]
    assert texts == ["100% of it lie in lumbar number 0 of the film"]


def test_screws_may_lie_over_each_other_and_cut_vertebrae_be_small():
    pair = (box(20, 20, 60, 30, "screw"), box(22, 21, 62, 30, "screw"))
    cut = (box(50, 0, 100, 6), *spine(("L2", "L3", "L4", "L5")))
    result = audit(dataset(*(film(n, (*spine(), *pair)) for n in range(1, 12)), film(12, cut)), ())
    assert reasons(result) == {("12.png", 0): ["edge"]}


def test_few_instances_are_not_compared_with_their_median():
    values = np.log(np.array([1.0] * 8 + [50.0]))
    assert robust_z(values, 0.1)[0].tolist() == [0.0] * 9
    z, median = robust_z(np.append(values, 0.0), 0.1)
    assert median == 0
    assert z[8] == pytest.approx(0.6745 * np.log(50) / 0.1)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (("L1", "L2", "L3"), []),
        (("L3", "L2", "L1"), ["upside_down"]),
        (("L1", "L3", "L2"), ["level_order"]),
        (("L1", "L1", "L2"), ["repeated_level"]),
        (("L1", "L3", "L4"), ["missing_level"]),
        (("T12", "l 1", "LWK 2", "odd", "odd"), []),
        (("L5",), []),
        ((None, None), []),
    ],
)
def test_levels_along_the_spine(levels, expected):
    result = audit(dataset(film(1, spine(levels))), ())
    assert kinds(result["suspicious"]["films"]) == [("01.png", kind) for kind in expected]


def test_levels_of_metal_are_no_vertebrae_and_other_texts_are_not_shown():
    shapes = (*spine(("L1", "L2", SECRET)), box(100, 10, 120, 20, "screw", "L1"))
    result = audit(dataset(film(1, shapes)), ())
    assert result["suspicious"]["films"] == []
    assert result["levels"] == {"counts": {"L1": 2, "L2": 1}, "none": 0, "other_text": 1}
    assert SECRET.upper() not in json.dumps(result).upper()


def test_films_annotated_on_another_size():
    small = tuple(box(20 + n, 5 + 18 * n, 45 + n, 20 + 18 * n) for n in range(5))
    far = {"name": "polygon", "all_points_x": [10, 400, 400], "all_points_y": [10, 10, 50]}
    broken = {"name": "polygon", "all_points_x": ["a", 3], "all_points_y": None}
    large = (box(10, 10, 150, 50, outlines=(far, broken)), *spine()[1:])
    usual = [film(n, spine()) for n in range(3, 20)]
    result = audit(dataset(film(1, small), film(2, large), *usual), ())
    assert kinds(result["suspicious"]["films"]) == [("02.png", "outside"), ("01.png", "corner")]
    assert "x = 400, y = 50 on a film of 160 x 200 px" in result["suspicious"]["films"][0]["text"]


def test_films_with_an_unusual_number_of_objects():
    many = tuple(box(1 + n, 20, 3 + n, 60, "rod") for n in range(30))
    result = audit(dataset(film(1, (*spine(), *many)), *(film(n, spine()) for n in range(2, 14))), ())
    assert ("01.png", "objects") in kinds(result["suspicious"]["films"])


def test_nothing_at_all(tmp_path):
    result = audit(Dataset(()), ())
    assert result["counts"]["films"] == 0
    _, page = page_of(result, Dataset(()), tmp_path)
    assert "No region was left out, repaired or clipped." in page.text
    assert "There is no instance to measure." in page.text


def test_histograms_lose_nothing(made):
    _, _, result = made
    for name in ("area_share", "longer_side_px", "width_over_height"):
        entry = result["distributions"][name]
        assert {label: sum(counts) for label, counts in entry["counts"].items()} == {"lumbar": 60, "screw": 12}
        assert all(len(counts) == len(entry["edges"]) - 1 for counts in entry["counts"].values())
    assert sum(result["distributions"]["objects_per_film"]["counts"]["films"]) == 13
    assert histogram(np.array([-5.0, 0.5, 9.0]), np.array([0.0, 1.0, 2.0])) == [2, 1]
    assert summary(np.array([])) is None
    assert summary(np.arange(101.0))["p5"] == 5


def test_page_holds_everything_and_asks_nobody(whole):
    text, page = whole
    assert "http" not in re.sub(r"http-equiv", "", re.sub(r"data:[\w/+;]+;base64,[\w+/=]+", "", text))
    assert not re.search(r"url\(|@import", text)
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base", "b"), tag
        assert attrs.get("src", "data:").startswith("data:")
        assert attrs.get("srcset", "data:").startswith("data:")
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {a["href"][1:] for a in page.all("a")} <= anchors


def test_page_can_be_read_by_everyone(whole):
    text, page = whole
    assert page.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in page.all("img"))
    assert "prefers-color-scheme: dark" in text
    # All distributions but that of overlaps, of which there are none.
    drawings = page.all("svg")
    assert len(drawings) == 4
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)


def test_page_shows_each_skip_and_what_is_suspicious(whole):
    _, page = whole
    sections = [attrs["id"] for attrs in page.all("section")]
    assert sections == ["attention", "suspicious", "near", "counts", "distributions"]
    for words in (
        "polygon must have at least three different points, got 1",
        HOSTILE.replace("/", ""),
        "the same as region 7 of a <b>.json: left out",
        "3 x 2 px",
        "1 group on several sides of the split",
        "one film under two pseudonyms?",
        "Without annotation: blank.png",
    ):
        assert words in page.text, words
    pictures = [i for i in page.all("img") if i["src"].startswith("data:image/jpeg")]
    # One suspicious instance, and two films of each of two groups.
    assert len(pictures) == 5
    assert "outlined in yellow" in pictures[0]["alt"]


def test_page_without_films_is_complete(made, tmp_path):
    _, data, result = made
    _, page = page_of(result, data, tmp_path)
    assert "3 x 2 px" in page.text
    assert "Without the folder of the films there are no pictures." in page.text
    assert not [i for i in page.all("img") if i["src"].startswith("data:image/jpeg")]


def test_films_that_cannot_be_shown(made, tmp_path):
    _, data, result = made
    folder = tmp_path / "films"
    folder.mkdir()
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(folder / HOSTILE.replace("/", ""))
    (folder / "01.png").write_bytes(b"\x89PNG")
    steps = []
    _, page = page_of(result, data, tmp_path, folder, progress=lambda done, total, text: steps.append((done, total)))
    assert page.text.count("The film cannot be shown.") == 5
    assert steps == [(0, 1), (1, 1)]


def test_page_is_bounded_and_says_so(monkeypatch, tmp_path):
    for name in ("SHOWN_SKIPS", "SHOWN_INSTANCES", "SHOWN_FILMS", "SHOWN_GROUPS", "SHOWN_REASONS", "SHOWN_NAMES"):
        monkeypatch.setattr(audit_page, name, 3)
    monkeypatch.setattr(audit_page, "SHOWN_CLASSES", 2)
    films = [film(n, (box(0, 0, 9, 9, f"c{n}"), *spine(("L1", "L1", "L1"))), patient=str(n)) for n in range(1, 9)]
    films += [film(n) for n in range(10, 15)]
    data = Dataset(("lumbar", *(f"c{n}" for n in range(1, 9))), tuple(films))
    skips = [Skip("a.json", "01.png", n, f"reason {'x' * n}") for n in range(8)]
    near = [NearPair(f"{n:02}.png", f"{n + 1:02}.png", 1) for n in (1, 3, 5, 7)]
    result = audit(data, skips, near=near)
    assert len(result["skips"]["all"]) == 8
    assert len(result["suspicious"]["instances"]) == 8
    _, page = page_of(result, data, tmp_path)
    for words in (
        "the first 3 of 8, the others in coco.audit.json",
        "5 other reasons",
        "3 of 8, each kind in turn",
        "5 more findings are in coco.audit.json",
        "1 more groups are in coco.audit.json",
        "10.png, 11.png, 12.png and 2 more",
        "The 2 most frequent of 9 classes",
    ):
        assert words in " ".join(page.text.split()), words


def test_kinds_and_films_are_shown_in_turn(monkeypatch):
    def entry(image, number, kind, strength):
        reason = {"kind": kind, "text": "", "strength": strength}
        return {"image": image, "annotation": number, "reasons": [reason]}

    entries = [entry("a", n, "edge", n) for n in range(9)] + [entry("b", 0, "tiny", 1), entry("b", 1, "edge", 0)]
    shown = [(e["image"], e["annotation"]) for e in choose(entries, ["tiny", "edge"])]
    assert shown[:3] == [("b", 0), ("a", 8), ("a", 7)]
    assert shown[5:7] == [("b", 1), ("a", 4)]
    assert len(shown) == 11
    monkeypatch.setattr(audit_page, "SHOWN_INSTANCES", 4)
    assert len(choose(entries, ["tiny", "edge"])) == 4


def test_audit_is_valid_json_and_is_replaced(made, tmp_path):
    _, data, result = made
    page_of(result, data, tmp_path)
    page_of(result, data, tmp_path)
    read = json.loads((tmp_path / "coco.audit.json").read_text(encoding="utf-8"))
    assert read["schema_version"] == 1
    assert read == json.loads(json.dumps(result))
    (tmp_path / "file").write_text("")
    with pytest.raises(VertinstError, match="cannot be written"):
        write_audit(result, data, None, tmp_path / "file" / "x.audit.json")


def test_facts_of_films_come_back(made, tmp_path):
    folder, data, result = made
    page_of(result, data, tmp_path)
    known = known_films(tmp_path / "coco.audit.json")
    assert set(known) == {image.file_name for image in data.images} - {"blank.png"}
    status = (folder / "03.png").stat()
    assert known["03.png"] == FilmFacts(status.st_size, status.st_mtime_ns, 160, 200)
    # And converters believe them.
    forged = {"03.png": FilmFacts(status.st_size, status.st_mtime_ns, 1600, 2000, 6, (0.1, 0.2), "test")}
    facts = {entry["file_name"]: entry for entry in film_files(data, folder, forged)}
    assert (facts["03.png"]["width"], facts["03.png"]["orientation"]) == (1600, 6)
    stale = {"03.png": FilmFacts(status.st_size, 1, 1600, 2000)}
    assert {e["file_name"]: e["width"] for e in film_files(data, folder, stale)}["03.png"] == 160
    assert ReadOptions(known_films=known).known_films == known


FACTS = {
    "file_name": "a.png",
    "size_bytes": 5,
    "modified_ns": 6,
    "width": 7,
    "height": 8,
    "orientation": 1,
    "pixel_spacing_mm": [0.1, 0.2],
    "pixel_spacing_source": "PixelSpacing",
}


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": 3},
        {"size_bytes": "5"},
        {"modified_ns": True},
        {"modified_ns": None},
        {"width": 0},
        {"width": 10**12},
        {"height": -1},
        {"orientation": 9},
        {"orientation": 0},
        {"pixel_spacing_mm": None},
        {"pixel_spacing_source": None},
        {"pixel_spacing_source": "x" * 1000},
        {"pixel_spacing_mm": [0.1]},
        {"pixel_spacing_mm": [0.1, "0.2"]},
        {"pixel_spacing_mm": [0.1, -0.2]},
        {"pixel_spacing_mm": [0.1, 10**400]},
        {"pixel_spacing_mm": {"a": 1}},
    ],
)
def test_forged_facts_are_not_believed(change, tmp_path):
    path = tmp_path / "a.audit.json"
    path.write_text(json.dumps({"film_files": [FACTS, {**FACTS, "file_name": "b.png", **change}]}))
    assert known_films(path) == {"a.png": FilmFacts(5, 6, 7, 8, 1, (0.1, 0.2), "PixelSpacing")}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"film_files": {}}', '{"film_files": [1, null, []]}', "[" * 5000])
def test_broken_audits_know_nothing(content, tmp_path):
    path = tmp_path / "a.audit.json"
    assert known_films(path) == {}
    path.write_text(content)
    assert known_films(path) == {}
    assert known_films(tmp_path) == {}


def test_a_conversion_end_to_end(tmp_path):
    """A VIA file with faults: each of them is in the audit, by film and region."""
    Image.fromarray(np.random.default_rng(1).integers(0, 255, SIZE, dtype=np.uint8)).save(tmp_path / "a.png")

    def region(xs, ys, category="lumbar"):
        return {
            "shape_attributes": {"name": "polygon", "all_points_x": xs, "all_points_y": ys},
            "region_attributes": {"class": category, "level": "L4"},
        }

    regions = [
        region([20, 70, 70, 20], [20, 20, 50, 50]),
        region([20, 70, 20, 70], [60, 60, 90, 90]),
        region([5, 5, 5], [5, 5, 5]),
        region([500, 600, 600], [500, 500, 600]),
        region([100, 170, 170, 100], [100, 100, 140, 140]),
        region([1, 9, 9], [1, 1, 9], "vertebrra"),
    ]
    entry = {"filename": "a.png", "size": -1, "regions": regions, "file_attributes": {"patient": SECRET}}
    (tmp_path / "via.json").write_text(json.dumps({"a.png-1": entry}))
    data, skips = plugins.load("converters", "via").read([tmp_path / "via.json"], tmp_path)
    result = audit(data, skips, images=tmp_path)
    assert sorted((s["region"], s["kept"]) for s in result["skips"]["all"]) == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
        (5, False),
    ]
    assert result["counts"]["unread_regions"] == 3
    text, page = page_of(result, data, tmp_path, tmp_path)
    assert SECRET not in text
    assert "vertebrra" in page.text


def test_reasons_that_differ_in_names_stay_apart():
    skips = [
        Skip("a.json", "f.png", 1, f"unknown class '{name}'" if name else f"kept as {number} parts", repaired=not name)
        for number, name in enumerate(["T11", "T11", "T10", "", ""])
    ]
    reasons = audit(Dataset(("lumbar",), ()), skips)["skips"]["reasons"]
    assert [(entry["reason"], entry["count"]) for entry in reasons] == [
        ("unknown class 'T11'", 2), ("unknown class 'T10'", 1), ("kept as … parts", 2),
    ]  # fmt: skip
