"""Weights, films, truths and head outputs made from a seed: the same numbers for the original YOLACT and for ours.

All of it comes from `numpy.random.RandomState`, whose streams are frozen, so that fixtures need not hold any input.
Used by `test_yolact_against_original.py` and by `benchmarks/yolact_original.py`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vertinst.models._anchors import anchor_boxes
from vertinst.models.yolact import Options, Raw, Yolact

Arrays = dict[str, NDArray[Any]]

# The kinds of suppression.
NMS_KINDS = ("fast", "cross_class", "ordinary")
# Objects on each film of a batch with truths.
OBJECTS = (3, 2)
# Configurations whose crafted head outputs, losses (with so many films) and preprocessing are kept as fixtures.
CRAFTED = {"resnet50": 8, "plus_resnet50": 80}
DIFFERENTIATED = {"resnet50": 2, "plus_resnet50": 1}
PREPROCESSED = ("resnet50", "darknet53")
# Films on which masks are compared, (H, W): the network's own size, enlarged, made smaller and wide.
FILM_SIZES = ((160, 160), (331, 207), (97, 405))
# Films that are preprocessed: square, high, wide, and smaller than the network's input.
PREPROCESSED_SIZES = ((700, 700), (913, 640), (300, 777), (64, 50))
# Added to the background's logit: most anchors are background.
BACKGROUND_BIAS = 6.0
# Variance of max(x, 0) for a standard normal x: (1 - 1 / pi) / 2.
RELU_VARIANCE = 0.3408
# A prime: each layer repeats so many numbers, and no two of its filters are alike.
POOL = 65537
# Factors on the standard deviation that a layer's output would have; the first ending that fits counts.
GAINS = {
    "bn3.weight": 0.25,
    "downsample.1.weight": 0.8,
    "conv2.1.weight": 0.12,
    "conv_offset_mask.weight": 0.5,
    ".0.1.weight": 0.65,
    "proto_net.10.weight": 0.12,
    "bbox_layer.weight": 0.3,
    "conf_layer.weight": 0.8,
    "mask_layer.weight": 0.8,
    "maskiou_net.maskiou_net.10.weight": 3.0,
}


class Config(NamedTuple):
    """A configuration of the original, and what ours is called with."""

    original: str
    classes: int
    size: int
    anchors_px: tuple[int, ...]
    """Of P3 to P7 at the full size."""
    options: dict[str, Any]


_COCO, _PASCAL = 80, 20
_ANCHORS = (24, 48, 96, 192, 384)
_PLUS = {"anchor_scales": (1.0, 2 ** (1 / 3), 2 ** (2 / 3)), "square_anchors": False, "mask_rescoring": True}
CONFIGS = {
    "resnet50": Config("yolact_resnet50_config", _COCO, 550, _ANCHORS, {"backbone": "resnet50"}),
    "resnet101": Config("yolact_base_config", _COCO, 550, _ANCHORS, {"backbone": "resnet101"}),
    "darknet53": Config("yolact_darknet53_config", _COCO, 550, _ANCHORS, {"backbone": "darknet53"}),
    "im400": Config("yolact_im400_config", _COCO, 400, (17, 34, 69, 139, 279), {"backbone": "resnet101"}),
    "im700": Config("yolact_im700_config", _COCO, 700, (30, 61, 122, 244, 488), {"backbone": "resnet101"}),
    "resnet50_pascal": Config(
        "yolact_resnet50_pascal_config",
        _PASCAL,
        550,
        (32, 64, 128, 256, 512),
        {"backbone": "resnet50", "square_anchors": False},
    ),
    "plus_base": Config(
        "yolact_plus_base_config", _COCO, 550, _ANCHORS, {"backbone": "resnet101", "deformable_interval": 3, **_PLUS}
    ),
    "plus_resnet50": Config(
        "yolact_plus_resnet50_config", _COCO, 550, _ANCHORS, {"backbone": "resnet50", "deformable_interval": 1, **_PLUS}
    ),
}

# Sides of the films on which the fixtures' head outputs were computed. The two sizes differ from ResNet-101 in anchors.
SMALL = dict.fromkeys(CONFIGS, 160) | {"resnet50": 550, "im400": 96, "im700": 96}


def our_options(name: str, size: int | None = None, **changes: Any) -> Options:
    """Options that stand for a configuration of the original; a smaller `size` keeps the anchors' pixels.

    At the full size the anchors of the preset are used where it has them.
    """
    config = CONFIGS[name]
    options: dict[str, Any] = {"preset": "original", "image_size": size or config.size}
    if size not in (None, config.size) or name == "resnet50_pascal":
        options["anchor_sizes"] = tuple(side / options["image_size"] for side in config.anchors_px)
    return Options(**{**options, **config.options, **changes})


def our_model(name: str, size: int | None = None, *, classes: int | None = None, **changes: Any) -> Yolact:
    """Our network with the seed's weights, in evaluation."""
    classes = classes or CONFIGS[name].classes
    model = Yolact(our_options(name, size, **changes), classes)
    made = weights({key: tuple(value.shape) for key, value in model.state_dict().items()}, classes)
    model.load_state_dict(made)
    return model.eval()


def our_heads(model: Yolact, films: Tensor) -> tuple[Raw, Tensor]:
    """The network's outputs, and those of the semantic layer."""
    raw, finest = model._compute(films)
    return raw, model.semantic_seg_conv(finest)


def our_priors(model: Yolact, size: int) -> Tensor:
    """Anchors as the original has them: (A, 4) centre and size as fractions of the film."""
    anchors = model._anchors((size, size), torch.device("cpu")) / size
    return torch.cat(((anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]), dim=1)


def our_losses(
    model: Yolact, raw: Raw, semantic: Tensor, targets: list[dict[str, Tensor]], size: int
) -> dict[str, Tensor]:
    """Losses under the original's letters."""
    letters = {"loss_box": "B", "loss_class": "C", "loss_mask": "M", "loss_semantic": "S", "loss_rescoring": "I"}
    targets = [{**target, "masks": target["masks"].float()} for target in targets]
    return {letters[key]: loss for key, loss in model._losses(raw, semantic, targets, (size, size)).items()}


def score_masks() -> Tensor:
    """(6, 138, 138) in 0..1, for the mask-IoU network."""
    return batch(2, 138).flatten(0, 1).sigmoid()


def our_score_maps(model: Yolact, masks: Tensor) -> Tensor:
    """(N, C): the mask-IoU network's guess for (N, h, w) masks as each class."""
    assert model.maskiou_net is not None
    labels = torch.arange(1, model.classes + 1)
    return torch.stack([model.maskiou_net(mask.expand(len(labels), -1, -1), labels) for mask in masks])


def with_nms(options: Options, kind: str) -> Options:
    """Options with another kind of suppression and the preset's limits for it."""
    most = Options.model_validate({"preset": "original", "nms": kind}).max_detections
    return options.model_copy(update={"nms": kind, "max_detections": most})


def named(raw: Raw, semantic: Tensor) -> dict[str, Tensor]:
    """Our outputs under the original's names."""
    return {
        "loc": raw.deltas,
        "conf": raw.logits,
        "mask": raw.coefficients,
        "proto": raw.prototypes,
        "segm": semantic,
    }


def gradients(losses: dict[str, Tensor], outputs: dict[str, Tensor], parameters: dict[str, Tensor]) -> Arrays:
    """Gradients of the losses' sum: `loc`, ... of the outputs, and of the parameters by their names."""
    wanted = {**outputs, **parameters}
    total = sum(losses.values(), torch.zeros(()))
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True, retain_graph=True)
    return {
        name: np.zeros(tensor.shape, np.float32) if gradient is None else gradient.numpy()
        for (name, tensor), gradient in zip(wanted.items(), found, strict=True)
    }


def relative(wanted: Any, found: Any) -> float:
    """Largest difference between two arrays, as a share of the largest number in the first."""
    return float(np.abs(wanted - found).max() / max(np.abs(wanted).max(), 1e-30))


def crafted_model(name: str) -> Yolact:
    """A slim network with the configuration's anchors, mask-IoU network and ways to detect."""
    slim = {"backbone": "resnet18", "deformable_interval": 0, "channels": 8, "prototypes": 8}
    return our_model(name, crafted_size(name), classes=CRAFTED[name], **slim)


def headless(name: str) -> Yolact:
    """A small network with the configuration's anchors and preprocessing at its full size."""
    options = our_options(name)
    slim = {"channels": 8, "prototypes": 1, "deformable_interval": 0}
    if options.backbone != "darknet53":
        slim["backbone"] = "resnet18"
    return Yolact(options.model_copy(update=slim), 1)


def crafted_cases(name: str) -> list[tuple[str, str, tuple[int, int]]]:
    """Heads, kind of suppression and size of the film."""
    if CONFIGS[name].options.get("mask_rescoring"):
        return [("crowded", "fast", FILM_SIZES[2])]
    cases = [("crowded", "fast", size) for size in FILM_SIZES]
    cases += [("crowded", kind, FILM_SIZES[2]) for kind in NMS_KINDS[1:]]
    return cases + [("faint", kind, FILM_SIZES[2]) for kind in NMS_KINDS]


def use_double() -> None:
    """Let everything in this process compute in double precision, also what asks for `float()`."""
    anchor_boxes.cache_clear()
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]


def crafted_size(name: str) -> int:
    """Side of the film that crafted head outputs are for."""
    return 256 if CONFIGS[name].options.get("mask_rescoring") else 160


def loss_size(name: str) -> int:
    """Side of the film that losses are computed on: a power of two, so that boxes as fractions of it are exact.

    Otherwise rounding decides in the original whether a pixel on the edge of a box belongs to it.
    """
    return 256 if CONFIGS[name].options.get("mask_rescoring") else 128


def targets(model: Yolact, size: int, films: int) -> list[dict[str, Tensor]]:
    """Truths of a batch."""
    return [truth(size, model.classes, objects, seed) for seed, objects in enumerate(OBJECTS[:films])]


def digest(arrays: Mapping[str, Any], count: int = 48) -> Arrays:
    """Of each array `count` entries, drawn by its name, and after them the means of x, |x| and x squared."""
    result = {}
    for name, values in arrays.items():
        flat = np.asarray(values.detach() if isinstance(values, Tensor) else values, dtype=np.float64).reshape(-1)
        chosen = _stream(0, name).randint(0, max(flat.size, 1), min(count, flat.size))
        means = [flat.mean(), np.abs(flat).mean(), (flat**2).mean()] if flat.size else [0.0] * 3
        result[name] = np.concatenate((flat[chosen], means)).astype(np.float32)
    return result


def _stream(seed: int, name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))


def weights(shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int = 0) -> dict[str, Tensor]:
    """A tensor for each name of the original's parameters and buffers, so that activations stay of order one.

    Every filter sums to zero, so that the mean of what it sees, which ReLUs make large, does not drown its structure.
    """
    return {name: torch.from_numpy(_tensor(name, shape, classes, seed)) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], classes: int, seed: int) -> NDArray[Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    size = int(np.prod(shape))
    uniform = np.resize((_stream(seed, name).random_sample(min(size, POOL)) * 2 - 1).astype(np.float32), shape)
    gain = next((factor for ending, factor in GAINS.items() if name.endswith(ending)), 1.0)
    if name.endswith("running_var"):
        values = np.exp(0.2 * uniform)
    elif len(shape) == 4:
        uniform -= uniform.mean(axis=(1, 2, 3), keepdims=True)
        values = np.float32(gain * np.sqrt(3 / RELU_VARIANCE * shape[0] / size)) * uniform
    elif name.endswith("weight"):
        values = gain * (1 + 0.2 * uniform)
    else:
        values = 0.2 * uniform
    if name.endswith("conf_layer.bias"):
        values.reshape(-1, classes + 1)[:, 0] += BACKGROUND_BIAS
    return values.astype(np.float32)


def film(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A grey film (H, W) with structure from coarse to fine."""
    draw = _stream(seed, f"film {height} {width}")
    values = np.zeros((height, width))
    for cells, contrast in ((4, 60.0), (9, 50.0), (23, 40.0)):
        values += contrast * _enlarge(draw.random_sample((cells, cells)) * 2 - 1, height, width)
    values += 25 * (draw.random_sample((height, width)) * 2 - 1)
    return np.clip(values + 115, 0, 255).astype(np.uint8)


def colour_film(height: int, width: int) -> Tensor:
    """(3, H, W) uint8, red, green and blue: another film in each channel, so that their order shows."""
    return torch.from_numpy(np.stack([film(height, width, seed) for seed in range(3)]))


def _enlarge(grid: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows, columns = (np.linspace(0, n - 1, size) for n, size in zip(grid.shape, (height, width), strict=True))
    steps = np.arange(grid.shape[0])
    tall = np.stack([np.interp(rows, steps, column) for column in grid.T], axis=1)
    return np.stack([np.interp(columns, np.arange(grid.shape[1]), row) for row in tall])


def batch(films: int, size: int, seed: int = 0) -> Tensor:
    """(films, 3, size, size) float32 of about unit spread, each channel its own film."""
    pixels = np.stack([[film(size, size, seed + 3 * i + channel) for channel in range(3)] for i in range(films)])
    return torch.from_numpy(((pixels - 115.0) / 45.0).astype(np.float32))


def truth(size: int, classes: int, objects: int, seed: int = 0) -> dict[str, Tensor]:
    """Ellipses, the same for the same seed.

    Returns:
        `boxes` (N, 4) xyxy px, looser than tight by parts of a pixel, so that no edge is a matter of rounding; `labels`
        (N,) from 1; `masks` (N, size, size) bool.
    """
    draw = _stream(seed, f"truth {size} {objects}")
    y, x = np.mgrid[:size, :size] + 0.5
    masks = []
    for _ in range(objects):
        cy, cx = size * (0.2 + 0.6 * draw.random_sample(2))
        ry, rx = size * (0.05 + 0.13 * draw.random_sample(2))
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    boxes = [
        [m.any(0).argmax(), m.any(1).argmax(), size - m.any(0)[::-1].argmax(), size - m.any(1)[::-1].argmax()]
        for m in masks
    ]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32) + torch.tensor([-0.37, -0.41, 0.33, 0.29]),
        "labels": torch.from_numpy(draw.randint(1, classes + 1, objects)),
        "masks": torch.from_numpy(np.stack(masks)),
    }


def crafted_heads(model: Yolact, size: int, *, prototypes: int = 8, faint: bool = False) -> dict[str, Tensor]:
    """Head outputs (one film) on which the kinds of NMS, `top_k` and the cap on detections all give other answers.

    Anchors take jittered copies of a crowd of boxes, most with the class of their box, some with another one.

    Args:
        model: Gives the anchors and the number of classes.
        size: Of the film, px, a multiple of 4.
        prototypes: How many.
        faint: Few anchors pass the threshold: then Fast NMS shows whether it asks each class for it.

    Returns:
        `priors` (A, 4), `loc` (1, A, 4), `conf` (1, A, C + 1) logits, `mask` (1, A, k) in -1..1, `proto` (1, k, h, w).
    """
    draw = _stream(0, "heads")
    priors, classes, side = our_priors(model, size), model.classes, size // 4
    anchors = priors.double().numpy()
    count, crowds = len(anchors), 160
    crowd = np.concatenate((draw.random_sample((crowds, 2)), 0.06 + 0.12 * draw.random_sample((crowds, 2))), axis=1)
    crowd_class = np.where(draw.random_sample(crowds) < 0.8, 1, draw.randint(1, classes + 1, crowds))
    crowd_score = 2 + 5 * draw.random_sample(crowds)
    distance = np.abs(anchors[:, None, :2] - crowd[None, :, :2]).sum(-1) + 0.1 * draw.random_sample((count, crowds))
    chosen = distance.argmin(axis=1)
    boxes = crowd[chosen] + crowd[chosen][:, [2, 3, 2, 3]] * 0.2 * (draw.random_sample((count, 4)) * 2 - 1)
    loc = np.concatenate(
        ((boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:] / 0.1, np.log(boxes[:, 2:] / anchors[:, 2:]) / 0.2), axis=1
    )
    logits = draw.random_sample((count, classes + 1)) * 2 - 1
    logits[:, 0] += math.log(classes) + (6 if faint else 1)
    other = draw.randint(1, classes + 1, count)
    labels = np.where(draw.random_sample(count) < 0.85, crowd_class[chosen], other)
    # The first class is so strong that `top_k` cuts off boxes of it which outscore most of the others.
    weak = (labels != 1) & (draw.random_sample(count) < 0.8)
    logits[np.arange(count), labels] += crowd_score[chosen] + draw.random_sample(count) * 1.5 - 3 * weak
    grids = [_enlarge(draw.random_sample((7, 7)) * 2 - 0.8, side, side) for _ in range(prototypes)]
    coefficients = np.tanh(draw.random_sample((len(anchors), prototypes)) * 4 - 2)
    arrays = {"loc": loc, "conf": logits, "mask": coefficients, "proto": np.maximum(np.stack(grids), 0)}
    return {"priors": priors} | {
        name: torch.from_numpy(values.astype(np.float32))[None] for name, values in arrays.items()
    }
