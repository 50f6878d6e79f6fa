"""YOLACT's contours with and without each switch, on phantoms: boundary IoU and 95 % Hausdorff distance.

    OMP_NUM_THREADS=2 python benchmarks/yolact_masks.py --out masks [--seeds 0,1,2] [--set model.image_size=384]

Switches of inference are compared on one set of weights; switches of training by fine-tuning the packaged demo weights,
as often as there are seeds, on the same films in the same order for the same number of epochs. Films of 1024 x 768 px,
of other seeds than the demo weights' own; training and test films of different patients. Prints a Markdown table and
writes `table.md` and enlarged contours (`contours/*.png`) into the folder. A run that was stopped goes on where it was:
give the same arguments again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from vertinst import plugins
from vertinst.config import load_config
from vertinst.data.phantom import make_phantoms
from vertinst.data.radiograph import read_film
from vertinst.data.splits import split_by_patient
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.evaluate import EvaluateOptions, evaluate
from vertinst.engine.train import train
from vertinst.files import write_bytes, write_text
from vertinst.postprocess.pipeline import SpineOptions, build_spine
from vertinst.postprocess.policy import Policy
from vertinst.structures import Dataset, ImageRecord, Rle, Spine, rle

FILMS_SEED = 4
SHARP_WIDTH = 0.005
"""Of a second boundary IoU: 6 px on these films, where the paper's 2 % are 26 px, a third of a vertebra's height."""

OFF = SpineOptions(suppression=Policy.allowing_all())
ORIGINAL = {"mask_crop": "prototype", "mask_interpolation": "probability"}

EXPANSION = "model.box_expansion=0.1"
FINE = "model.fine_prototypes=true"
BOUNDARY = "model.boundary_weight=2"
TRAININGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "expanded": (EXPANSION,),
    "fine": (FINE,),
    "boundary": (BOUNDARY,),
    "all": (EXPANSION, FINE, BOUNDARY),
}


@dataclass(frozen=True)
class Row:
    """A line of the table: which training, and what is changed after it: the model's options, suppression of masks."""

    name: str
    training: str = "plain"
    inference: Mapping[str, Any] = field(default_factory=dict)
    suppressed: bool = True


ROWS = (
    Row("masks as the original's, no mask-level suppression", inference=ORIGINAL, suppressed=False),
    Row("masks as the original's (cropped among the prototypes, probabilities enlarged)", inference=ORIGINAL),
    Row("logits enlarged, cropped among the prototypes", inference={"mask_crop": "prototype"}),
    Row("probabilities enlarged, cropped on the film", inference={"mask_interpolation": "probability"}),
    Row("**logits enlarged, cropped on the film (default)**"),
    Row("default, no mask-level suppression", suppressed=False),
    Row("default, boxes expanded by 0.1 after training", inference={"box_expansion": 0.1}),
    Row("default, boxes expanded by 0.1 in training too", "expanded"),
    Row("default, fine prototypes", "fine"),
    Row("default, boundary weight 2", "boundary"),
    Row("default, all three in training", "all"),
)
COLUMNS = (
    ("IoU, merged", "{:.4f}", lambda m, s: m["summary"]["mean_iou"]),
    ("boundary IoU, 2 %", "{:.4f}", lambda m, s: m["summary"]["contours"]["boundary_iou"]),
    ("boundary IoU, 0.5 %", "{:.4f}", lambda m, s: s["summary"]["contours"]["boundary_iou"]),
    ("HD95, px", "{:.2f}", lambda m, s: m["summary"]["contours"]["hd95_px"]),
    ("mask AP", "{:.3f}", lambda m, s: m["ap"]["mask"]["AP"]),
    ("found", "{:.0f}", lambda m, s: m["summary"]["vertebrae"]["found"]),
    ("false", "{:.1f}", lambda m, s: m["summary"]["vertebrae"]["false"]),
)


def main() -> None:
    """Train what is missing, predict, score, and write the table and the pictures."""
    options = _arguments()
    rows = [row for row in ROWS if row.training in options.trainings]
    train_set, test_set, images = _films(options.out, options.train_films, options.test_films)
    results: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {row.name: [] for row in rows}
    pictured: dict[str, dict[str, Spine]] = {}
    for seed in options.seeds:
        for training in options.trainings:
            run = _trained(options, training, seed, train_set, images)
            own = [row for row in rows if row.training == training]
            for row, spines in zip(own, _predicted(run, own, test_set, images), strict=True):
                widths = ({}, {"boundary_width": SHARP_WIDTH})
                scored = [evaluate(test_set, spines, options=EvaluateOptions(**width)) for width in widths]
                results[row.name].append((scored[0], scored[1]))
                pictured.setdefault(row.name, spines)
    annotated = sum(not a.ignore and a.category in ("lumbar", "sacral") for i in test_set.images for a in i.annotations)
    text = "\n".join(_table(results, annotated))
    write_text(options.out / "table.md", text + "\n")
    _draw(options.out / "contours", test_set, images, {row.name: pictured[row.name] for row in rows}, options.pictures)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Contours of YOLACT's masks with and without each switch.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for films, runs, table and pictures.")
    parser.add_argument("--train-films", type=int, default=60)
    parser.add_argument("--test-films", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0])
    parser.add_argument(
        "--trainings",
        type=lambda text: text.split(","),
        default=list(TRAININGS),
        help=f"Which to run, with commas: {', '.join(TRAININGS)}.",
    )
    parser.add_argument("--pictures", type=int, default=4, help="Vertebrae to draw.")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="Further settings of training.")
    options = parser.parse_args()
    unknown = set(options.trainings) - set(TRAININGS)
    if unknown:
        parser.error(f"--trainings must be among {', '.join(TRAININGS)}, got {', '.join(sorted(unknown))}")
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _films(out: Path, train_films: int, test_films: int) -> tuple[Dataset, Dataset, Path]:
    count = train_films + test_films
    folder = out / f"films-{count}"
    if not (folder / "truth.json").is_file():
        _say(f"making {count} phantoms")
        make_phantoms(count, FILMS_SEED, folder, overwrite=True)
    images = folder / "images"
    dataset, _ = plugins.load("converters", "via").read([folder / "via_project.json"], images)
    split = split_by_patient(dataset, (train_films / count, test_films / count), FILMS_SEED)
    return split.train, split.val, images


def _trained(options: argparse.Namespace, training: str, seed: int, train_set: Dataset, images: Path) -> Path:
    """The run folder of one training, done now unless it is finished."""
    settings = (
        "init.strict=false",
        f"seed={seed}",
        f"schedule.epochs={options.epochs}",
        *TRAININGS[training],
        *options.settings,
    )
    run: Path = options.out / f"run-{training}-{seed}"
    start = time.monotonic()
    nothing = Dataset(train_set.categories, ())
    resume = (run / "last.safetensors").is_file()
    config = load_config("yolact_demo.yaml", settings)
    train(config, train_set, nothing, images, run, resume=resume, overwrite=not resume)
    _say(f"training {training}, seed {seed}: {(time.monotonic() - start) / 60:.1f} minutes")
    return run


def _predicted(run: Path, rows: Sequence[Row], test_set: Dataset, images: Path) -> list[dict[str, Spine]]:
    """Spines by film for each row; the network runs once for all of them."""
    found: list[dict[str, Spine]] = [{} for _ in rows]
    checkpoint = checkpoints.read(run)
    model: Any = checkpoints.build_model(checkpoint).eval()
    trained = model.options
    for record in test_set.images:
        film = torch.from_numpy(read_film(images / record.file_name, tone=trained.film_tone).pixels)
        with torch.inference_mode():
            batch, sizes = model.prepare([film.expand(3, -1, -1)])
            raw = model.network(batch)
            for row, spines in zip(rows, found, strict=True):
                model.options = trained.model_copy(update=dict(row.inference))
                (instances,) = model.detect(raw, tuple(batch.shape[-2:]), [record.image_size], sizes)
                spines[record.file_name] = build_spine(
                    instances, checkpoint.description.classes, options=SpineOptions() if row.suppressed else OFF
                )
    return found


def _table(results: Mapping[str, list[tuple[dict[str, Any], dict[str, Any]]]], annotated: int) -> Iterator[str]:
    """Markdown; means over the seeds, and where there are several, half of what lies between the extremes."""
    names = [f"{name} of {annotated}" if name == "found" else name for name, _, _ in COLUMNS]
    yield "| masks | " + " | ".join(names) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name, seeds in results.items():
        cells = [_cell([value(*metrics) for metrics in seeds], form) for _, form, value in COLUMNS]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "n/a"
    spread = f" ± {form.format((max(known) - min(known)) / 2)}" if len(known) > 1 else ""
    return form.format(statistics.fmean(known)) + spread


TILE_PX, MARGIN, TEXT_PX, ACROSS = 440, 0.25, 40, 4
TRUTH_BGR, FOUND_BGR = (255, 255, 255), (60, 200, 255)


def _draw(folder: Path, test_set: Dataset, images: Path, spines: Mapping[str, Mapping[str, Spine]], count: int) -> None:
    """One picture a vertebra, taken evenly from the films: a tile a row of the table, annotated white, found yellow."""
    step = max(1, len(test_set) // max(count, 1))
    for number, record in enumerate(test_set.images[::step][:count]):
        bones = [a for a in record.annotations if a.category in ("lumbar", "sacral") and not a.ignore]
        if not bones:
            continue
        truth = bones[(2 + number) % len(bones)].mask
        pixels = read_film(images / record.file_name).pixels
        tiles = [_tile(pixels, record, truth, found[record.file_name], name) for name, found in spines.items()]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % ACROSS)
        picture = np.vstack([np.hstack(tiles[i : i + ACROSS]) for i in range(0, len(tiles), ACROSS)])
        folder.mkdir(parents=True, exist_ok=True)
        name = Path(record.file_name).stem
        write_bytes(folder / f"{name}.png", cv2.imencode(".png", picture)[1].tobytes())


def _tile(
    pixels: npt.NDArray[np.float32], record: ImageRecord, truth: Rle, spine: Spine, name: str
) -> npt.NDArray[np.uint8]:
    box = rle.box_xyxy(truth)
    side = (1 + 2 * MARGIN) * float(max(box[2:] - box[:2]))
    left, top = (box[:2] + box[2:]) / 2 - side / 2
    scale = TILE_PX / side
    # The middle of the film's first pixel lies half a pixel from its corner, on the tile as on the film.
    move = np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])
    grey = cv2.warpAffine(pixels, move, (TILE_PX, TILE_PX), flags=cv2.INTER_CUBIC)
    tile = cv2.cvtColor((np.clip(grey, 0, 1) * 200).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    for mask, colour in [(truth, TRUTH_BGR), *((v.mask, FOUND_BGR) for v in spine.vertebrae)]:
        for part in rle.rle_to_polygons(mask):
            points = (part.exterior - [left, top]) * scale - 0.5
            fixed = np.rint(points * 16).astype(np.int32)
            cv2.polylines(tile, [fixed], True, colour, 1, cv2.LINE_AA, 4)
    caption = np.zeros((TEXT_PX, TILE_PX, 3), dtype=np.uint8)
    words = name.replace("*", "")
    for line, text in enumerate((words[:55], words[55:])):
        cv2.putText(caption, text, (4, 14 + 17 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.42, TRUTH_BGR, 1, cv2.LINE_AA)
    return np.vstack([caption, tile])


if __name__ == "__main__":
    main()
