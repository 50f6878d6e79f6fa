import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from vertinst.engine.evaluate import evaluate, write_metrics
from vertinst.errors import DataError, VertinstError
from vertinst.report import gallery, results
from vertinst.report.figures import plot_curves, read_curves
from vertinst.report.html import write_report
from vertinst.report.scores import FilmScores, by_level, read_scores
from vertinst.report.sources import find_sources
from vertinst.structures import Annotation, Dataset, ImageRecord, Implant, Spine, Vertebra, rle

SIZE = (120, 90)
HOSTILE = "<script>alert(1)</script>&\"'.png"
CURVES = "epoch,step,lr,loss,loss_mask,val_mean_iou,seconds\n1,10,0.1,2.5,1.5,,3\n2,20,0.1,1.25,nan,0.8,6\n"


def part(top, score=0.9, left=20):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + 20, left : left + 40] = True
    encoded = rle.encode(mask)
    return {"score": score, "box": rle.box_xyxy(encoded), "mask": encoded}


def make_spine(levels=("S1", "L5", "L4")):
    vertebrae = [Vertebra(name, "lumbar", **part(90 - 28 * n)) for n, name in enumerate(levels)]
    return Spine(SIZE, tuple(vertebrae), (Implant("screw", **part(40, left=10)),), flags=("no_sacrum",))


def make_results(folder, names=("a.png", "ward/b.png"), **spines):
    for name in names:
        found = spines.get(name.split(".")[0], make_spine())
        results.write_film(folder, name, np.full(SIZE, 0.4, np.float32), found, {"model": "yolact", "precision": "32"})
    return folder


def make_metrics(folder, path):
    truth = tuple(
        Annotation("lumbar", part(90 - 28 * n)["mask"], attributes={"level": name})
        for n, name in enumerate(("S1", "L5", "L4"))
    )
    spines = results.read_folder(folder)
    images = tuple(ImageRecord(n, name, SIZE[1], SIZE[0], annotations=truth) for n, name in enumerate(spines, start=1))
    write_metrics(evaluate(Dataset(("lumbar", "cage"), images), spines), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A demo-like folder: run/, predictions/ and metrics.json."""
    folder = tmp_path_factory.mktemp("demo")
    wrong = make_spine(("S1", "L4", "L3"))
    make_results(folder / "predictions", ("a.png", "ward/b.png", HOSTILE.replace("/", "")), a=wrong)
    make_metrics(folder / "predictions", folder / "metrics.json")
    (folder / "run").mkdir()
    (folder / "run" / "curves.csv").write_text(CURVES)
    (folder / "run" / "config.yaml").write_text("model: yolact # </pre><b>bold</b>\n")
    return folder


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The report of `made`: its text, and the page."""
    return report(made, tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.hidden = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden = tag in ("style", "script")
        self.text += " "

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        self.text += "" if self.hidden else data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def report(source, tmp_path, **more):
    out = tmp_path / "report.html"
    write_report(source, out, **more)
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_report_holds_everything_and_asks_nobody(whole):
    text, page = whole
    assert "http" not in re.sub(r"http-equiv", "", re.sub(r"data:[\w/+;]+;base64,[\w+/=]+", "", text))
    assert not re.search(r"url\(|@import", text)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base"), tag
        assert attrs.get("src", "data:").startswith("data:")
        assert attrs.get("srcset", "data:").startswith("data:")
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    # One script, the package's own: browsers run it by its hash, and nothing else.
    assert page.all("script") == [{}]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}';" in policy
    assert "eval" not in script


def test_report_can_be_read_by_everyone(whole):
    text, page = whole
    assert page.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in page.all("img"))
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    links = {a["href"][1:] for a in page.all("a")}
    assert {"summary", "films", "table", "training", "how", "film-1"} <= links <= set(ids)
    assert {a.get("aria-labelledby") for _, a in page.tags} - {None} <= set(ids)


def test_report_says_the_numbers_and_the_errors(whole):
    _, page = whole
    text = " ".join(page.text.split())
    assert "Research software, not a medical device." in text
    for said in ("9 of 9 annotated", "7 of 9 with a level", "2 of 3", "L5 was called L4", "L4 was called L3"):
        assert said in text, said
    assert "cage n/a n/a 0 0 not annotated on these films" in text
    assert "screw n/a n/a 0 3 not annotated on these films: every prediction is false" in text
    assert "All vertebrae 9 1.000 0.0 px lumbar 9 1.000 0.0 px" in text
    assert "Contours within 0.0 px" in text
    assert "model yolact" in text
    assert "no sacrum" in text
    assert "Settings of the training run" in text
    assert "Losses by epoch" in text
    assert "Validation by epoch" in text
    assert "All films, the hardest first" in text
    assert page.all("article")[0]["data-film"] == "a.png"


def test_strangers_names_are_text_and_nothing_else(whole):
    text, page = whole
    assert text.count("<script") == 1
    assert "</pre><b>" not in text
    assert HOSTILE.replace("/", "") in page.text


def test_truth_is_drawn_over_the_overlay_and_can_be_switched_off(whole):
    text, page = whole
    assert [a["viewbox"] for a in page.all("svg") if a["class"] == "truth"] == ["0 0 90 120"] * 3
    assert len([a for a in page.all("path") if a.get("class") in ("under", "over")]) == 3 * 3 * 2
    assert page.all("input") == [{"type": "checkbox", "id": "show-truth", "checked": None}]
    assert "#show-truth:not(:checked)" in text


def test_the_three_layouts_give_the_same_films(made, whole, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    shutil.copytree(made / "run", run)
    shutil.copytree(made / "predictions", run / "val")
    shutil.copy(made / "metrics.json", run / "val")
    shutil.copytree(run / "val", alone)
    demo, of_run, of_results = whole[1], report(run, tmp_path)[1], report(alone, tmp_path)[1]
    for page in (of_run, of_results):
        assert [i["alt"] for i in page.all("img")][:6] == [i["alt"] for i in demo.all("img")][:6]
        assert "9 of 9 annotated" in page.text
    assert "Losses by epoch" in of_run.text
    assert "No training curves" in of_results.text


def test_sources_are_found_in_their_order(made, tmp_path):
    assert find_sources(made) == (
        made / "predictions",
        made / "metrics.json",
        made / "run" / "curves.csv",
        made / "run" / "config.yaml",
    )
    other = make_results(tmp_path / "other", ("c.png",))
    (other / "metrics.json").write_text("{}")
    assert find_sources(made, predictions=other)[:2] == (other, other / "metrics.json")
    assert find_sources(made, predictions=other, metrics=made / "metrics.json").metrics == made / "metrics.json"
    (tmp_path / "run" / "val").mkdir(parents=True)
    shutil.copytree(other, tmp_path / "run" / "val", dirs_exist_ok=True)
    assert find_sources(tmp_path / "run").results == tmp_path / "run" / "val"


def test_nothing_usable_is_said_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"got none of them[\s\S]*vertinst predict"):
        write_report(tmp_path, tmp_path / "r.html")
    with pytest.raises(DataError, match="must be an existing folder"):
        write_report(tmp_path / "missing", tmp_path / "r.html")
    with pytest.raises(DataError, match="must be a folder with labelled JSON files"):
        write_report(tmp_path, tmp_path / "r.html", predictions=tmp_path)
    with pytest.raises(DataError, match="no such file"):
        write_report(tmp_path, tmp_path / "r.html", metrics=tmp_path / "m.json")
    make_results(tmp_path / "predictions", ("a.png",))
    with pytest.raises(VertinstError, match="must be a file, got a folder"):
        write_report(tmp_path, tmp_path / "predictions")


def test_without_metrics_films_are_shown_and_the_command_is_named(tmp_path):
    make_results(tmp_path / "predictions")
    _, page = report(tmp_path, tmp_path)
    assert "vertinst evaluate --gt coco.json" in page.text
    assert "The first 2 of 2 films, by name" in page.text
    assert not [a for a in page.all("svg") if a["class"] == "truth"]
    assert not page.all("input")
    assert len(page.all("img")) == 4


def test_vertebrae_can_be_chosen_and_open_films_are_marked(tmp_path):
    make_results(tmp_path / "predictions", a=replace(make_spine(), flags=()))
    text, page = report(tmp_path, tmp_path)
    bones = [a for a in page.all("g") if a.get("class") == "bone"]
    assert [a["data-level"] for a in bones] == ["S1", "L5", "L4"] * 2
    assert (bones[0]["data-x"], bones[0]["data-y"]) == ("29.5", "99.5")
    assert {a["data-film"] for a in page.all("article")} == {"a.png", "ward/b.png"}
    assert len([a for a in page.all("span") if a.get("class") == "open"]) == 1
    assert "1 film needs an anchor" in page.text
    assert "vertinst measure predictions --anchors anchors.json --out relabelled" in page.text
    assert "possible_L6" not in text


def test_open_films_are_shown_though_neither_best_nor_worst(tmp_path):
    films = [results.FilmResult(tmp_path, f"{n:02}.png", Spine(SIZE), {}) for n in range(14)]
    films[13] = films[13]._replace(spine=make_spine())
    assert [(title, [f.file_name for f in group]) for title, group in gallery.choose(films, {})][1:] == [
        ("Other films that need an anchor", ["13.png"])
    ]


def test_without_vertebrae_there_is_no_script(tmp_path):
    make_results(tmp_path / "predictions", ("a.png",), a=Spine(SIZE))
    _, page = report(tmp_path, tmp_path)
    assert any("script-src 'none'" in a.get("content", "") for a in page.all("meta"))
    assert not page.all("script")


def test_curves_alone_make_a_report(tmp_path):
    (tmp_path / "curves.csv").write_text(CURVES)
    _, page = report(tmp_path, tmp_path)
    assert "No films" in page.text
    assert [i["alt"] for i in page.all("img")] == [
        "Losses by epoch: loss ends at 1.25; loss mask ends at 1.5.",
        "Validation by epoch: val mean IoU ends at 0.8.",
    ]


def test_missing_and_broken_pictures_are_said(tmp_path):
    make_results(tmp_path, ("a.png", "b.png"))
    results.film_paths(tmp_path, "a.png").film.unlink()
    results.film_paths(tmp_path, "b.png").overlay.write_bytes(b"no picture")
    _, page = report(tmp_path, tmp_path)
    assert "holds no copy of this film" in page.text
    assert "holds no overlay of this film" in page.text
    assert len(page.all("img")) == 2


def test_a_film_on_which_nothing_was_found(tmp_path):
    make_results(tmp_path, ("a.png",), a=Spine(SIZE))
    make_metrics(tmp_path, tmp_path / "metrics.json")
    _, page = report(tmp_path, tmp_path)
    assert "No vertebra was found." in page.text
    assert "L5 was missed" in page.text
    assert "0 of 3 annotated" in page.text


def test_pictures_are_made_small(tmp_path):
    size = (2400, 300)
    results.write_film(tmp_path, "a.png", np.random.default_rng(0).random(size, dtype=np.float32), Spine(size), {})
    film = results.read_films(tmp_path)[0]
    card = gallery.make_card(tmp_path, film, None)
    assert (card.width, card.height) == (300, 2400)
    assert card.overlay is not None
    assert len(card.overlay) < 200_000


def film_score(name, mean_iou, labelled=1):
    return FilmScores(file_name=name, mean_iou=mean_iou, labelled=labelled, labelled_rate=labelled / 2)


def test_best_and_worst_films_are_chosen(tmp_path):
    films = [results.FilmResult(tmp_path, f"{n:02}.png", Spine(SIZE), {}) for n in range(20)]
    scores = {film.file_name: film_score(film.file_name, n / 20) for n, film in enumerate(films)}
    (worst_title, worst), (best_title, best) = gallery.choose(films, scores)
    assert (worst_title, best_title) == ("The 6 hardest films", "The 6 best films")
    assert [f.file_name for f in worst] == [f"{n:02}.png" for n in range(6)]
    assert [f.file_name for f in best] == [f"{n:02}.png" for n in range(19, 13, -1)]
    [(_, every)] = gallery.choose(films[:12], scores)
    assert len(every) == 12
    tied = {"00.png": film_score("00.png", 0.5, 2), "01.png": film_score("01.png", 0.5, 0)}
    assert [f.file_name for f in gallery.choose(films[:2], tied)[0][1]] == ["01.png", "00.png"]
    assert gallery.choose([], {}) == []


def test_levels_are_counted_from_the_neck_down(made):
    assert by_level(read_scores(made / "metrics.json")) == [("L4", 3, 3, 2), ("L5", 3, 3, 2), ("S1", 3, 3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "the whole file"),
        ({"schema_version": 2}, "schema_version"),
        ({"summary": None}, "summary"),
        ({"images": [{"file_name": 3}]}, r"images\.0\.file_name"),
        ({"images": [{"file_name": "a", "mean_iou": 7}]}, r"images\.0\.mean_iou"),
        ({"images": [{"file_name": "a", "truth": [{"polygons": [[["x", 1]]]}]}]}, r"images\.0\.truth\.0\.polygons"),
        ({"images": [{"file_name": "a", "errors": [{"kind": "<b>"}]}]}, r"images\.0\.errors\.0\.kind"),
    ],
)
def test_a_strangers_metrics_are_refused_with_the_place(tmp_path, change, message):
    content = {"schema_version": 1, "summary": {}, "images": []}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(content | change if isinstance(change, dict) else change))
    with pytest.raises(DataError, match=rf"metrics\.json: must be a metrics\.json of vertinst; {message}"):
        read_scores(path)


def test_infinite_numbers_in_metrics_are_refused(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(
        '{"schema_version": 1, "summary": {}, "images": [{"file_name": "a", "truth": [{"polygons": [[[NaN, 1]]]}]}]}'
    )
    with pytest.raises(DataError, match="finite number"):
        read_scores(path)


def test_curves_are_read_with_their_gaps(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text(CURVES)
    curves = read_curves(path)
    assert curves.losses == {"loss": ([1, 2], [2.5, 1.25]), "loss_mask": ([1], [1.5])}
    assert curves.scores == {"val_mean_iou": ([2], [0.8])}
    plots = plot_curves(curves)
    assert [plot.title for plot in plots] == ["Losses by epoch", "Validation by epoch"]
    assert all(plot.light != plot.dark for plot in plots)
    assert plots == plot_curves(curves), "the same numbers give the same figure"


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "epoch,loss\n1\n2,x,y,z\n"])
def test_empty_or_ragged_curves_are_no_curves(tmp_path, text):
    (tmp_path / "curves.csv").write_text(text)
    assert plot_curves(read_curves(tmp_path / "curves.csv")) == []
    assert "hold no numbers yet" in report(tmp_path, tmp_path)[1].text


def test_curves_that_are_no_text_are_one_clear_error(tmp_path):
    (tmp_path / "curves.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match=r"curves\.csv: cannot be read as a CSV file"):
        read_curves(tmp_path / "curves.csv")
