"""Our YOLACT against numbers that the original (github.com/dbolya/yolact) gave for the same weights and films.

The fixtures hold what the original computed, none of its inputs, which come from a seed. They were written by
`python benchmarks/yolact_original.py fixtures --original PATH`; the same script compares both live.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import seeded_yolact as seeded
import torch

from vertinst.data.radiograph import read_film
from vertinst.models._anchors import anchor_boxes
from vertinst.models.yolact import Options, Raw
from vertinst.structures.rle import decode

HERE = Path(__file__).parent


def _fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(HERE / "fixtures" / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)
    seeded.use_double()
    yield
    torch.set_default_dtype(torch.float32)
    anchor_boxes.cache_clear()


@pytest.mark.parametrize("name", seeded.CONFIGS)
def test_heads(name):
    wanted, size = _fixture(name), seeded.SMALL[name]
    model = seeded.our_model(name, size)
    with torch.inference_mode():
        raw, semantic = seeded.our_heads(model, seeded.batch(1, size))
        found = {**seeded.named(raw, semantic), "priors": seeded.our_priors(model, size)}
        if model.maskiou_net is not None:
            found["mask_iou"] = seeded.our_score_maps(model, seeded.score_masks())
    digest = seeded.digest(found)
    assert set(digest) == {key.removeprefix("heads/") for key in wanted if key.startswith("heads/")}
    for key, values in digest.items():
        np.testing.assert_allclose(values, wanted[f"heads/{key}"], rtol=1e-5, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", seeded.CONFIGS)
def test_anchors_at_full_size(name):
    """Those of the preset; the heads were computed on smaller films."""
    priors = seeded.our_priors(seeded.headless(name), seeded.CONFIGS[name].size)
    np.testing.assert_allclose(seeded.digest({"priors": priors})["priors"], _fixture(name)["priors"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in seeded.CRAFTED for case in seeded.crafted_cases(name)]
)
def test_detections_and_masks(name, case):
    """Set, order, scores and boxes, and each pixel that is not within 1e-5 of the threshold."""
    crowd, kind, size = case
    fixture, key = _fixture(name), f"crafted/{crowd} {kind} {size[0]} {size[1]}"
    wanted = {part: fixture[f"{key}/{part}"] for part in ("class", "score", "box", "counts", "near")}
    side = seeded.crafted_size(name)
    model = seeded.crafted_model(name)
    heads = seeded.crafted_heads(model, side, faint=crowd == "faint")
    model.options = seeded.with_nms(model.options, kind)
    raw = Raw(heads["loc"], heads["conf"], heads["mask"], heads["proto"])
    with torch.inference_mode():
        found = model.detect(raw, (side, side), [size], [(side, side)])[0]
    np.testing.assert_array_equal(found.category_ids - 1, wanted["class"])
    np.testing.assert_allclose(found.scores, wanted["score"].clip(max=1), atol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted["box"], atol=1e-3)
    masks = np.stack([decode(mask) for mask in found.masks])
    counts = wanted["counts"].tobytes().split(b" ")
    wrong = masks != np.stack([decode({"size": list(size), "counts": one}) for one in counts])
    wrong[tuple(wanted["near"].T)] = False
    assert wrong.sum() == 0
    assert len(wanted["near"]) < 1e-5 * masks.size + 50


def test_crafted_heads_tell_the_kinds_apart():
    model = seeded.crafted_model("resnet50")
    heads = seeded.crafted_heads(model, 160)
    raw = Raw(heads["loc"], heads["conf"], heads["mask"], heads["proto"])

    def found(kind: str = "fast", **changes: int) -> bytes:
        model.options = seeded.with_nms(model.options, kind).model_copy(update=changes)
        return model.detect(raw, (160, 160), [(160, 160)], [(160, 160)])[0].scores.tobytes()

    answers = {
        found(),
        found(top_k=400),
        found(max_detections=101),
        found(kind="cross_class"),
        found(kind="ordinary"),
        found(nms_iou_threshold=0.6),
    }
    assert len(answers) == 6


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", seeded.DIFFERENTIATED)
def test_losses_and_gradients(name):
    """In double precision: in single precision rounding decides at the kinks of ReLUs, and gradients jump there."""
    wanted, size = _fixture(name), seeded.loss_size(name)
    model = seeded.our_model(name, size).double()
    films = seeded.DIFFERENTIATED[name]
    targets = seeded.targets(model, size, films)
    raw, semantic = seeded.our_heads(model, seeded.batch(films, size).double())
    losses = seeded.our_losses(model, raw, semantic, targets, size)
    letters = {key.removeprefix("loss/") for key in wanted if key.startswith("loss/")}
    assert set(losses) == letters - {"focal"}
    for letter, loss in losses.items():
        np.testing.assert_allclose(loss.item(), wanted[f"loss/{letter}"], rtol=1e-6, err_msg=letter)
    outputs, parameters = seeded.named(raw, semantic), dict(model.named_parameters())
    names = list(wanted["gradients/names"])
    chosen = {key: parameters[key] for key in names if key not in outputs}
    found = seeded.digest(seeded.gradients(losses, outputs, chosen), 4)
    for key, values in zip(names, wanted["gradients"], strict=True):
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-5 * np.abs(values).max(), err_msg=key)
    model.options = model.options.model_copy(update={"class_loss": "focal"})
    focal = seeded.our_losses(model, raw, semantic, targets, size)["C"]
    np.testing.assert_allclose(focal.item(), wanted["loss/focal"], rtol=1e-6)
    gradient = seeded.digest(seeded.gradients({"C": focal}, {"conf": raw.logits}, {}), 200)["conf"]
    np.testing.assert_allclose(
        gradient, wanted["gradients/focal"], rtol=1e-4, atol=1e-6 * np.abs(wanted["gradients/focal"]).max()
    )


@pytest.mark.parametrize("name", seeded.PREPROCESSED)
def test_preprocessing(name):
    """Of colour films, so that the order of the channels shows."""
    model, wanted = seeded.headless(name), _fixture(name)
    for height, width in seeded.PREPROCESSED_SIZES:
        found = model.prepare([seeded.colour_film(height, width).float() / 255])[0][0]
        for way, tolerance in (("fast", 1e-5), ("slow", 1e-4)):
            key = f"{way} {height} {width}"
            values = seeded.digest({key: found})[key]
            np.testing.assert_allclose(values, wanted[f"preprocessing/{key}"], rtol=1e-5, atol=tolerance, err_msg=key)


def test_films_reach_the_original_preset_as_stored(tmp_path):
    """From a file: no percentile window lies between its grey values and the network."""
    grey = seeded.film(90, 70) // 2
    cv2.imwrite(str(tmp_path / "film.png"), grey)
    tone = Options(preset="original").film_tone
    film = read_film(tmp_path / "film.png", tone=tone)
    np.testing.assert_allclose(np.asarray(film.pixels), grey / np.float32(255), atol=1e-6)
