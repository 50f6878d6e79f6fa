"""YOLACT's speed beside the original's (github.com/dbolya/yolact): masks, whole films, training steps; all interleaved.

python benchmarks/yolact_speed.py masks --original PATH [--rounds 9]      from coefficients to RLE on 2000 x 1500
python benchmarks/yolact_speed.py film --original PATH [--engines ...]    from a film in memory to RLE, batch 1
python benchmarks/yolact_speed.py train --original PATH                   a training step, batch 2

Both have the same weights and settings (ResNet-50, 550 px, 80 classes) and find the same objects. Masks of both are
checked to have the same pixels. Times are medians of the wall clock, ratios medians of neighbours in time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yolact_original as theirs
from interleaved import Subjects, compare, peak_mib
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.engine.precision import choose_precision, lay_out
from vertinst.engine.predict import load_model
from vertinst.models._yolact_masks import film_masks

seeded = theirs.seeded
HEIGHT, WIDTH = 2000, 1500
GRID, PROTOTYPES = 138, 32
CONFIG = "resnet50"
SIZE = seeded.CONFIGS[CONFIG].size
ORIGINAL = "original"


def main() -> None:
    """Print a table of the subject that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("masks", "film", "train"))
    parser.add_argument("--original", type=Path, required=True, help="checkout of github.com/dbolya/yolact")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objects", type=int, nargs="+", default=[12, 100], help="masks of how many objects")
    parser.add_argument("--engines", nargs="*", default=["torch", "openvino"], choices=("torch", "onnx", "openvino"))
    parser.add_argument("--precision", default="auto", choices=("auto", "32", "bf16"), help="of ours")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    original = theirs.load_original(arguments.original, seeded.CONFIGS[CONFIG].original)
    {"masks": _masks, "film": _film, "train": _train}[arguments.subject](original, arguments)


# Masks


def _masks(original: SimpleNamespace, arguments: argparse.Namespace) -> None:
    for objects in arguments.objects:
        subjects = _mask_subjects(original, objects)
        if arguments.alone:
            before = peak_mib()
            subjects[arguments.alone]()
            print(peak_mib() - before)
            continue
        _check_pixels(subjects)
        print(f"{objects} objects, {HEIGHT} x {WIDTH}")
        compare(subjects, arguments.rounds)
        for name in subjects:
            command = [sys.executable, __file__, "masks", "--original", str(arguments.original), "--alone", name]
            command += ["--objects", str(objects), "--threads", str(arguments.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(f"  {name:<44} {float(done.stdout.split()[-1]):9.0f} MiB at the most")


def _mask_subjects(original: SimpleNamespace, objects: int) -> Subjects:
    """The original's `postprocess` and the encoding of its evaluation, and ours with its pixels and with our own."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, PROTOTYPES, 18, 18, generator=generator).relu()
    prototypes = F.interpolate(coarse, (GRID, GRID), mode="bicubic")[0].relu()
    coefficients = torch.tanh(torch.randn(objects, PROTOTYPES, generator=generator))
    centre = torch.rand(objects, 2, generator=generator)
    sides = 0.1 + 0.15 * torch.rand(objects, 2, generator=generator)
    boxes = torch.cat((centre - sides / 2, centre + sides / 2), dim=1)
    film_boxes = boxes * torch.tensor([WIDTH, HEIGHT] * 2)
    given = {
        "class": torch.zeros(objects, dtype=torch.int64),
        "score": torch.ones(objects),
        "box": boxes,
        "mask": coefficients,
        "proto": prototypes.permute(1, 2, 0).contiguous(),
    }

    def dense() -> list[Any]:
        detection = {name: value.clone() for name, value in given.items()}
        masks = original.output_utils.postprocess([{"detection": detection, "net": None}], WIDTH, HEIGHT)[3]
        return _encode(masks)

    def ours(**mode: Any) -> list[Any]:
        scale = (GRID / HEIGHT, GRID / WIDTH)
        return film_masks(prototypes, coefficients, film_boxes, (HEIGHT, WIDTH), scale, **mode)

    return {
        ORIGINAL: dense,
        "ours, the original's pixels": lambda: ours(crop="prototype", interpolate="probability"),
        "ours, logits cut on the film": lambda: ours(crop="film", interpolate="logit"),
    }


def _encode(masks: Tensor) -> list[Any]:
    return [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks.numpy()]


def _check_pixels(subjects: Subjects) -> None:
    first, second, *_ = (run() for run in subjects.values())
    different = [coco_mask.decode(a) != coco_mask.decode(b) for a, b in zip(first, second, strict=True)]
    print(f"pixels that differ: {sum(int(d.sum()) for d in different)} of {sum(coco_mask.area(m) for m in first)}")


# Whole films


def _film(original: SimpleNamespace, arguments: argparse.Namespace) -> None:
    grey = np.random.RandomState(0).randint(0, 256, (HEIGHT // 8, WIDTH // 8)).astype(np.uint8)
    film = np.kron(grey, np.ones((8, 8), dtype=np.uint8))
    classes = seeded.CONFIGS[CONFIG].classes
    net = theirs.original_net(original, classes)
    # Its `eval` returns nothing.
    net.eval()
    net.detect.use_fast_nms = True
    transform = original.augmentations.FastBaseTransform()

    def whole() -> list[Any]:
        with torch.no_grad():
            frame = torch.from_numpy(np.repeat(film[..., None], 3, axis=2)).float()
            found = net(transform(frame[None]))
            return _encode(original.output_utils.postprocess(found, WIDTH, HEIGHT)[3])

    subjects: Subjects = {ORIGINAL: whole}
    pixels = film.astype(np.float32) / 255
    with tempfile.TemporaryDirectory() as folder:
        for preset, changes in (("original", {}), ("radiograph", {"preset": "radiograph"})):
            weights = _save(Path(folder) / f"{preset}.safetensors", changes, classes)
            for engine in arguments.engines:
                predictor = load_model(weights, engine=engine, precision=arguments.precision, device="cpu")
                name = f"ours, preset {preset}, {engine}, {predictor.provenance()['precision']}"
                subjects[name] = lambda predictor=predictor: predictor.predict([pixels])[0]
        print(f"a film of {HEIGHT} x {WIDTH}; found: " + ", ".join(str(len(run())) for run in subjects.values()))
        compare(subjects, arguments.rounds)


def _save(path: Path, changes: dict[str, Any], classes: int) -> Path:
    model = seeded.our_model(CONFIG, **changes)
    names = tuple(f"class {i}" for i in range(classes))
    checkpoints.save(path, model.state_dict(), Description("yolact", model.options.model_dump(mode="json"), names))
    return path


# Training


def _train(original: SimpleNamespace, arguments: argparse.Namespace) -> None:
    classes = seeded.CONFIGS[CONFIG].classes
    net = theirs.original_net(original, classes)
    films = torch.from_numpy(np.random.RandomState(0).rand(2, 3, SIZE, SIZE).astype(np.float32))
    model = seeded.our_model(CONFIG)
    targets = seeded.targets(model, SIZE, 2)
    device = torch.device("cpu")
    precision = choose_precision(arguments.precision, device)
    model = lay_out(model, precision, device, training=True).train()  # type: ignore[assignment]
    steps = {name: torch.optim.SGD(part.parameters(), 1e-9, 0.9) for name, part in (("net", net), ("model", model))}

    def their_step() -> None:
        steps["net"].zero_grad()
        losses = theirs.original_losses(original, net, theirs.original_heads(net, films), targets, SIZE)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        steps["net"].step()

    def our_step() -> None:
        steps["model"].zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = model(list(films), targets)
        sum(losses.values()).backward()
        steps["model"].step()

    print(f"a training step with 2 films of {SIZE} x {SIZE}")
    compare({ORIGINAL: their_step, f"ours, {precision}": our_step}, arguments.rounds)


if __name__ == "__main__":
    main()
