"""Synthetic metal: bright, in place, labelled where it is learnt, and nothing else changed."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.data.synthetic_metal import KINDS, add_metal, find_sites

CLASSES = ("lumbar", "sacral", "cage", "screw", "rod")


def spine(count: int = 5, size: tuple[int, int] = (300, 200), bow: float = 12.0):
    """A noisy grey film with bodies of 40 x 32 px, the middle ones further right; masks and labels."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, *size), dtype=np.uint8)
    for index, mask in enumerate(masks):
        x = size[1] / 2 + bow * np.sin(np.pi * index / max(count - 1, 1))
        cv2.rectangle(mask, (round(x) - 20, 20 + 48 * index), (round(x) + 19, 51 + 48 * index), 1, -1)
    film = 0.3 + 0.2 * masks.any(axis=0) + rng.normal(0, 0.01, size)
    return film.astype(np.float32), masks.astype(bool), np.ones(count, dtype=np.int64)


def added(seed: int, classes: tuple[str, ...] = CLASSES, count: int = 5):
    film, masks, labels = spine(count)
    return film, masks, add_metal(film.copy(), masks, labels, classes, np.random.default_rng(seed))


def test_metal_is_bright_and_the_rest_of_the_film_as_it_was() -> None:
    for seed in range(15):
        film, masks, (shown, all_masks, labels) = added(seed)
        assert shown.dtype == np.float32
        assert shown.min() >= 0
        assert shown.max() <= 1
        assert np.array_equal(all_masks[: len(masks)], masks)
        assert labels[: len(masks)].tolist() == [1] * len(masks)
        for mask, label in zip(all_masks[len(masks) :], labels[len(masks) :], strict=True):
            assert CLASSES[label - 1] in KINDS
            # A plastic cage hardly shows but for its markers.
            assert (shown - film)[mask].mean() > (0.005 if CLASSES[label - 1] == "cage" else 0.15)
        assert 0 < (np.abs(shown - film) > 0.02).mean() < 0.4
        assert (shown >= film - 0.1).all()


def test_every_kind_is_drawn_and_learnt_where_its_name_is_a_class() -> None:
    classes = ("lumbar", *KINDS)
    seen = {classes[label - 1] for seed in range(80) for label in added(seed, classes)[2][2]}
    assert seen == set(classes)


def test_what_is_not_learnt_is_clutter() -> None:
    for seed in range(10):
        film, masks, (shown, all_masks, labels) = added(seed, ("lumbar",))
        assert len(all_masks) == len(labels) == len(masks)
        assert not np.array_equal(shown, film)
        # The film does not depend on what is learnt.
        assert np.array_equal(shown, added(seed)[2][0])


def test_metal_has_the_size_of_the_spine() -> None:
    body = 40 * 32
    shares = {"screw": [], "rod": [], "cage": []}
    for seed in range(40):
        _, masks, (_, all_masks, labels) = added(seed)
        for mask, label in zip(all_masks[len(masks) :], labels[len(masks) :], strict=True):
            shares[CLASSES[label - 1]].append(mask.sum() / body)
    assert 0.15 < np.median(shares["screw"]) < 0.6
    assert 0.2 < np.median(shares["rod"]) < 1.5
    assert 0.08 < np.median(shares["cage"]) < 0.6
    assert all(0 < share < 3 for each in shares.values() for share in each)


def test_metal_is_as_noisy_as_the_film() -> None:
    def grain(pixels: np.ndarray, mask: np.ndarray) -> float:
        inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5)), borderValue=0).astype(bool)
        return float(np.abs(pixels - cv2.GaussianBlur(pixels, (0, 0), 1.5))[inside].mean())

    film, masks, labels = spine()
    noisy = np.clip(film + np.random.default_rng(1).normal(0, 0.05, film.shape), 0, 1).astype(np.float32)
    found = []
    for seed in range(12):
        calm, shown = (add_metal(f, masks, labels, CLASSES, np.random.default_rng(seed)) for f in (film, noisy))
        for mask, label in zip(calm[1][5:], calm[2][5:], strict=True):
            if CLASSES[label - 1] == "rod":
                found.append(grain(shown[0], mask) / grain(calm[0], mask))
    assert np.median(found) > 1.3


def test_metal_is_as_sharp_as_the_whole_film(monkeypatch: pytest.MonkeyPatch) -> None:
    blurs: list[float] = []
    gaussian = cv2.GaussianBlur
    monkeypatch.setattr(cv2, "GaussianBlur", lambda *args: blurs.append(args[2]) or gaussian(*args))
    film, masks, labels = spine()
    # The spine takes a fifth of the larger film's width: only the film tells how far blur goes.
    large = np.pad(film, ((0, 1500), (0, 2600)), constant_values=0.3)
    for pixels in (film, large):
        room = np.pad(masks, ((0, 0), *((0, a - b) for a, b in zip(pixels.shape, film.shape, strict=True))))
        shown = add_metal(pixels.copy(), room, labels, CLASSES, np.random.default_rng(4))[0]
        changed = cv2.boundingRect((shown != pixels).view(np.uint8))
        assert max(changed[2:]) < 700
    metal, larger = blurs[0], blurs[2]
    assert larger == pytest.approx(metal * 2800 / 700)


def test_sites_are_the_bodies_from_the_top_down() -> None:
    _, masks, _ = spine()
    sites = find_sites(masks[[3, 0, 4, 1, 2]], np.random.default_rng(0))
    assert [round(site.centre[1]) for site in sites] == [36, 84, 132, 180, 228]
    assert sites[0].depth * sites[0].height == pytest.approx(40 * 32)
    assert all(site.down[1] > 0.9 for site in sites)
    assert all(abs(site.down @ site.back) < 1e-9 for site in sites)


def test_a_bone_that_was_outlined_twice_is_one_site() -> None:
    _, masks, _ = spine()
    sites = find_sites(np.concatenate([masks, masks, np.roll(masks[:2], 2, axis=2)]), np.random.default_rng(0))
    assert [round(site.centre[1]) for site in sites] == [36, 84, 132, 180, 228]
    assert all(np.hypot(*site.down) == pytest.approx(1) for site in sites)
    # On a film of one pixel all bodies are one.
    assert len(find_sites(np.ones((3, 1, 1), dtype=bool), np.random.default_rng(0))) == 1


@pytest.mark.parametrize(("bow", "back"), [(12.0, -1), (-12.0, 1)])
def test_the_back_is_away_from_where_the_spine_bows(bow: float, back: int) -> None:
    _, masks, _ = spine(bow=bow)
    sides = [np.sign(find_sites(masks, np.random.default_rng(seed))[2].back[0]) for seed in range(40)]
    assert np.mean(np.array(sides) == back) > 0.85


def test_a_film_without_vertebrae_gets_metal_too() -> None:
    film, masks, labels = spine(0)
    shown, new, _ = add_metal(film, masks, labels, CLASSES, np.random.default_rng(3))
    assert not np.array_equal(shown, film)
    assert new.shape[1:] == film.shape


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 4), st.integers(0, 2**32))
def test_any_film_and_any_masks(height: int, width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    film = rng.random((height, width), dtype=np.float32)
    masks = rng.random((count, height, width)) < rng.random()
    labels = rng.integers(1, len(CLASSES) + 1, count)
    shown, all_masks, all_labels = add_metal(film.copy(), masks, labels, CLASSES, rng)
    assert shown.shape == film.shape
    assert np.isfinite(shown).all()
    assert len(all_masks) == len(all_labels)
    assert all_masks.dtype == bool
    assert np.array_equal(all_masks[:count], masks)
    assert all_masks[count:].any(axis=(1, 2)).all()
