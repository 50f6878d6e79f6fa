"""The real Detectron2, where it is installed: its networks with instance masks in vertinst's training and prediction.

Mask R-CNN, Cascade R-CNN and PointRend of any config. Films are resized as for every other model here, so that models
are compared on the same pixels. Parameters keep the names that they have in Detectron2.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor, nn

from vertinst.errors import CheckpointError, ConfigError, NonFiniteLossError
from vertinst.models._detectron2_config import build_network, full_config, is_installed, resolve_config
from vertinst.models._inputs import (
    FilmTransform,
    Target,
    check_images,
    check_outputs,
    check_targets,
    fit_longest,
)
from vertinst.models._instances import to_instances
from vertinst.models._pasting import paste_roi_masks
from vertinst.structures import Instances

__all__ = [
    "OPENS_IN_DETECTRON2",
    "Detectron2",
    "Options",
    "build",
    "detectron2_files",
    "recognise_start",
    "resolve",
]

GREYS = 255.0
# How a backbone's tensors start when it is alone, and in a network with a feature pyramid; and Caffe2's first of them.
BODY, BOTTOM_UP, CAFFE2_NAME = ("stem.", "res2.", "res3.", "res4.", "res5."), "backbone.bottom_up.", "conv1_w"
# What older versions of Detectron2 saved with the weights and this one makes from its settings.
CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
OPENS_IN_DETECTRON2 = True
"""Asks for `detectron2_files` to be written into the folder of each run."""
POINT_REND_NOTE = (
    "# Before this file can be merged: from detectron2.projects.point_rend import add_pointrend_config; "
    "add_pointrend_config(cfg)\n"
)


class Options(BaseModel, extra="forbid"):
    """Settings of a network of Detectron2.

    Attributes:
        config: A name of Detectron2's zoo, or the path of a YAML file; bases are looked for in its folder and in the
            zoo. Of it all is taken that the network is made of (`MODEL`, `INPUT.FORMAT`,
            `TEST.DETECTIONS_PER_IMAGE`); films, optimiser and schedule are set as for every model. In the settings
            of a run and in its checkpoints the values themselves stand here, those that Detectron2 has by default
            left out, so that they are read without the file.
        overrides: Values that replace those of `config`: `KEY=VALUE` each, or keys and values in turn.
        config_name: Where `config` came from, for the record; filled in when it is read.
        image_size: Longest side of the film inside the network, px; the aspect is kept.
    """

    config: str | dict[str, Any] = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    overrides: tuple[str, ...] = ()
    config_name: str = ""
    image_size: int = Field(800, ge=64, le=4096)


def resolve(options: Options) -> Options:
    """Options with the values of the config file and of the overrides in the file's place.

    Raises:
        ConfigError: Detectron2 is not installed; or the config is not found or not usable.
    """
    config = resolve_config(options.config, options.overrides)
    # A file's folder may tell more about its user than a checkpoint should.
    name = options.config.rpartition("/")[2] if isinstance(options.config, str) else options.config_name
    return Options(config=config, config_name=name, image_size=options.image_size)


def build(options: Options, classes: tuple[str, ...]) -> Detectron2:
    """A network of Detectron2 for these classes, label 1 being the first of them.

    No file is read: options may be a stranger's.

    Raises:
        ConfigError: Detectron2 is not installed; or the options were not resolved, or it cannot use them.
    """
    if isinstance(options.config, str):
        raise ConfigError(
            "must be the values of a config, got the name of one",
            where="model.config",
            fix="Call vertinst.models.detectron2.resolve(options) first, which reads it.",
        )
    return Detectron2(options, len(classes))


def detectron2_files(
    options: Options, classes: tuple[str, ...], weights: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """What Detectron2 itself needs to run a trained network.

    Args:
        options: Resolved.
        classes: Names of the labels.
        weights: The model's state dict.

    Returns:
        Its settings as YAML for `get_cfg().merge_from_file`, and the state dict for its checkpoint file.

    Raises:
        ConfigError: Detectron2 is not installed.
    """
    assert not isinstance(options.config, str)
    cfg = full_config(options.config, len(classes), options.image_size)
    note = POINT_REND_NOTE if "POINT_HEAD" in cfg.MODEL else ""
    named = "".join(f"# class {index}: {ascii(name)[1:-1]}\n" for index, name in enumerate(classes))
    return f"{note}{named}{cfg.dump()}", dict(weights)


def recognise_start(
    tensors: Mapping[str, Tensor], file_name: str
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Tensor]] | None:
    """Weights of others that a training can start from: of Detectron2, whole or the backbone alone, and of Caffe2.

    For prediction such files say too little about their network; there the model mask_rcnn recognises its own.

    Args:
        tensors: By name.
        file_name: For messages.

    Returns:
        No options, no classes, and the tensors by the names of a network with a feature pyramid; None for others.

    Raises:
        CheckpointError: Caffe2's names that Detectron2 cannot turn into its own.
    """
    if CAFFE2_NAME in tensors and is_installed():
        from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

        try:
            tensors, _ = convert_c2_detectron_names(dict(tensors))
        except (AssertionError, LookupError) as error:
            raise CheckpointError(
                "weights have Caffe2's names, two of them for one tensor or for one of another shape",
                where=file_name,
                fix="Copy or download the file again.",
            ) from error
    if any(name.startswith(BODY) for name in tensors):
        return {}, (), {f"{BOTTOM_UP}{name}": tensor for name, tensor in tensors.items() if name.startswith(BODY)}
    if not any(name.startswith(("proposal_generator.", BOTTOM_UP)) for name in tensors):
        return None
    return {}, (), {name: tensor for name, tensor in tensors.items() if not name.startswith(CONSTANTS)}


class Detectron2(nn.Module):
    """A GeneralizedRCNN of Detectron2: losses in training, instances in evaluation.

    Args:
        options: Resolved settings.
        classes: Number of classes, background left out.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        assert not isinstance(options.config, str)
        network, cfg = build_network(options.config, classes)
        self.options = options
        self.classes = classes
        self.bgr = cfg.INPUT.FORMAT == "BGR"
        # Grey values 0..255 less its means come after the channels' order.
        longest = partial(fit_longest, longest=options.image_size)
        self.transform = FilmTransform(longest, mean=(0.0,) * 3, std=(1.0,) * 3)
        # Its parts rather than itself: their parameters have the names of Detectron2's checkpoints.
        self.backbone: Any = network.backbone
        self.proposal_generator: Any = network.proposal_generator
        self.roi_heads: Any = network.roi_heads
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", network.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", network.pixel_std, persistent=False)
        for part in _prediction_layers(self):
            part.register_forward_hook(_check_finite)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, instances in evaluation.

        Args:
            images: Float tensors (3, H, W), 0..1, of any sizes.
            targets: Needed in training: dicts of `boxes` (N, 4) xyxy px, `labels` (N,) int64 in 1..C and `masks`
                (N, H, W) bool or uint8; N = 0 is fine.

        Returns:
            In training Detectron2's losses by its own names (`loss_cls`, `loss_mask`, `loss_rpn_cls`, ...), scalars;
            their sum is to be minimised. Else one `Instances` a film, in its own pixels, best score first.

        Raises:
            DataError: Films or targets are unusable (see `vertinst.models._inputs`).
            NonFiniteLossError: In training the proposals are no finite numbers.
            CheckpointError: In evaluation the network's outputs are not finite.
        """
        check_images(images)
        if self.training:
            return self._losses(images, check_targets(images, targets, self.classes))
        batch = self._batch([self.transform.resize(image)[0] for image in images])
        features = self.backbone(batch.tensor)
        proposals, _ = self.proposal_generator(batch, features, None)
        found, _ = self.roi_heads(batch, features, proposals, None)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [_on_film(film, size) for film, size in zip(found, sizes, strict=True)]

    def _losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        from detectron2.utils.events import EventStorage

        resized = [self.transform.resize(image, target) for image, target in zip(images, targets, strict=True)]
        batch = self._batch([image for image, _ in resized])
        truth = [_truth(target or {}, size) for (_, target), size in zip(resized, batch.image_sizes, strict=True)]
        # Its parts log into whatever storage is open, and some ask for one.
        with EventStorage(0):
            features = self.backbone(batch.tensor)
            try:
                proposals, of_proposals = self.proposal_generator(batch, features, truth)
            except FloatingPointError as error:
                raise NonFiniteLossError(
                    "training diverged: the network's proposals are no finite numbers",
                    fix="Lower optim.lr, lengthen schedule.warmup_epochs or set precision=32.",
                ) from error
            with self._mask_head_if(any(len(film) for film in truth)):
                _, of_regions = self.roi_heads(batch, features, proposals, truth)
        return {**of_regions, **of_proposals}

    @contextmanager
    def _mask_head_if(self, needed: bool) -> Iterator[None]:
        # PointRend's fails on batches without any object, from which no mask head can learn anything.
        self.roi_heads.mask_on = needed
        try:
            yield
        finally:
            self.roi_heads.mask_on = True

    def _batch(self, films: list[Tensor]) -> Any:
        """Detectron2's `ImageList` of resized films (3, h, w), 0..1."""
        from detectron2.structures import ImageList

        greys = [(film.flip(0) if self.bgr else film) * GREYS for film in films]
        return ImageList.from_tensors(
            [(film - self.pixel_mean) / self.pixel_std for film in greys],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )


def _truth(target: Target, size: tuple[int, int]) -> Any:
    """Detectron2's `Instances` of a resized target; masks are fractions of pixels."""
    from detectron2.structures import BitMasks, Boxes
    from detectron2.structures import Instances as Detectron2Instances

    masks = target["masks"]
    # Half of a pixel; of what is thinner than a pixel everywhere, half of the most that it covers.
    peaks = masks.flatten(1).amax(dim=1) if len(masks) else masks.new_zeros(0)
    halves = (peaks / 2).clamp(1e-6, 0.5)
    return Detectron2Instances(
        size,
        gt_boxes=Boxes(target["boxes"]),
        gt_classes=target["labels"] - 1,
        gt_masks=BitMasks(masks >= halves[:, None, None]),
    )


def _on_film(found: Any, image_size: tuple[int, int]) -> Instances:
    """What Detectron2 found inside the network, on the film of (H, W) px."""
    check_outputs(found.pred_masks)
    boxes = found.pred_boxes.clone()
    boxes.scale(image_size[1] / found.image_size[1], image_size[0] / found.image_size[0])
    boxes.clip(image_size)
    kept = boxes.nonempty()
    corners = boxes.tensor[kept].float()
    masks = paste_roi_masks(found.pred_masks[kept].float(), corners, image_size)
    return to_instances(corners, found.pred_classes[kept] + 1, found.scores[kept], masks, image_size)


def _prediction_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose scores Detectron2 sorts; it drops what is no number without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
        from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
    return [part for part in model.modules() if isinstance(part, StandardRPNHead | FastRCNNOutputLayers)]


def _check_finite(layer: nn.Module, inputs: object, outputs: tuple[Tensor | list[Tensor], ...]) -> None:
    if not layer.training:
        check_outputs(*(t for part in outputs for t in (part if isinstance(part, list) else [part])))
