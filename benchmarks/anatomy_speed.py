"""How long everything after the network takes for a film, beside the network's own pass over it.

    python benchmarks/anatomy_speed.py --rounds 9 --threads 2

Phantom films of 1024 x 768 px with 20 instances, a few of them candidates (levels, implants, corners with uncertainty,
all measures), and YOLACT with ResNet-50 at 550 px (random weights; its time does not hang on them), all in turn in one
run. There are more films than masks are remembered (`vertinst.structures.recent`): each is looked at as a new one.
"""

from __future__ import annotations

import argparse
import warnings
from itertools import cycle

import numpy as np
import torch
from interleaved import Subjects, compare

from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.data.synthetic_detections import DetectorErrors, imitate_detector
from vertinst.engine.precision import choose_precision, lay_out
from vertinst.models import yolact
from vertinst.postprocess.pipeline import build_spine
from vertinst.structures import Instances
from vertinst.structures.dataset import CLASSES
from vertinst.structures.recent import MOST

SEED = 0
INSTANCES = 20
FILMS = 8
assert FILMS * INSTANCES > MOST


def main() -> None:
    """Check the film, then time both."""
    parser = argparse.ArgumentParser(description="Post-processing beside a network's pass.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", choices=("auto", "32", "bf16"))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    films = _films()
    for found in films:
        spine = build_spine(found, CLASSES)
        print(
            f"{len(found)} instances: {len(spine.vertebrae)} vertebrae, {len(spine.implants)} implants;",
            spine.construct,
        )
    measured, unmeasured = cycle(films), cycle(films)
    device = torch.device("cpu")
    precision = choose_precision(chosen.precision, device)
    network = lay_out(yolact.build(yolact.Options(backbone="resnet50"), CLASSES).eval(), precision, device)
    film = torch.rand(3, 550, 550)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network([film])

    subjects: Subjects = {
        f"YOLACT, ResNet-50, 550 px ({precision})": forward,
        "all after it": lambda: build_spine(next(measured), CLASSES),
        "levels alone, nothing measured": lambda: build_spine(next(unmeasured), CLASSES, measured=False),
    }
    compare(subjects, chosen.rounds)


def _films() -> list[Instances]:
    """The first phantoms with at least so many instances, with the errors of a detector."""
    style = PhantomStyle(metal_share=1.0, cage_only_share=0.0, films_per_patient=1)
    films: list[Instances] = []
    number = 0
    while len(films) < FILMS:
        number += 1
        regions, truth = film_regions(draw_patient(SEED, number, style), SEED, 1, style)
        size = (truth["height"], truth["width"])
        found = imitate_detector(np.random.default_rng(number), regions, size, CLASSES, DetectorErrors())
        if len(found) >= INSTANCES:
            films.append(found[list(range(INSTANCES))])
    return films


if __name__ == "__main__":
    main()
