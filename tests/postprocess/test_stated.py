import json

import pytest

from vertinst.errors import ConfigError, DataError
from vertinst.postprocess.labelling import parse_anchor
from vertinst.postprocess.stated import Stated, check_names, read_anchors, stated
from vertinst.structures.measures import Scale


def anchors_file(folder, content):
    path = folder / "anchors.json"
    path.write_text(json.dumps(content))
    return path


def test_what_is_said_of_one_film_wins_over_what_is_said_of_all(tmp_path):
    path = anchors_file(tmp_path, {"ward/b.png": "L4=lowest"})
    said = stated(anchor="L5=lowest", anchors=path, view="ap", pixel_spacing_mm=0.2)
    assert said.anchor_of("ward/b.png") == parse_anchor("L4=lowest")
    assert said.anchor_of("a.png") == parse_anchor("L5=lowest")
    assert (said.view, said.scale) == ("ap", Scale(0.2, 0.2, "stated by the user"))
    assert stated() == Stated()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"view": "side"}, "view must be auto, lateral or ap, got 'side'"),
        ({"pixel_spacing_mm": 0.0}, "pixel spacing must lie in 0.005 to 10 mm, got 0"),
        ({"pixel_spacing_mm": float("nan")}, "must lie in"),
        ({"anchor": "L5"}, "anchor must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(how, message):
    with pytest.raises(ConfigError, match=message):
        stated(**how)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["L5=lowest"], "must be an object of anchors by film, got list"),
        ({"a.png": 5}, r"anchors\.json, a\.png: an anchor must be a text, got int"),
        ({"a.png": f"L5@{'9' * 400},1"}, r"anchors\.json, a\.png: anchor must be"),
        ({"a.png": "L9=lowest"}, r"anchors\.json, a\.png: anchor must be"),
    ],
)
def test_files_of_anchors_are_read_strictly(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_anchors(anchors_file(tmp_path, content))


def test_anchors_of_films_that_are_not_there_are_named():
    check_names(["a.png"], ["a.png", "b.png"])
    with pytest.raises(DataError, match=r"got 0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 2 more\n.*such as a\.png"):
        check_names([f"{n}.png" for n in range(7)], ["a.png"])
