"""Pasting masks of 28 x 28 onto films of 2000 x 1500: Detectron2, torchvision and ours, interleaved.

python benchmarks/mask_rcnn_paste.py [--rounds 25] [--masks 12 100] [--threads 2]

Needs Detectron2. Ours gives RLE; Detectron2 gives dense masks and is timed with pycocotools' encoding too. Pixels are
compared with Detectron2's first. Times are medians of the wall clock, ratios medians of neighbours in time; peaks are
what a fresh process needs above its inputs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import torch
from interleaved import Subjects, compare, peak_mib
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

HEIGHT, WIDTH = 2000, 1500
CELLS = 28
DETECTRON2 = "Detectron2, dense"
DETECTRON2_RLE = "Detectron2, with pycocotools' RLE"
TORCHVISION = "torchvision, dense"
OURS = "ours, RLE"


def main() -> None:
    """Print a table for each number of masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=int, nargs="+", default=[12, 100])
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    for count in arguments.masks:
        subjects = _subjects(*_inputs(count))
        if arguments.alone:
            # Once small: what libraries set up at their first call is not the masks'.
            _subjects(*_inputs(1, scale=0.05))[arguments.alone]()
            before = peak_mib()
            subjects[arguments.alone]()
            print(peak_mib() - before)
            continue
        print(f"{count} masks of {CELLS} x {CELLS} on {HEIGHT} x {WIDTH}, {arguments.threads} threads")
        _compare_pixels(subjects)
        compare(subjects, arguments.rounds)
        _print_peaks(subjects, count, arguments.threads)


def _inputs(count: int, scale: float = 1) -> tuple[Tensor, Tensor]:
    """Smooth probabilities, and boxes with sides of 0.1 to 0.25 of the film's, some of which reach over it."""
    generator = torch.Generator().manual_seed(0)
    coarse = 1 + 3 * torch.randn(count, 1, 7, 7, generator=generator)
    masks = F.interpolate(coarse, (CELLS, CELLS), mode="bicubic")[:, 0].sigmoid()
    centres = torch.rand(count, 2, generator=generator)
    sides = scale * (0.1 + 0.15 * torch.rand(count, 2, generator=generator))
    return masks, torch.cat((centres - sides / 2, centres + sides / 2), dim=1) * torch.tensor([WIDTH, HEIGHT] * 2)


def _subjects(masks: Tensor, boxes: Tensor) -> Subjects:
    # Here, so that a process that measures its memory holds nothing that another subject needs.
    def detectron2() -> Tensor:
        from detectron2.layers.mask_ops import paste_masks_in_image

        return paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH))

    def torchvision() -> Tensor:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        return paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH))[:, 0]

    def ours() -> list[Any]:
        from vertinst.models._pasting import paste_roi_masks

        return paste_roi_masks(masks[:, None], boxes, (HEIGHT, WIDTH))

    return {
        DETECTRON2: detectron2,
        DETECTRON2_RLE: lambda: _encode(detectron2()),
        TORCHVISION: torchvision,
        OURS: ours,
    }


def _encode(masks: Tensor) -> list[Any]:
    return [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks.numpy()]


def _compare_pixels(subjects: Subjects) -> None:
    truth = subjects[DETECTRON2_RLE]()
    area = sum(int(coco_mask.area(mask)) for mask in truth)
    for name, masks in ((TORCHVISION, _encode(subjects[TORCHVISION]() >= 0.5)), (OURS, subjects[OURS]())):
        shared = sum(
            int(coco_mask.area(coco_mask.merge(pair, intersect=True))) for pair in zip(truth, masks, strict=True)
        )
        either = sum(int(coco_mask.area(coco_mask.merge(pair))) for pair in zip(truth, masks, strict=True))
        print(f"  {name}: {either - shared} pixels are not Detectron2's, {100 * (either - shared) / area:.2f} %")


def _print_peaks(subjects: Subjects, count: int, threads: int) -> None:
    for name in subjects:
        command = [sys.executable, __file__, "--alone", name, "--masks", str(count), "--threads", str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(f"  {name:<44} {float(done.stdout.split()[-1]):9.0f} MiB at the most")


if __name__ == "__main__":
    main()
