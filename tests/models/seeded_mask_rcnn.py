"""Weights by Detectron2's names, films and truths made from a seed: the same for Detectron2's Mask R-CNN and for ours.

All of it comes from `numpy.random.RandomState`, whose streams are frozen, so that fixtures need not hold any input.
Used by `test_mask_rcnn_against_detectron2.py` and by `benchmarks/mask_rcnn_numbers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from seeded_yolact import Arrays, _enlarge, _stream, digest, relative
from torch import Tensor

from vertinst.models import _mask_rcnn_heads, _mask_rcnn_names, _mask_rcnn_rpn
from vertinst.models._pasting import paste_roi_masks
from vertinst.models.mask_rcnn import MaskRCNN, Options
from vertinst.structures.rle import decode

__all__ = ["CASES", "SMALL", "Arrays", "Case", "digest", "film", "relative", "shapes", "targets", "weights"]

_FLOAT = torch.Tensor.float

# A prime: each layer repeats so many numbers, and no two of its filters are alike.
POOL = 65537
# Variance of max(x, 0) for a standard normal x: (1 - 1 / pi) / 2.
RELU_VARIANCE = 0.3408
# Factors on the standard deviation that a layer's output would have; the first part of a name that fits counts.
GAINS = {
    # Films have a spread of 60 grey values, where other layers get one.
    "stem.conv1.weight": 1 / 75,
    "shortcut.norm.weight": 0.8,
    "fpn_lateral": 0.6,
    # Coarse levels have few anchors, which shall be among the best too.
    "fpn_output2": 0.35,
    "fpn_output3": 0.6,
    "fpn_output4": 1.2,
    "fpn_output5": 2.5,
    "objectness_logits": 1.8,
    "anchor_deltas": 0.4,
    "fc1.weight": 0.6,
    "fc2.weight": 1.5,
    "cls_score.weight": 2.6,
    "bbox_pred.weight": 1.0,
    "mask_head.predictor": 2.5,
}
THEIR_LOSSES = {
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_loc",
}
TORCHVISION_GAINS = {
    "bn3.weight": 0.25,
    "downsample.1.weight": 0.8,
    # The other norms of v2.
    ".1.weight": 1.0,
    "inner_blocks": 0.6,
    "layer_blocks.0": 0.35,
    "layer_blocks.1": 0.6,
    "layer_blocks.2": 1.2,
    "layer_blocks.3": 2.5,
    "rpn.head.cls_logits": 1.8,
    "rpn.head.bbox_pred": 0.4,
    "fc6.weight": 0.6,
    "fc7.weight": 1.5,
    "cls_score.weight": 2.6,
    "mask_fcn_logits": 2.5,
}
# Added to the logits: most anchors and most boxes are background.
OBJECTNESS_BIAS = -1.0
BACKGROUND_BIAS = 4.0

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Case(NamedTuple):
    """A configuration of Detectron2's zoo and what is changed in it; the films that both sides see."""

    depth: int
    classes: int = 80
    channels: int = 256
    box_width: int = 1024
    mask_convs: int = 4
    shortest: int = 800
    longest: int = 1333
    anchors_px: tuple[int, ...] = (32, 64, 128, 256, 512)
    proposals_train: tuple[int, int] = (2000, 1000)
    """Before suppression on each level, and after it in all."""
    proposals_test: tuple[int, int] = (1000, 1000)
    rois: int = 512
    most: int = 100
    """Detections a film."""
    films: tuple[tuple[int, int], ...] = ()
    """(H, W) as stored."""
    trained: tuple[tuple[int, int], ...] = ()
    """(H, W) of a batch with truths, in the network's own size."""
    objects: tuple[int, ...] = (6, 0)
    """On each of the batch's films."""
    gains: Mapping[str, float] = MappingProxyType({})
    """Where they are not `GAINS`."""


# The networks of full size are calmer, as trained ones are: else they magnify the last digit of single precision a
# thousandfold, and boxes and scores show rounding instead of faults.
_CALM = {
    "conv3.norm.weight": 0.1,
    "anchor_deltas": 0.15,
    "cls_score.weight": 1.5,
    "bbox_pred.weight": 0.3,
    "mask_head.predictor": 1.5,
}
_NARROW = {"classes": 5, "channels": 32, "box_width": 64, "mask_convs": 2, "most": 30, "rois": 64}
CASES = {
    "R50": Case(50, films=((1100, 840), (640, 1400)), trained=((800, 832), (864, 800)), gains=_CALM),
    "R101": Case(101, films=((1100, 840), (640, 1400)), trained=((800, 832), (864, 800)), gains=_CALM),
    "small50": Case(
        50,
        shortest=160,
        longest=240,
        anchors_px=(15, 32, 50, 100, 150),
        # Few enough before suppression that this limits what is left after it.
        proposals_train=(100, 200),
        proposals_test=(60, 120),
        films=((200, 280), (150, 300)),
        trained=((160, 192), (176, 160)),
        **_NARROW,
    ),
    "small18": Case(
        18,
        shortest=480,
        longest=600,
        proposals_train=(400, 300),
        proposals_test=(200, 150),
        films=((480, 520),),
        trained=((480, 512),),
        objects=(8,),
        **_NARROW,
    ),
}


# Cases whose numbers are kept as fixtures.
SMALL = ("small50", "small18")
# The fixture with films that are preprocessed for the full network: high, wide, small, and already of its size.
PREPROCESSED = "small50"
PREPROCESSED_SIZES = ((913, 640), (300, 777), (64, 50), (800, 820))


def size_key(size: tuple[int, int]) -> str:
    """(H, W) within a fixture's names."""
    return f"{size[0]} {size[1]}"


def caps(case: Case) -> tuple[int, int]:
    """Most detections of a film: where that limits them, and where the threshold of the score does."""
    return case.most, 1000


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Shape of each of Detectron2's tensors, by name."""
    found = dict(_resnet_shapes(case.depth))
    channels, width = case.channels, 64 if case.depth < 50 else 256
    for level in range(2, 6):
        found |= _layer(f"backbone.fpn_lateral{level}", channels, width * 2 ** (level - 2), 1, 1)
        found |= _layer(f"backbone.fpn_output{level}", channels, channels, 3, 3)
    rpn = "proposal_generator.rpn_head"
    found |= _layer(f"{rpn}.conv", channels, channels, 3, 3)
    found |= _layer(f"{rpn}.objectness_logits", 3, channels, 1, 1) | _layer(f"{rpn}.anchor_deltas", 12, channels, 1, 1)
    found |= _layer("roi_heads.box_head.fc1", case.box_width, channels * 49)
    found |= _layer("roi_heads.box_head.fc2", case.box_width, case.box_width)
    found |= _layer("roi_heads.box_predictor.cls_score", case.classes + 1, case.box_width)
    found |= _layer("roi_heads.box_predictor.bbox_pred", case.classes * 4, case.box_width)
    for number in range(1, case.mask_convs + 1):
        found |= _layer(f"roi_heads.mask_head.mask_fcn{number}", channels, channels, 3, 3)
    found |= _layer("roi_heads.mask_head.deconv", channels, channels, 2, 2)
    return found | _layer("roi_heads.mask_head.predictor", case.classes, channels, 1, 1)


def _layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _resnet_shapes(depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    place, wide = "backbone.bottom_up", depth >= 50
    yield from _normed(f"{place}.stem.conv1", 64, 3, 7)
    given = 64
    for stage, blocks in enumerate(_BLOCKS[depth]):
        inner = 64 * 2**stage
        outer = inner * 4 if wide else inner
        for block in range(blocks):
            name = f"{place}.res{stage + 2}.{block}"
            if given != outer:
                yield from _normed(f"{name}.shortcut", outer, given, 1)
            yield from _normed(f"{name}.conv1", inner, given, 1 if wide else 3)
            yield from _normed(f"{name}.conv2", inner, inner, 3)
            if wide:
                yield from _normed(f"{name}.conv3", outer, inner, 1)
            given = outer


def _normed(name: str, outputs: int, inputs: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.norm.{part}", (outputs,)


def weights(case: Case, seed: int = 0) -> dict[str, Tensor]:
    """A tensor for each of Detectron2's names, so that activations stay of order one and scores are spread.

    Every filter sums to zero, so that the mean of what it sees, which ReLUs make large, does not drown its structure.
    """
    # A block's last norm: what it adds stays small beside what it passes on.
    gains = {f"{'conv3' if case.depth >= 50 else 'conv2'}.norm.weight": 0.25, **GAINS, **case.gains}
    return {name: torch.from_numpy(_tensor(name, shape, gains, seed)) for name, shape in shapes(case).items()}


def torchvision_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """The same for torchvision's names."""
    return {name: torch.from_numpy(_tensor(name, shape, TORCHVISION_GAINS, seed, 0)) for name, shape in shapes.items()}


def _tensor(
    name: str, shape: tuple[int, ...], gains: Mapping[str, float], seed: int, background: int = -1
) -> NDArray[Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    size = int(np.prod(shape))
    uniform = np.resize((_stream(seed, name).random_sample(min(size, POOL)) * 2 - 1).astype(np.float32), shape)
    gain = next((factor for part, factor in gains.items() if part in name), 1.0)
    if name.endswith("running_var"):
        return np.exp(np.float32(0.3) * uniform)
    if len(shape) > 1:
        # A transposed convolution has its inputs first, and each of its outputs gets one number from each of them.
        inputs = (0,) if ("deconv" in name or "conv5_mask" in name) else tuple(range(1, len(shape)))
        uniform -= uniform.mean(axis=inputs, keepdims=True)
        count = int(np.prod([shape[axis] for axis in inputs]))
        return np.float32(gain * np.sqrt(3 / RELU_VARIANCE / count)) * uniform
    if name.endswith("weight"):
        return np.float32(gain) * (1 + np.float32(0.2) * uniform)
    values = np.float32(0.2) * uniform
    if name.endswith(("objectness_logits.bias", "cls_logits.bias")):
        values += np.float32(OBJECTNESS_BIAS)
    if name.endswith("cls_score.bias"):
        # Background is Detectron2's last class, torchvision's first.
        values[background] += np.float32(BACKGROUND_BIAS)
    return values


def film(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, red, green and blue: structure from coarse to fine, other grey values in each channel."""
    return np.stack([_channel(height, width, 3 * seed + channel) for channel in range(3)], axis=2)


def _channel(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    draw = _stream(seed, f"film {height} {width}")
    values = np.zeros((height, width))
    for cells, contrast in ((4, 60.0), (9, 50.0), (23, 40.0), (61, 40.0)):
        values += contrast * _enlarge(draw.random_sample((cells, cells)) * 2 - 1, height, width)
    values += 25 * (draw.random_sample((height, width)) * 2 - 1)
    return np.clip(values + 115, 0, 255).astype(np.uint8)


def truth(height: int, width: int, classes: int, objects: int, seed: int = 0) -> dict[str, Tensor]:
    """Ellipses, the same for the same seed.

    Returns:
        `boxes` (N, 4) xyxy px, looser than tight by parts of a pixel, so that no edge is a matter of rounding; `labels`
        (N,) from 1; `masks` (N, H, W) bool.
    """
    draw = _stream(seed, f"truth {height} {width} {objects}")
    size = np.array([height, width])
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((objects, height, width), dtype=bool)
    boxes = np.zeros((objects, 4))
    for mask, box in zip(masks, boxes, strict=True):
        cy, cx = size * (0.25 + 0.5 * draw.random_sample(2))
        ry, rx = size * (0.08 + 0.2 * draw.random_sample(2))
        mask[:] = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box[:] = columns[0] - 0.37, rows[0] - 0.41, columns[-1] + 1.33, rows[-1] + 1.29
    return {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(draw.randint(1, classes + 1, objects)),
        "masks": torch.from_numpy(masks),
    }


def trained_films(case: Case) -> list[NDArray[np.uint8]]:
    """The batch that is trained on."""
    return [film(*size, seed=10 + number) for number, size in enumerate(case.trained)]


def targets(case: Case) -> list[dict[str, Tensor]]:
    """Truths of the batch that is trained on."""
    sizes = zip(case.trained, case.objects, strict=True)
    return [truth(*size, case.classes, count, seed) for seed, (size, count) in enumerate(sizes)]


def sample(labels: Tensor, count: int, positive_fraction: float, background: int) -> tuple[Tensor, Tensor]:
    """Of labels (N,) (-1 is left out) the places of the positives and the negatives that are trained on.

    Takes the place of random sampling on both sides: evenly spread places, as many of each kind as by chance.
    """
    positive = ((labels != -1) & (labels != background)).nonzero()[:, 0]
    negative = (labels == background).nonzero()[:, 0]
    most = min(len(positive), int(count * positive_fraction))
    return _spread(positive, most), _spread(negative, min(len(negative), count - most))


def _spread(places: Tensor, count: int) -> Tensor:
    return places[torch.arange(count) * len(places) // max(count, 1)]


def our_options(case: Case, **changes: Any) -> Options:
    """Options that stand for a case."""
    given = {
        "preset": "detectron2",
        "backbone": f"resnet{case.depth}",
        "stride_in_1x1": case.depth >= 50,
        "image_size": case.shortest,
        "max_size": case.longest,
        "channels": case.channels,
        "box_head_width": case.box_width,
        "mask_head_convs": case.mask_convs,
        "anchor_sizes": tuple(side / case.shortest for side in case.anchors_px),
        "rpn_candidates_train": case.proposals_train[0],
        "rpn_proposals_train": case.proposals_train[1],
        "rpn_candidates_test": case.proposals_test[0],
        "rpn_proposals_test": case.proposals_test[1],
        "rois_per_image": case.rois,
        "max_detections": case.most,
    }
    return Options.model_validate({**given, **changes})


def our_model(case: Case, **changes: Any) -> MaskRCNN:
    """Our network with the seed's weights, in evaluation."""
    model = MaskRCNN(our_options(case, **changes), case.classes)
    kind = torch.get_default_dtype()
    model.load_state_dict(renamed({name: value.to(kind) for name, value in weights(case).items()}))
    return model.eval()


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by Detectron2's names under ours."""
    found = _mask_rcnn_names.recognise(tensors, "seeded.pth")
    assert found is not None
    return dict(found[2])


def as_image(film: NDArray[np.uint8]) -> Tensor:
    """(3, H, W) in 0..1, as our models take films."""
    return torch.from_numpy(film.transpose(2, 0, 1).copy()).to(torch.get_default_dtype()) / 255


def our_names(case: Case) -> dict[str, str]:
    """Our name of each of Detectron2's parameters."""
    numbers = {name: torch.full(shape, float(number)) for number, (name, shape) in enumerate(shapes(case).items())}
    # The first convolution, which sees other units, is converted; its number is not one of these.
    ours = {name: value for name, value in renamed(numbers).items() if name != "backbone.body.conv1.weight"}
    found = {int(value.flatten()[-1]): name for name, value in ours.items()}
    return {name: found[number] for number, name in enumerate(numbers) if number in found}


def as_theirs(model: MaskRCNN, batch: Tensor) -> Tensor:
    """What Detectron2's network would see: grey values in 0..255 less their mean, blue first."""
    return (batch * torch.tensor(model.transform.image_std)[:, None, None] * 255).flip(1)


@torch.no_grad()
def our_stages(
    model: MaskRCNN, film: NDArray[np.uint8], caps: tuple[int, ...] | None = None
) -> list[dict[str, Tensor]]:
    """All stages on one film: what `evaluate` in `benchmarks/mask_rcnn_detectron2.py` gives, less `mask`.

    One answer for each cap on the detections (without any, that of the options); features and proposals are the same.
    """
    batch, _ = model.transform([as_image(film)])
    first = model.propose(batch.tensors, batch.image_sizes)
    levels, _, _, proposals = first
    (height, width), inside = film.shape[:2], batch.image_sizes[0]
    shared = {
        **{f"p{number}": level for number, level in enumerate(levels, start=2)},
        "input": as_theirs(model, batch.tensors),
        "proposals": proposals[0][0],
        "objectness": proposals[0][1],
    }
    answers, options = [], model.options
    model.propose = lambda *given: first  # type: ignore[method-assign]
    try:
        for most in caps or (options.max_detections,):
            model.options = options.model_copy(update={"max_detections": most})
            found, masks = model.detect(batch.tensors, batch.image_sizes)[0]
            boxes = found.boxes * torch.tensor([width / inside[1], height / inside[0]] * 2)
            answer = {"box": boxes, "score": found.scores, "class": found.labels, "roi_mask": masks}
            answers.append({**shared, **answer})
    finally:
        model.options = options
        del model.propose
    return answers


def paste(found: Mapping[str, Tensor], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks of what `our_stages` found, on the film of (H, W): in single precision, as always."""
    changed, torch.Tensor.float = torch.Tensor.float, _FLOAT  # type: ignore[method-assign]
    try:
        masks = paste_roi_masks(found["roi_mask"].to(torch.float32), found["box"].to(torch.float32), size)
    finally:
        torch.Tensor.float = changed  # type: ignore[method-assign]
    return np.stack([decode(mask) for mask in masks]).astype(np.bool_)


def our_training(
    model: MaskRCNN,
    films: list[NDArray[np.uint8]],
    targets: list[dict[str, Tensor]],
    drawn: list[_mask_rcnn_heads.Drawn] | None = None,
) -> SimpleNamespace:
    """One forward pass in training, with `sample` in place of random sampling.

    Args:
        model: Ours.
        films: (H, W, 3) uint8, of the network's size.
        targets: As models take them.
        drawn: For each film the proposals to learn from; None lets the model draw its own.

    Returns:
        `losses` under Detectron2's names; `anchor_labels` (films, A), -1 where not sampled; for each film `boxes`
        (n, 4) and `labels` (n,) (background last) of the proposals that were sampled.
    """
    found = SimpleNamespace(anchor_labels=[], boxes=[], labels=[])
    draw_anchors, draw = model.draw_anchors, model.draw

    def anchors(*given: Any) -> Any:
        answer = draw_anchors(*given)
        found.anchor_labels.append(answer[0])
        return answer

    def proposals(*given: Any) -> Any:
        answer = drawn[len(found.boxes)] if drawn else draw(*given)
        found.boxes.append(answer.boxes)
        found.labels.append(answer.labels)
        return answer

    ordinary = _mask_rcnn_rpn.sample
    places: Any = (_mask_rcnn_rpn, _mask_rcnn_heads)
    for place in places:
        place.sample = lambda *given: torch.cat(sample(*given))
    model.draw_anchors, model.draw = anchors, proposals  # type: ignore[method-assign]
    try:
        truths = [{**target, "boxes": target["boxes"].to(torch.get_default_dtype())} for target in targets]
        losses = model.train()([as_image(film) for film in films], truths)
    finally:
        del model.draw_anchors, model.draw
        for place in places:
            place.sample = ordinary
        model.eval()
    assert isinstance(losses, dict)
    found.losses = {THEIR_LOSSES[name]: loss for name, loss in losses.items()}
    found.anchor_labels = torch.stack(found.anchor_labels)
    return found


def gradients(losses: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the sum of the losses, by the parameters' names; those that are frozen are left out."""
    wanted = {name: value for name, value in parameters.items() if value.requires_grad}
    total = torch.stack(list(losses.values())).sum()
    return dict(zip(wanted, torch.autograd.grad(total, list(wanted.values())), strict=True))


def forget_anchors() -> None:
    """Those that were made in another precision."""
    _mask_rcnn_rpn.grid_anchors.cache_clear()


def use_double() -> None:
    """Let everything in this process compute in double precision, also what asks for `float()`."""
    forget_anchors()
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
