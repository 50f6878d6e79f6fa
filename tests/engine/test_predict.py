"""Prediction: masks cut to their boxes, honest provenance, and a results folder that a broken film does not stop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import torch

import vertinst
from vertinst.config import Config
from vertinst.data.radiograph import Film, read_film
from vertinst.engine.predict import Predictor, load_model, predict_films
from vertinst.engine.train import train
from vertinst.errors import CheckpointError, ConfigError, DataError, OutputExistsError, VertinstError
from vertinst.models import yolact
from vertinst.postprocess.labelling import parse_anchor
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.postprocess.policy import PairRule, Policy
from vertinst.postprocess.stated import Stated, stated
from vertinst.report import results
from vertinst.report.results import read_folder
from vertinst.structures import Dataset, Instances, Scale, rle

OPTIONS = SpineOptions()


class Fixed(torch.nn.Module):
    """Finds a square in the corner of every film, and remembers which films came together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[tuple[int, ...]]] = []

    def forward(self, images):
        sizes = [tuple(image.shape[1:]) for image in images]
        self.batches.append(sizes)
        return [Instances.from_masks(size, [square(size)], [1], [0.9]) for size in sizes]


def square(size: tuple[int, int]) -> rle.Rle:
    return rle.paste(np.ones((4, 4), dtype=bool), 0, 0, size)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Fixed(), ("lumbar", "sacral"), name="fixed", weights="w.safetensors", versions={"vertinst": "0"})


def write_film(path: Path, size: tuple[int, int] = (40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 65535, size, dtype=np.uint16)
    cv2.imwrite(str(path), pixels)
    return path


def test_paths_and_arrays_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.png")
    from_path, from_array = predictor.predict([path, read_film(path).pixels])
    assert from_path.masks == from_array.masks == (square((40, 32)),)
    assert from_path.image_size == (40, 32)


def test_no_film_no_answer_and_wrong_shapes_are_refused(predictor: Predictor) -> None:
    assert predictor.predict([]) == []
    with pytest.raises(DataError, match=r"film must have shape \(H, W\), got \(3, 4, 5\)"):
        predictor.predict([np.zeros((3, 4, 5), dtype=np.float32)])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_films_with_values_that_are_no_numbers_are_refused(predictor: Predictor, value: float) -> None:
    film = np.zeros((20, 10), dtype=np.float32)
    film[3, 4] = value
    with pytest.raises(DataError, match="must be numbers, got NaN or infinity"):
        predictor.predict([film])


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (2, 900), (900, 2)])
def test_films_smaller_than_a_stride_get_an_empty_result(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_film(tmp_path / "films/small.png", size)
    predict_films(load_model("demo", precision="32", device="cpu"), [path], tmp_path / "out", options=OPTIONS)
    (spine,) = read_folder(tmp_path / "out").values()
    assert spine.image_size == size
    assert not spine.vertebrae
    assert (tmp_path / "out/overlays/small.png").exists()


def test_films_of_one_size_go_through_the_network_together(predictor: Predictor) -> None:
    shapes = [(8, 8), (9, 8), (8, 8), (8, 8), (9, 8)]
    found = predictor.predict([np.zeros(shape, dtype=np.float32) for shape in shapes], batch_size=4)
    assert [film.image_size for film in found] == shapes
    assert predictor.model.batches == [[(8, 8)] * 3, [(9, 8)], [(9, 8)]]
    assert predictor.batch_size == 1
    predictor.model.batches.clear()
    predictor.predict([np.zeros(shape, dtype=np.float32) for shape in shapes])
    assert predictor.model.batches == [[shape] for shape in shapes]


def test_batches_find_what_single_films_show() -> None:
    torch.manual_seed(0)
    options = yolact.Options(
        backbone="resnet18", image_size=64, channels=16, prototypes=4, score_threshold=0.0, max_detections=5
    )
    predictor = Predictor(yolact.build(options, ("a", "b")), ("a", "b"), name="yolact", weights="", versions={})
    films = [np.random.default_rng(i).random((70, 50), dtype=np.float32) for i in range(3)]
    for single, together in zip(predictor.predict(films), predictor.predict(films, batch_size=3), strict=True):
        assert len(single) > 0
        np.testing.assert_allclose(single.scores, together.scores, atol=1e-5)


def test_too_little_memory_names_the_way_out(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(images: list[torch.Tensor]) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(predictor.model, "forward", fail)
    with pytest.raises(VertinstError, match=r"memory is too small for 2 films at once\n.*--batch-size"):
        predictor.predict([np.zeros((8, 8), dtype=np.float32)] * 2, batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_few_films_are_held_at_once(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    films = [write_film(tmp_path / f"{i:02}.png") for i in range(24)]
    read: list[Path] = []
    written: list[str] = []
    most = []

    def count(path: Path, **tone: Any) -> Film:
        read.append(path)
        most.append(len(read) - len(written))
        return read_film(path, **tone)

    monkeypatch.setattr("vertinst.engine.predict.read_film", count)
    monkeypatch.setattr(results, "write_film", lambda *args, **kwargs: written.append(args[1]))
    predict_films(predictor, films, tmp_path / "out", options=OPTIONS, batch_size=batch_size)
    assert written == [film.name for film in films]
    # A batch that was read ahead, one in the network's hands, and what waits to be written.
    assert max(most) <= 2 * batch_size + 3


def test_prediction_leaves_the_training_mode_as_it_was(predictor: Predictor) -> None:
    for training in (True, False):
        predictor.model.train(training)
        predictor.predict([np.zeros((8, 8), dtype=np.float32)])
        assert predictor.model.training is training


def test_provenance_names_no_path(predictor: Predictor) -> None:
    record = predictor.provenance()
    assert record["model"] == "fixed"
    assert record["weights"] == "w.safetensors"
    assert record["precision"] == "32"
    assert record["classes"] == ["lumbar", "sacral"]
    assert record["versions"]["vertinst"] == vertinst.__version__
    assert "/" not in json.dumps(record)


def test_a_results_folder_keeps_sub_folders(predictor: Predictor, tmp_path: Path) -> None:
    films = [write_film(tmp_path / "in" / name) for name in ("a/film.png", "b/film.png", "c.tif")]
    told: list[tuple[int, int, str]] = []
    out = predict_films(predictor, films, tmp_path / "out", options=OPTIONS, progress=lambda *args: told.append(args))
    assert sorted(read_folder(out)) == ["a/film.png", "b/film.png", "c.tif"]
    assert (out / "a" / "film.json").is_file()
    assert (out / "overlays" / "b" / "film.png").is_file()
    assert told[-1] == (3, 3, "predicting")


def test_masks_of_classes_where_asked_for(predictor: Predictor, tmp_path: Path) -> None:
    films = [write_film(tmp_path / "in" / name) for name in ("a.png", "a_lumbar.png")]
    predict_films(predictor, films[:1], tmp_path / "one", options=OPTIONS, class_masks=True)
    assert sorted(p.name for p in (tmp_path / "one/masks").iterdir()) == [
        "a.png",
        "a_lumbar.png",
        "a_merged.png",
        "a_sacral.png",
    ]
    predict_films(predictor, films, tmp_path / "two", options=OPTIONS)
    with pytest.raises(DataError, match=r"two films would have masks of one name: a\.png and a_lumbar\.png"):
        predict_films(predictor, films, tmp_path / "three", options=OPTIONS, class_masks=True)
    assert not (tmp_path / "three").exists()


def test_limits_of_a_class_that_the_model_has_not_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    options = SpineOptions(suppression=Policy(pairs={"lumbr lumbar": PairRule(iou=0.4)}))
    film = write_film(tmp_path / "in" / "a.png")
    with pytest.raises(ConfigError, match=r"suppression\.pairs names lumbr, which is no class of the model"):
        predict_films(predictor, [film], tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_names_are_relative_to_the_root(predictor: Predictor, tmp_path: Path) -> None:
    film = write_film(tmp_path / "in" / "a" / "film.png")
    predict_films(predictor, [film], tmp_path / "one", options=OPTIONS)
    predict_films(predictor, [film], tmp_path / "two", options=OPTIONS, root=tmp_path / "in")
    assert list(read_folder(tmp_path / "one")) == ["film.png"]
    assert list(read_folder(tmp_path / "two")) == ["a/film.png"]
    with pytest.raises(DataError, match="must lie below the root folder"):
        predict_films(predictor, [film], tmp_path / "three", options=OPTIONS, root=tmp_path / "one")


def test_films_that_would_share_results_are_refused_first(predictor: Predictor, tmp_path: Path) -> None:
    films = [write_film(tmp_path / "film.png"), write_film(tmp_path / "film.tif")]
    with pytest.raises(DataError, match=r"same results: film\.png and film\.tif"):
        predict_films(predictor, films, tmp_path / "out", options=OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_broken_film_stops_no_other_and_is_named_in_the_end(predictor: Predictor, tmp_path: Path) -> None:
    films = [write_film(tmp_path / "in" / f"{name}.png") for name in "abc"]
    films[1].write_bytes(films[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"1 of 3 films could not be read.*were written:\n.*b\.png: film is broken"):
        predict_films(predictor, films, tmp_path / "out", options=OPTIONS)
    assert sorted(read_folder(tmp_path / "out")) == ["a.png", "c.png"]


def test_nothing_to_predict_and_full_folders_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    film = write_film(tmp_path / "in" / "film.png")
    with pytest.raises(DataError, match="no film to predict"):
        predict_films(predictor, [], tmp_path / "out", options=OPTIONS)
    predict_films(predictor, [film], tmp_path / "out", options=OPTIONS)
    with pytest.raises(OutputExistsError, match="not empty"):
        predict_films(predictor, [film], tmp_path / "out", options=OPTIONS)
    predict_films(predictor, [film], tmp_path / "out", options=OPTIONS, overwrite=True)


def test_a_trained_model_is_loaded_by_the_packages_own_function(
    films: Dataset, images: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    train(tiny("schedule.epochs=1"), films, films, images, tmp_path / "run")
    model = vertinst.load_model(tmp_path / "run", precision="32", device="cpu")
    again = vertinst.load_model(tmp_path / "run" / "best.safetensors", precision="32", device="cpu")
    first, second = model.predict([images / "1.png"])[0], again.predict([images / "1.png"])[0]
    assert first.masks == second.masks
    assert model.provenance()["weights"] == "best.safetensors"
    assert isinstance(model, vertinst.Predictor)


def test_a_loaded_model_has_its_batch_norm_folded() -> None:
    model = load_model("demo", precision="32", device="cpu").model
    assert not [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file or run folder"):
        load_model(tmp_path / "missing")
    with pytest.raises(ConfigError, match="device must be"):
        load_model(tmp_path / "missing", device="tpu9")


def write_dicom(path: Path, **elements: Any) -> Path:
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3.4"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 40, 32, 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.PixelData = np.random.default_rng(0).integers(0, 60000, (40, 32), dtype=np.uint16).tobytes()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.save_as(path, enforce_file_format=True)
    return path


def test_view_and_scale_are_the_headers_unless_the_user_states_them(predictor: Predictor, tmp_path: Path) -> None:
    films = [
        write_dicom(tmp_path / "a.dcm", ViewPosition="AP", ImagerPixelSpacing=[0.2, 0.1]),
        write_film(tmp_path / "b.png"),
    ]
    found = read_folder(predict_films(predictor, films, tmp_path / "out", options=OPTIONS))
    assert (found["a.dcm"].view, found["a.dcm"].scale) == ("ap", Scale(0.2, 0.1, "ImagerPixelSpacing, at the detector"))
    assert (found["b.png"].view, found["b.png"].scale) == ("lateral", None)
    said = stated(view="lateral", pixel_spacing_mm=0.3)
    for spine in read_folder(predict_films(predictor, films, tmp_path / "two", options=OPTIONS, stated=said)).values():
        assert (spine.view, spine.scale) == ("lateral", Scale(0.3, 0.3, "stated by the user"))


def test_each_film_has_its_anchor_and_those_of_no_film_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    films = [write_film(tmp_path / "in" / name) for name in ("a.png", "b.png")]
    said = Stated(anchors={"b.png": parse_anchor("L3=lowest")})
    told: list[tuple[str, list[str]]] = []
    predict_films(
        predictor,
        films,
        tmp_path / "out",
        options=OPTIONS,
        stated=said,
        told=lambda name, spine: told.append((name, [v.level for v in spine.vertebrae])),
    )
    found = read_folder(tmp_path / "out")
    assert told == [("a.png", ["+1"]), ("b.png", ["L3"])]
    assert [v.level for name in ("a.png", "b.png") for v in found[name].vertebrae] == ["+1", "L3"]
    wrong = Stated(anchors={"c.png": parse_anchor("L3=lowest")})
    with pytest.raises(DataError, match=r"anchors must be of films that are there, got c\.png"):
        predict_films(predictor, films, tmp_path / "two", options=OPTIONS, stated=wrong)
    assert not (tmp_path / "two").exists()
