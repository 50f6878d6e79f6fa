"""VIA itself opens our projects, shows the films, and exports again what we wrote.

Needs VIA 2's `via.html` (its own download, or packed by `scripts/pack_via.py` of its sources) and Chromium:
`VERTINST_VIA_HTML=/path/via.html pytest tests/converters/test_via_browser.py`
"""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vertinst.converters import via
from vertinst.structures import rle
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

VIA = os.environ.get("VERTINST_VIA_HTML")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.skipif(not VIA, reason="VERTINST_VIA_HTML does not name VIA's via.html"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

HEIGHT, WIDTH = 240, 200

# Opens the project, shows every film with every region selected in the editor, saves and exports.
DRIVER = """
window.addEventListener('load', async () => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  const out = {errors: [], shown: {}};
  window.onerror = (message, file, line) => { out.errors.push(message + ' in line ' + line); };
  window.addEventListener('unhandledrejection', event => out.errors.push('' + event.reason));
  let saved = null;
  window.save_data_to_local_file = blob => { saved = blob; };
  try {
    await wait(200);
    project_open_parse_json_file(JSON.stringify(PROJECT));
    for (let i = 0; i < _via_image_id_list.length; ++i) {
      const there = () => _via_current_image_loaded && _via_image_index === i;
      await wait(300);
      _via_show_img(i);
      for (let tries = 0; tries < 100 && !there(); ++tries) await wait(50);
      out.shown[_via_image_filename_list[i]] = there();
      annotation_editor_show();
      for (let r = 0; r < _via_img_metadata[_via_image_id_list[i]].regions.length; ++r) {
        set_region_select_state(r, true);
        _via_is_region_selected = true;
        _via_user_sel_region_id = r;
        annotation_editor_update_content();
        _via_redraw_reg_canvas();
        set_region_select_state(r, false);
      }
      _via_is_region_selected = false;
      _via_user_sel_region_id = -1;
    }
    project_save_confirmed({project_name: {value: _via_settings.project.name}});
    out.project = await saved.text();
    out.json = (await pack_via_metadata('json')).join('');
    out.csv = (await pack_via_metadata('csv')).join('');
  } catch (error) { out.errors.push(error + ' ' + error.stack); }
  const result = document.createElement('pre');
  result.id = 'via_result';
  result.textContent = btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(out))));
  document.body.appendChild(result);
});
"""


def through_via(path):
    """What VIA makes of a project: errors, films shown, and its exports."""
    page = path.with_name("page.html")
    html = Path(VIA).read_text(encoding="utf-8")
    end = html.rindex("</body>")
    data = path.read_text(encoding="utf-8").replace("</", "<\\/")
    page.write_text(f"{html[:end]}<script>const PROJECT = {data};{DRIVER}</script>{html[end:]}", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    profile = f"--user-data-dir={path.with_name('profile')}"
    command = [CHROMIUM, *flags, profile, "--virtual-time-budget=120000", "--dump-dom", page.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="via_result">([^<]*)</pre>', finished.stdout)
    assert found is not None, finished.stderr[-2000:]
    return json.loads(base64.b64decode(found[1]))


def ring(x, y, outer, inner):
    dense = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.circle(dense, (x, y), outer, 1, -1)
    cv2.circle(dense, (x, y), inner, 0, -1)
    return rle.encode(dense)


SHAPES = [
    {"name": "polygon", "all_points_x": [10.5, 40, 40.25], "all_points_y": [10, 10, 40.125]},
    {"name": "rect", "x": 100, "y": 20, "width": -30, "height": 25.5},
    {"name": "circle", "cx": 50, "cy": 90, "r": 12},
    {"name": "ellipse", "cx": 100, "cy": 100, "rx": 30, "ry": 12.5, "theta": 0.4},
    {"name": "polyline", "all_points_x": [150, 180], "all_points_y": [150, 190]},
    {"name": "point", "cx": 20, "cy": 200.5},
]
DEFINITIONS = {
    "region": {
        "Objekte": {"type": "dropdown", "description": "", "options": {"1": "LWK", "2": "Stab"}, "default_options": {}},
        "side": {"type": "radio", "description": "", "options": {"l": "left", "r": "right"}, "default_options": {}},
        "signs": {"type": "checkbox", "description": "", "options": {"x": "blurred", "y": ""}, "default_options": {}},
        "bare": {"type": "checkbox"},
    },
    "file": {"quality": {"type": "radio", "options": {"a": "good"}}},
}


def annotated(folder, definitions, vertebra):
    """Every shape, type of attribute and odd name, with its films."""
    odd = {
        "Objekte": vertebra,
        "side": "l",
        "signs": {"x": True},
        "note": 'say "a, b"\n<b>',
        "grade": 3.5,
        "void": None,
    }
    unread = tuple({"shape_attributes": s, "region_attributes": dict(odd)} for s in [*SHAPES, {}])
    names = ["plain.png", "with, comma.png", "sub/椎体 ä.png", "numbered #1.png"]
    for name in names:
        path = folder / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(path)
    size = (folder / "films" / names[0]).stat().st_size
    holes = Annotation("cage", ring(100, 120, 60, 25), attributes={"score": "0.912", "level": ""})
    keyed = Annotation("lumbar", ring(50, 60, 30, 10), keypoints={"p": (30.0, 40.0)}, named_level="L4", ignore=True)
    vertebra_outlined = Annotation("lumbar", ring(60, 60, 30, 0), (SHAPES[0],), odd)
    records = (
        ImageRecord(1, names[0], WIDTH, HEIGHT, source={"filename": names[0], "size": size}, unread=unread),
        ImageRecord(2, names[1], WIDTH, HEIGHT, annotations=(holes, keyed), patient="P1", attributes={"quality": "a"}),
        ImageRecord(3, names[2], WIDTH, HEIGHT, annotations=(vertebra_outlined, holes)),
        ImageRecord(4, names[3], WIDTH, HEIGHT),
    )
    return Dataset(CLASSES, records, definitions)


def test_via_shows_all_and_exports_it_unchanged(tmp_path):
    data = annotated(tmp_path, DEFINITIONS, "1")
    path = tmp_path / "project.json"
    via.write(data, path, film_path="films")
    written = json.loads(path.read_text(encoding="utf-8"))
    result = through_via(path)
    assert result["errors"] == []
    assert result["shown"] == {image.file_name: True for image in data.images}
    assert json.loads(result["project"]) == written
    assert json.loads(result["json"]) == written["_via_img_metadata"]


# Of shapes that readers of other formats leave out, and broken ones of VIA's own.
ODD_SHAPES = [
    {"name": "mask", "size": [5, 5], "counts": "0^1", "parts": [{"a": {"b": [1, None]}}]},
    {"name": "tag"},
    {"name": "yolo", "line": "0 nan, 1"},
    {"name": "unknown", "segmentation": [[1, 2]], "bbox": None},
    {"name": None},
    {"name": ["polygon"]},
    {"name": "polygon", "points": "1,2;3,4"},
    {"name": "polygon", "all_points_x": [], "all_points_y": []},
    {"name": "polyline", "all_points_x": [1, None, "3"], "all_points_y": [1]},
    {"name": "rect", "x": "a", "width": None},
    {"name": "circle", "cx": 5, "cy": 5, "r": -3},
    {"name": "ellipse", "cx": "5", "cy": "5", "rx": "-3", "ry": "2"},
    {"name": "point", "points": []},
]


def test_via_opens_regions_of_any_shape(tmp_path):
    unread = tuple({"shape_attributes": shape, "region_attributes": {"class": "rod"}} for shape in ODD_SHAPES)
    (tmp_path / "films").mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8)).save(tmp_path / "films" / "a.png")
    vertebra = Annotation("lumbar", ring(60, 60, 30, 0))
    record = ImageRecord(1, "a.png", WIDTH, HEIGHT, annotations=(vertebra,), unread=unread)
    path = tmp_path / "project.json"
    changed = via.write(Dataset(CLASSES, (record,)), path, film_path="films", tolerance_px=1)
    assert len(changed) == 4
    result = through_via(path)
    assert (result["errors"], result["shown"]) == ([], {"a.png": True})
    assert json.loads(result["project"]) == json.loads(path.read_text(encoding="utf-8"))


def test_exports_of_via_read_as_the_project_does(tmp_path):
    # Without definitions: exports have none, so that an option id would mean nothing there.
    path = tmp_path / "project.json"
    via.write(annotated(tmp_path, {}, "Lendenwirbel"), path, film_path="films")
    result = through_via(path)
    (tmp_path / "export.json").write_text(result["json"], encoding="utf-8")
    (tmp_path / "export.csv").write_text(result["csv"], encoding="utf-8")
    names = ("project.json", "export.json", "export.csv")
    first, *others = (via.read([tmp_path / name], tmp_path / "films")[0] for name in names)
    assert [len(image.annotations) for image in first.images] == [4, 2, 2, 0]
    for other in others:
        assert [facts(image) for image in other.images] == [facts(image) for image in first.images]


def facts(image):
    found = [(a.category, a.level, a.mask, a.outlines, a.attributes, a.keypoints, a.ignore) for a in image.annotations]
    return image.file_name, image.attributes, image.patient, len(image.unread), found
