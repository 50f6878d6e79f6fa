"""Mask R-CNN's speed beside Detectron2's: whole films and training steps, all interleaved.

python benchmarks/mask_rcnn_speed.py film [--detections 12 100] [--precision auto]   from a film in memory to RLE
python benchmarks/mask_rcnn_speed.py train [--precision auto]                        a training step, two films

Run it with a Python that has Detectron2, built from its public source (see `benchmarks/README.md`). Both sides have the
same weights and settings (ResNet-50, 800 px, 80 classes, frozen up to the second stage) and find as many objects. Times
are medians of the wall clock, ratios medians of neighbours in time; the memory of a training step is the peak of a
process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mask_rcnn_detectron2 as theirs
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from interleaved import Subjects, compare, peak_mib
from mask_rcnn_detectron2 import seeded
from pycocotools import mask as coco_mask

from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.engine.precision import choose_precision, lay_out
from vertinst.engine.predict import load_model

HEIGHT, WIDTH = 2000, 1600
TRAINED = ((1000, 800), (1000, 800))
OBJECTS = (12, 12)
# So small that a step changes nothing that the next one would notice.
RATE = 1e-9
CASE = seeded.CASES["R50"]._replace(trained=TRAINED, objects=OBJECTS)

Run = Callable[[], Any]


def main() -> None:
    """Print a table of the subject that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("film", "train"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--detections", type=int, nargs="+", default=[12, 100], help="found on the film, at the most")
    parser.add_argument("--precision", default="auto", choices=("auto", "32", "bf16"), help="of ours")
    parser.add_argument("--only", choices=SIDES, help="one side, without comparison")
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        STEPS[arguments.alone](arguments.precision)()
        print(peak_mib())
        return
    {"film": _film, "train": _train}[arguments.subject](arguments)


# Whole films


def _film(arguments: argparse.Namespace) -> None:
    grey = seeded.film(HEIGHT, WIDTH)[..., 0]
    makers = {"detectron2": _their_film, "ours": _our_film}
    for most in arguments.detections:
        case = CASE._replace(most=most)
        subjects: Subjects = {}
        for side in [arguments.only] if arguments.only else SIDES:
            name, run = makers[side](case, grey, arguments.precision)
            subjects[name] = run
        found = ", ".join(str(len(run())) for run in subjects.values())
        print(f"a film of {HEIGHT} x {WIDTH}, {arguments.threads} threads; found: {found}")
        compare(subjects, arguments.rounds)


def _their_film(case: seeded.Case, grey: theirs.Film, precision: str) -> tuple[str, Run]:
    net = theirs.network(case)

    def run() -> list[Any]:
        # As DefaultPredictor does it, and COCOEvaluator, with masks by masks.
        with torch.no_grad():
            frame = np.repeat(grey[..., None], 3, axis=2)
            given = {"image": theirs.resized(case, frame), "height": HEIGHT, "width": WIDTH}
            masks = net([given])[0]["instances"].pred_masks
        return [coco_mask.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0] for mask in masks]

    return "Detectron2", run


def _our_film(case: seeded.Case, grey: theirs.Film, precision: str) -> tuple[str, Run]:
    model = seeded.our_model(case)
    names = tuple(f"class {i}" for i in range(case.classes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.safetensors"
        description = Description("mask_rcnn", model.options.model_dump(mode="json"), names)
        checkpoints.save(path, model.state_dict(), description)
        predictor = load_model(path, precision=precision, device="cpu")
    pixels = grey.astype(np.float32) / 255
    return f"ours, {predictor.provenance()['precision']}", lambda: predictor.predict([pixels])[0]


# Training


def _train(arguments: argparse.Namespace) -> None:
    sides = [arguments.only] if arguments.only else list(SIDES)
    print(f"a training step with 2 films of {TRAINED[0][0]} x {TRAINED[0][1]}, {arguments.threads} threads")
    compare({side: STEPS[side](arguments.precision) for side in sides}, arguments.rounds)
    peaks = [_peak_alone(side, arguments) for side in sides]
    for side, peak in zip(sides, peaks, strict=True):
        print(f"  {side:<44} {peak:9.0f} MiB  x {peak / peaks[0]:.3f} at the most")


def _peak_alone(side: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "train", "--alone", side, "--precision", arguments.precision]
    command += ["--threads", str(arguments.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def _their_step(precision: str) -> Run:
    net = theirs.network(CASE).train()
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], RATE, 0.9)
    batch = []
    for film, target in zip(seeded.trained_films(CASE), seeded.targets(CASE), strict=True):
        truth = Instances(film.shape[:2])
        truth.gt_boxes, truth.gt_masks = Boxes(target["boxes"]), BitMasks(target["masks"])
        truth.gt_classes = target["labels"] - 1
        pixels = np.ascontiguousarray(film[:, :, ::-1].transpose(2, 0, 1))
        batch.append({"image": torch.from_numpy(pixels), "instances": truth})

    def step() -> None:
        optimiser.zero_grad()
        with EventStorage():
            torch.stack(list(net(batch).values())).sum().backward()
        optimiser.step()

    return step


def _our_step(precision: str) -> Run:
    device = torch.device("cpu")
    chosen = choose_precision(precision, device)
    model = lay_out(seeded.our_model(CASE), chosen, device, training=True).train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE, 0.9)
    films = [seeded.as_image(film) for film in seeded.trained_films(CASE)]
    targets = seeded.targets(CASE)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=chosen == "bf16"):
            losses = model(films, targets)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()

    return step


STEPS: dict[str, Callable[[str], Run]] = {"detectron2": _their_step, "ours": _our_step}
SIDES = tuple(STEPS)


if __name__ == "__main__":
    main()
