"""Splits: by patient, complete, balanced, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst import plugins
from vertinst.data.splits import Split, check_apart, split_by_patient, write_split
from vertinst.errors import ConfigError, DataError, OutputExistsError
from vertinst.structures import rle
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

MASK = rle.encode(np.ones((4, 4)))


def dataset(patients, classes=()):
    """One film per entry of `patients`; `classes` gives each its annotations."""
    drawn = list(classes) or [()] * len(patients)
    return Dataset(
        CLASSES,
        tuple(
            ImageRecord(n, f"{n}.png", 4, 4, patient, annotations=tuple(Annotation(c, MASK) for c in names))
            for n, (patient, names) in enumerate(zip(patients, drawn, strict=True), start=1)
        ),
    )


def ids(side):
    return [image.image_id for image in side.images]


@settings(max_examples=100, deadline=None)
@given(
    patients=st.lists(st.none() | st.sampled_from("abcdefgh"), min_size=1, max_size=30),
    ratios=st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5), (0.9, 0.1), (0.34, 0.33, 0.33), (1.0, 0.0), (0.7, 0.0, 0.3)]),
    seed=st.integers(0, 1000),
)
def test_every_film_once_and_no_patient_twice(patients, ratios, seed):
    wanted = sum(r > 0 for r in ratios)
    data = dataset(patients)
    if len({p for p in patients if p is not None}) + patients.count(None) < wanted:
        with pytest.raises(DataError, match=f"must have at least {wanted} patients"):
            split_by_patient(data, ratios, seed)
        return
    split = split_by_patient(data, ratios, seed)
    sides = [split.train, split.val, split.test]
    assert sorted(i for side in sides for i in ids(side)) == ids(data)
    named = [{i.patient for i in side.images if i.patient is not None} for side in sides]
    assert sum(map(len, named)) == len(set().union(*named))
    assert [len(side) > 0 for side in sides] == [r > 0 for r in (*ratios, 0.0)[:3]]
    assert all(side.categories == CLASSES and ids(side) == sorted(ids(side)) for side in sides)
    assert split.grouped is (None not in patients)


def test_same_seed_same_split_whatever_the_order_of_films():
    data = dataset([str(n // 2) for n in range(40)])
    first = split_by_patient(data, (0.6, 0.2, 0.2), 4)
    turned = split_by_patient(Dataset(CLASSES, data.images[::-1]), (0.6, 0.2, 0.2), 4)
    other = split_by_patient(data, (0.6, 0.2, 0.2), 5)
    assert ids(first.test) == sorted(ids(turned.test))
    assert ids(first.test) != ids(other.test)


@pytest.mark.parametrize("seed", range(5))
def test_equal_patients_give_the_shares_exactly(seed):
    split = split_by_patient(dataset([str(n) for n in range(100)]), (0.7, 0.2, 0.1), seed)
    assert [len(split.train), len(split.val), len(split.test)] == [70, 20, 10]


@pytest.mark.parametrize("seed", range(5))
def test_patients_of_different_size_come_close(seed):
    sizes = np.random.default_rng(seed).integers(1, 6, 120)
    split = split_by_patient(dataset([str(n) for n, size in enumerate(sizes) for _ in range(size)]), (0.8, 0.1, 0.1), 0)
    total = sizes.sum()
    assert len(split.val) / total == pytest.approx(0.1, abs=0.03)
    assert len(split.test) / total == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_rare_classes_reach_every_side(seed):
    names = [("lumbar", "cage") if n % 10 == 0 else ("lumbar",) for n in range(100)]
    split = split_by_patient(dataset([str(n) for n in range(100)], names), (0.8, 0.1, 0.1), seed)
    assert split.train.counts()["cage"] == pytest.approx(8, abs=1)
    assert split.val.counts()["cage"] >= 1
    assert split.test.counts()["cage"] >= 1


def test_two_ratios_leave_the_test_side_empty():
    split = split_by_patient(dataset(["a", "b"]), (0.8, 0.2), 0)
    assert list(split.sides) == ["train", "val"]
    assert len(split.test) == 0


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((1.0,), "two or three numbers"),
        ((0.25,) * 4, "two or three numbers"),
        ((-0.2, 1.2), "two or three numbers"),
        ((0.0, 1.0), "two or three numbers"),
        ((float("nan"), 1.0), "two or three numbers"),
        ((0.8, 0.1), r"must add up to 1, got 0\.9"),
        ((80, 10, 10), "must add up to 1, got 100"),
    ],
)
def test_wrong_ratios(ratios, message):
    with pytest.raises(ConfigError, match=message) as error:
        split_by_patient(dataset(list("abcd")), ratios, 0)
    assert "for example 0.8,0.1,0.1" in str(error.value)


def test_too_few_patients_have_a_way_out():
    with pytest.raises(DataError, match=r"at least 3 patients to split into 3 parts, got 2\n.*for example 0\.8,0\.2"):
        split_by_patient(dataset(["a", "b", "b", "b"]), (0.8, 0.1, 0.1), 0)


def test_no_films():
    with pytest.raises(DataError, match="got 0"):
        split_by_patient(Dataset(CLASSES), (0.8, 0.2), 0)


def test_write_split(tmp_path):
    split = split_by_patient(dataset(list("aabbcc"), [("rod",)] * 6), (0.4, 0.3, 0.3), 1)
    paths = write_split(split, tmp_path / "out")
    assert [p.name for p in paths] == ["train.json", "val.json", "test.json"]
    read = plugins.load("converters", "coco").read
    assert [ids(read(p)) for p in paths] == [ids(side) for side in split.sides.values()]
    with pytest.raises(OutputExistsError, match="not empty"):
        write_split(split, tmp_path / "out")
    write_split(split, tmp_path / "out", overwrite=True)


def test_write_split_writes_no_empty_side(tmp_path):
    data = dataset(["a", "b"])
    split = Split(data.subset({1}), data.subset({2}), data.subset(set()), True)
    assert [p.name for p in write_split(split, tmp_path / "out")] == ["train.json", "val.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train.json", "val.json"]


def test_a_patient_on_two_sides_is_refused_without_a_name():
    with pytest.raises(DataError, match="got 1 in both train and val") as caught:
        check_apart({"train": dataset(["Meier", "Meier", "Huber"]), "val": dataset(["Meier"])})
    assert "Meier" not in str(caught.value)


def test_a_film_without_patient_on_two_sides_is_refused():
    films = dataset([None])
    with pytest.raises(DataError, match="got 1 in both train and test"):
        check_apart({"train": films, "val": Dataset(CLASSES), "test": films})
    check_apart({"train": films, "val": Dataset(CLASSES)})
