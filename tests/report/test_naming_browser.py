"""In Chromium: a vertebra is chosen in the report, the anchors are saved, and `vertinst measure` counts from them."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from vertinst.cli import run
from vertinst.postprocess.pipeline import build_spine
from vertinst.report import results
from vertinst.report.html import write_report
from vertinst.structures import Instances, rle

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

SIZE = (420, 200)
FILM = 'ward/Müller\'s "1" <b>.png'

DRIVER = """
window.addEventListener('load', async () => {
  const out = {errors: [], blocked: []};
  window.onerror = (message, file, line) => { out.errors.push(message + ' in line ' + line); };
  document.addEventListener('securitypolicyviolation', event => out.blocked.push(event.violatedDirective));
  const made = [];
  const keep = URL.createObjectURL;
  URL.createObjectURL = blob => { made.push(blob); return keep.call(URL, blob); };
  const films = [...document.querySelectorAll('.film')];
  const names = film => [...film.querySelectorAll('.bone text')].map(text => text.textContent);
  const cells = film => [...film.querySelectorAll('[data-vertebra]')].map(cell => cell.textContent);
  const menu = document.getElementById('level-menu');
  const say = level => menu.querySelector(`[data-say="${level}"]`).click();
  try {
    out.before = films.map(names);
    out.hidden = document.getElementById('anchors').hidden;
    const bone = films[1].querySelectorAll('.bone')[1];
    bone.dispatchEvent(new MouseEvent('click', {bubbles: true}));
    out.open = menu.open;
    say('L3');
    out.closed = !menu.open;
    out.renamed = names(films[1]);
    out.cells = cells(films[1]);
    out.label = bone.getAttribute('aria-label');
    const other = films[0].querySelectorAll('.bone')[0];
    out.focusable = [other.getAttribute('role'), other.tabIndex];
    other.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
    say('L6');
    out.sixth = names(films[0]);
    other.dispatchEvent(new KeyboardEvent('keydown', {key: ' ', bubbles: true}));
    menu.querySelector('#forget').click();
    out.forgotten = names(films[0]);
    out.count = document.getElementById('anchor-count').textContent;
    document.getElementById('save-anchors').click();
    out.saved = await made[0].text();
    try { new Function('return 1')(); out.evaluated = true; } catch (error) { out.evaluated = false; }
  } catch (error) { out.errors.push(error + ' ' + error.stack); }
  const result = document.createElement('pre');
  result.id = 'result';
  result.textContent = btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(out))));
  document.body.appendChild(result);
});
"""


def predicted(folder):
    """Two films with five vertebrae and no sacrum."""
    masks = []
    for place in range(5):
        mask = np.zeros(SIZE, dtype=np.uint8)
        cv2.ellipse(mask, ((100.0 + 6 * np.sin(place), 370.0 - 62 * place), (74.0, 42.0), 0.0), 1, -1)
        masks.append(rle.encode(mask))
    whole = Instances.from_masks(SIZE, masks, [1] * 5, [0.9] * 5)
    for name in ("a.png", FILM):
        results.write_film(folder, name, np.full(SIZE, 0.5, np.float32), build_spine(whole, ("lumbar", "sacral")), {})
    return folder


def driven(page):
    """What the driver saw on a page; its own script is let in by its hash, as the page's is."""
    text = page.read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
    page.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.with_name('profile')}"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="result">([^<]*)</pre>', finished.stdout)
    assert found is not None, finished.stderr[-2000:]
    return json.loads(base64.b64decode(found[1]))


def test_a_click_names_the_levels(tmp_path):
    folder = predicted(tmp_path / "predictions")
    write_report(folder, tmp_path / "report.html")
    seen = driven(tmp_path / "report.html")
    assert seen["errors"] == []
    assert seen["before"] == [["+1", "+2", "+3", "+4", "+5"]] * 2
    assert seen["hidden"]
    assert seen["open"]
    assert seen["closed"]
    assert seen["renamed"] == ["L4", "L3", "L2", "L1", "T12"]
    assert seen["cells"] == seen["renamed"][::-1]
    assert seen["label"] == "L3, as you said: say which vertebra this is"
    assert seen["focusable"] == ["button", 0]
    assert seen["sixth"] == ["L6", "L5", "L4", "L3", "L2"]
    assert seen["forgotten"] == seen["before"][0]
    assert seen["count"] == "1 film with an anchor"
    # The policy holds: nothing is evaluated.
    assert not seen["evaluated"]
    anchors = tmp_path / "anchors.json"
    anchors.write_text(seen["saved"], encoding="utf-8")
    assert list(json.loads(seen["saved"])) == [FILM]
    assert run(["measure", str(folder), "--anchors", str(anchors), "--out", str(tmp_path / "again")]) == 0
    spines = results.read_folder(tmp_path / "again")
    assert [v.level for v in spines[FILM].vertebrae] == seen["renamed"]
    assert spines["a.png"].vertebrae[0].level == "+1"
