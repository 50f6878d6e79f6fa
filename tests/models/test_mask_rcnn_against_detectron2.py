"""Our Mask R-CNN against numbers that Detectron2 gave for the same weights and films.

The fixtures hold what Detectron2 computed in double precision, where rounding decides nothing, and none of its inputs,
which come from a seed. They were written by `python benchmarks/mask_rcnn_numbers.py --write-fixtures`; the same script
compares both live.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import seeded_mask_rcnn as seeded
import torch

from vertinst.data.radiograph import read_film
from vertinst.models.mask_rcnn import MaskRCNN, Options
from vertinst.structures.rle import decode

HERE = Path(__file__).parent

LEVELS = ("p2", "p3", "p4", "p5", "p6")
FILMS = [(name, seed) for name in seeded.SMALL for seed in range(len(seeded.CASES[name].films))]


def _fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(HERE / "fixtures" / f"mask_rcnn_{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)
    seeded.use_double()
    yield
    torch.set_default_dtype(torch.float32)
    seeded.forget_anchors()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "seed"), FILMS)
def test_features_proposals_and_detections(name, seed):
    """The same sets in the same order, where the cap limits the detections and where their threshold does."""
    case, fixture = seeded.CASES[name], _fixture(name)
    size, caps = case.films[seed], seeded.caps(case)
    answers = seeded.our_stages(seeded.our_model(case), seeded.film(*size, seed=seed), caps)
    for most, found in zip(caps, answers, strict=True):
        wanted = _part(fixture, size, most)
        np.testing.assert_array_equal(found["class"], wanted["class"])
        np.testing.assert_allclose(found["box"], wanted["box"], atol=1e-4)
        np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)
        digest = seeded.digest({"roi_mask": found["roi_mask"]}, 200)["roi_mask"]
        np.testing.assert_allclose(digest, wanted["roi_mask"], atol=1e-5)
    wanted = _part(fixture, size, case.most)
    for level, values in seeded.digest({level: answers[0][level] for level in LEVELS}).items():
        np.testing.assert_allclose(values, wanted[level], rtol=1e-5, atol=1e-5, err_msg=level)
    np.testing.assert_allclose(answers[0]["proposals"], wanted["proposals"], atol=1e-4)
    np.testing.assert_allclose(answers[0]["objectness"], wanted["objectness"], atol=1e-5)
    # Each pixel that is not within 1e-4 of the threshold.
    masks, near = _masks(wanted, size), tuple(wanted["near"].T)
    wrong = seeded.paste(answers[0], size) != masks
    wrong[near] = False
    assert wrong.sum() == 0
    assert len(wanted["near"]) < 2e-3 * masks.sum()
    assert len(answers[0]["box"]) == case.most < len(answers[1]["box"]) < caps[1]


@pytest.mark.parametrize("name", seeded.SMALL)
def test_single_precision(name):
    """As it is used: boxes within 0.01 px, scores within 1e-4, IoU over 0.999."""
    case, fixture = seeded.CASES[name], _fixture(name)
    size = case.films[0]
    wanted = _part(fixture, size, case.most)
    masks = _masks(wanted, size)
    some = masks.any(axis=(1, 2))
    with torch.inference_mode():
        found = seeded.our_model(case)([seeded.as_image(seeded.film(*size))])[0]
    np.testing.assert_array_equal(found.category_ids - 1, wanted["class"][some])
    np.testing.assert_allclose(found.boxes, wanted["box"][some], atol=1e-2)
    np.testing.assert_allclose(found.scores, wanted["score"][some], atol=1e-4)
    mine = np.stack([decode(mask) for mask in found.masks]).astype(bool)
    assert (mine & masks[some]).sum() > 0.999 * (mine | masks[some]).sum()


def _part(fixture: dict[str, np.ndarray], size: tuple[int, int], most: int) -> dict[str, np.ndarray]:
    prefix = f"{seeded.size_key(size)}/{most}/"
    return {key.removeprefix(prefix): value for key, value in fixture.items() if key.startswith(prefix)}


def _masks(wanted: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    counts = wanted["counts"].tobytes().split(b" ")
    return np.stack([decode({"size": list(size), "counts": one}) for one in counts]).astype(bool)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", seeded.SMALL)
def test_losses_and_gradients(name):
    """From the same sampled anchors and proposals, of films with and without objects."""
    case, wanted = seeded.CASES[name], _fixture(name)
    model = seeded.our_model(case)
    found = seeded.our_training(model, seeded.trained_films(case), seeded.targets(case))
    np.testing.assert_array_equal(found.anchor_labels, wanted["anchor_labels"])
    for number, (boxes, labels) in enumerate(zip(found.boxes, found.labels, strict=True)):
        np.testing.assert_array_equal(labels, wanted[f"sampled/{number}/labels"])
        np.testing.assert_allclose(boxes, wanted[f"sampled/{number}/boxes"], atol=1e-4)
    for loss, value in found.losses.items():
        np.testing.assert_allclose(value.item(), wanted[f"loss/{loss}"], rtol=1e-6, err_msg=loss)
    gradients = seeded.gradients(found.losses, dict(model.named_parameters()))
    names = seeded.our_names(case)
    assert {names[key] for key in wanted["gradients/names"]} == set(gradients)
    digest = seeded.digest({key: gradients[names[key]] for key in wanted["gradients/names"]}, 3)
    for key, values in zip(wanted["gradients/names"], wanted["gradients"], strict=True):
        scale = np.abs(values).max()
        np.testing.assert_allclose(digest[key], values, rtol=1e-4, atol=1e-5 * scale, err_msg=key)


@pytest.mark.parametrize("size", seeded.PREPROCESSED_SIZES)
def test_preprocessing(size):
    """Of colour films, so that the order of the channels shows."""
    wanted = _fixture(seeded.PREPROCESSED)
    key = seeded.size_key(size)
    options = {
        "backbone": "resnet18",
        "stride_in_1x1": False,
        "channels": 8,
        "box_head_width": 8,
        "preset": "detectron2",
    }
    model = MaskRCNN(Options.model_validate(options), 1)
    batch, _ = model.transform([seeded.as_image(seeded.film(*size))])
    height, width = batch.image_sizes[0]
    assert [height, width] == wanted[f"preprocessing/{key}/size"].tolist()
    assert [side % 32 for side in batch.tensors.shape[-2:]] == [0, 0]
    grey = seeded.as_theirs(model, batch.tensors)[0] + torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    values = seeded.digest({key: grey[:, :height, :width]})[key]
    np.testing.assert_allclose(values, wanted[f"preprocessing/{key}"], rtol=1e-6, atol=1e-3)


def test_films_reach_the_preset_as_stored(tmp_path):
    """From a file: no percentile window lies between its grey values and the network."""
    grey = seeded.film(90, 70)[:, :, 0] // 2
    cv2.imwrite(str(tmp_path / "film.png"), grey)
    film = read_film(tmp_path / "film.png", tone=Options(preset="detectron2").film_tone)
    np.testing.assert_allclose(np.asarray(film.pixels), grey / np.float32(255), atol=1e-6)
