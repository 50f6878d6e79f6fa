"""Repeat-factor sampling: factors by the formula, and how often films are then drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vertinst.data.repeats import draw_repeats, repeats
from vertinst.structures import Annotation, Dataset, ImageRecord, rle

MASK = rle.encode(np.ones((4, 4), dtype=bool))
NAMES = ("lumbar", "sacral", "screw")


def films(*found: str) -> Dataset:
    """A film for each text: its classes by their first two letters, in capitals where they are to be ignored."""
    records = []
    for number, text in enumerate(found, start=1):
        names = [(name, part.isupper()) for part in text.split() for name in NAMES if name[:2] == part.lower()]
        annotations = tuple(Annotation(name, MASK, ignore=ignore) for name, ignore in names)
        records.append(ImageRecord(number, f"{number}.png", 4, 4, annotations=annotations))
    return Dataset(NAMES, tuple(records))


def test_a_films_factor_is_that_of_its_rarest_class() -> None:
    found = repeats(films("lu sc", "lu sa", "lu sa", "lu", "lu", "lu", "lu", "lu"), 0.5)
    assert found.films == {"screw": 1, "sacral": 2, "lumbar": 8}
    assert found.classes == pytest.approx({"screw": 2.0, "sacral": 2**0.5, "lumbar": 1.0})
    assert found.factors == pytest.approx([2.0, 2**0.5, 2**0.5, 1, 1, 1, 1, 1])


def test_several_objects_of_a_class_on_a_film_count_once_and_ignored_ones_never() -> None:
    found = repeats(films("lu lu lu", "SC lu", "sc", ""), 0.5)
    assert found.films == {"screw": 1, "lumbar": 2}
    # At equality a class is not rare; a film without any object is shown once.
    assert found.factors == pytest.approx([1, 1, 2**0.5, 1])


@pytest.mark.parametrize("data", [films(""), films("lu sc"), films("", "")])
def test_a_single_film_and_films_without_objects_are_shown_once(data: Dataset) -> None:
    found = repeats(data, 1.0)
    assert found.factors.tolist() == [1.0] * len(data)
    rng = np.random.default_rng(0)
    assert draw_repeats(found.factors, rng).tolist() == [1] * len(data)


def test_threshold_0_repeats_nothing() -> None:
    assert repeats(films("lu sc", *["lu"] * 30), 0.0).factors.tolist() == [1.0] * 31


def test_a_part_of_a_film_is_told_with_one_decimal() -> None:
    # The root of 0.5 over a third is 1.2247.
    assert repeats(films("lu sc", *["lu"] * 2), 0.5).in_words().endswith("1.2 times; 3.2 films an epoch.")


def test_the_user_is_told_in_words() -> None:
    data = films("lu sc", *["lu"] * 3)
    assert repeats(data, 1.0).in_words() == (
        "Films are shown more often for their rare classes: with screw (in 1 of 4) 2 times; 5 films an epoch."
    )
    assert repeats(data, 0.2).in_words() == (
        "No class is rare enough in the 4 training films: none of them is repeated."
    )


texts = st.lists(st.sets(st.sampled_from(["lu", "sa", "sc", "SC"])).map(" ".join), min_size=1, max_size=12)


@given(texts, st.floats(0, 1))
def test_factors_lie_between_1_and_the_rarest_class(found: list[str], threshold: float) -> None:
    data = films(*found)
    result = repeats(data, threshold)
    assert len(result.factors) == len(data)
    assert (result.factors >= 1).all()
    assert (result.factors <= max(1.0, np.sqrt(threshold * len(data)))).all()
    for image, factor in zip(data.images, result.factors, strict=True):
        shares = [result.films[a.category] / len(data) for a in image.annotations if not a.ignore]
        assert factor == pytest.approx(max([1.0, *(np.sqrt(threshold / share) for share in shares)]))


factors = st.lists(st.floats(1, 5), min_size=1, max_size=30).map(np.array)


@given(factors, st.integers(0, 2**31))
def test_each_film_comes_its_factor_rounded_up_or_down_and_so_do_all_together(factors: np.ndarray, seed: int) -> None:
    times = draw_repeats(factors, np.random.default_rng(seed))
    assert (np.abs(times - factors) < 1).all()
    assert (times >= 1).all()
    assert abs(times.sum() - factors.sum()) < 1 + 1e-9
    assert times.tolist() == draw_repeats(factors, np.random.default_rng(seed)).tolist()


def test_over_many_epochs_films_come_as_often_as_their_factors() -> None:
    factors = np.array([1.0, 1.1, 1.5, 2.0, 2.3, 3.75, 1.05])
    drawn = [draw_repeats(factors, np.random.default_rng([7, epoch])) for epoch in range(4000)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), factors, atol=0.03)
