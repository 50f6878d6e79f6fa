"""Detectron2's settings, checked, and the networks that it makes of them.

What is kept of its files are plain values that differ from Detectron2's defaults, so that a checkpoint opens without
the file; and since checkpoints come from strangers, only what a network is made of, in bounds.
"""

from __future__ import annotations

import difflib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from vertinst.errors import ConfigError
from vertinst.models._detectron2_yaml import read_config

__all__ = [
    "INSTALL",
    "INSTALL_COMMANDS",
    "build_network",
    "full_config",
    "is_installed",
    "resolve_config",
    "zoo_folder",
]

INSTALL_COMMANDS = (
    'pip install "setuptools<80" wheel && '
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)
INSTALL = (
    f"Install it: {INSTALL_COMMANDS} (or the path of a checkout; a C++ compiler is needed). "
    "The model mask_rcnn computes the same as Detectron2's Mask R-CNN without it."
)

SEPARATOR = "."
# Of a stranger's checkpoint: beyond these nobody's network lies, and building it would take hours or all memory.
MAX_VALUES, MAX_DEPTH, MAX_TEXT, MAX_NUMBER, MAX_REPEATS = 2000, 12, 300, 1_000_000, 64
# Parts of one value: a layer is made of each, or an anchor of every two.
MAX_PARTS = 200
REPEATS = ("NUM_CONV", "NUM_FC", "SUBDIVISION_STEPS")

# The part of Detectron2's settings that its networks are made of; films, optimiser and schedule are vertinst's own.
KEPT = ("MODEL.", "INPUT.FORMAT", "TEST.DETECTIONS_PER_IMAGE")
OWN = {
    "MODEL.WEIGHTS": "init.weights",
    "MODEL.DEVICE": "device",
    "MODEL.LOAD_PROPOSALS": "a config whose network proposes regions itself",
    **dict.fromkeys(
        ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.POINT_HEAD.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES"), "classes"
    ),
    "SOLVER.": "optim and schedule",
    "DATASETS.": "--train and --val",
    "DATALOADER.": "data.workers",
    "INPUT.": "model.image_size and data.augment",
}
POINT_REND_HEADS = ("PointRendMaskHead", "ImplicitPointRendMaskHead")
ROI_HEADS = ("StandardROIHeads", "CascadeROIHeads", "Res5ROIHeads", "PointRendROIHeads")
# What Detectron2 raises, by assertion or deep within a network, when settings do not go together.
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def is_installed() -> bool:
    """Whether Detectron2 is there; it is not imported."""
    spec = importlib.util.find_spec("detectron2")
    # Any folder of this name, such as that in a run's folder, would do for a namespace; that has no file.
    return spec is not None and spec.origin is not None


def zoo_folder() -> Path:
    """The folder of Detectron2's own configs.

    Raises:
        ConfigError: Detectron2 is not installed.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        raise ConfigError("the model detectron2 needs Detectron2, which is not installed", fix=INSTALL)
    return Path(spec.origin).parent / "model_zoo" / "configs"


def resolve_config(config: str | Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Settings of a network as plain values, those left out that Detectron2 has by default.

    Args:
        config: A name of the zoo, the path of a YAML file, or settings that were resolved before.
        overrides: `KEY=VALUE` each, or keys and values in turn as on Detectron2's command line.

    Returns:
        Nested as in Detectron2's files: `{"MODEL": {"MASK_ON": True, ...}, ...}`. Resolving it again gives the same.

    Raises:
        ConfigError: Not installed; no such config; unknown keys, wrong values; or a network without instance masks.
    """
    zoo = zoo_folder()
    if isinstance(config, str):
        # Of a file what vertinst has settings of its own for is passed over: every file of the zoo has an optimiser.
        read = _checked(pair for pair in _flat(read_config(config, zoo)) if _is_kept(pair[0]))
    else:
        read = _checked(_flat(config))
    values = read | _checked(_pairs(overrides))
    cfg = _merge(values)
    _check_masks(cfg)
    defaults = dict(_flat(_defaults(point_rend=_is_point_rend(values))))
    changed = {key: value for key, value in _flat(cfg) if _is_kept(key) and value != defaults[key]}
    return _nest({key: _plain(value) for key, value in changed.items()})


def build_network(config: Mapping[str, Any], classes: int) -> tuple[Any, Any]:
    """Detectron2's network, without weights, on torch's default device; and its settings.

    Args:
        config: As `resolve_config` gives it; may be a stranger's.
        classes: Number of classes.

    Raises:
        ConfigError: Not installed, unknown keys, or settings that do not go together.
    """
    zoo_folder()
    cfg = _merge(_checked(_flat(config)))
    _check_masks(cfg)
    _set_classes(cfg, classes)
    cfg.MODEL.DEVICE = str(torch.get_default_device())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from detectron2.modeling import build_model
    try:
        return build_model(cfg), cfg
    except REFUSALS as error:
        raise ConfigError(
            f"Detectron2 cannot make a network of these settings ({type(error).__name__}: {str(error)[:200]})",
            where="model.config",
            fix="Start from a config of the zoo and change less.",
        ) from error


def full_config(config: Mapping[str, Any], classes: int, image_size: int) -> Any:
    """All of Detectron2's settings (`CfgNode`) for a trained network to be used by Detectron2 itself.

    Args:
        config: As `resolve_config` gives it.
        classes: Number of classes.
        image_size: Longest side of the film inside the network, px.
    """
    cfg = _merge(_checked(_flat(config)))
    _set_classes(cfg, classes)
    # The scale that brings the shortest side to image_size, cut to what brings the longest there.
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = image_size
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (image_size,), image_size
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.WEIGHTS = "model_final.pth"
    return cfg


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, few and shallow enough for settings: YAML can say with few bytes what never ends."""
    for count, pair in enumerate(_walk(settings, "", MAX_DEPTH)):
        if count == MAX_VALUES:
            raise ConfigError(f"must be at most {MAX_VALUES} values", where="model.config")
        yield pair


def _walk(settings: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not depth:
        raise ConfigError(f"must be nested at most {MAX_DEPTH} deep", where="model.config")
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{prefix}{key}{SEPARATOR}", depth - 1)
        else:
            yield f"{prefix}{key}", value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(SEPARATOR)
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Keys and values of `KEY=VALUE`s, or of keys and values in turn."""
    rest = iter(overrides)
    for text in rest:
        key, equals, value = text.partition("=")
        if not equals and (value := next(rest, "=")) == "=":
            raise ConfigError(
                f"an override must be KEY=VALUE, got {text!r}",
                where="model.overrides",
                fix="For example --set 'model.overrides=[MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=128]'.",
            )
        try:
            yield key.strip(), yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"value of {key} is not YAML, got {value!r}", where="model.overrides") from error


def _is_kept(key: str) -> bool:
    return key.startswith(KEPT) and key not in OWN


def _checked(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What may be set by hand or come with a checkpoint: nothing that would have no effect, nothing beyond bounds."""
    values = dict(pairs)
    for key, value in values.items():
        if not _is_kept(key):
            own = next((ours for start, ours in OWN.items() if key == start or _is_below(key, start)), "")
            fix = f"Use {own}." if own else f"Settings of the network start with {KEPT[0]}"
            raise ConfigError(f"{key[:100]} has no effect here", where="model.config or model.overrides", fix=fix)
        _check_size(key, value)
    return values


def _is_below(key: str, section: str) -> bool:
    return section.endswith(SEPARATOR) and key.startswith(section)


def _check_size(key: str, value: Any) -> None:
    limit = MAX_REPEATS if key.rpartition(SEPARATOR)[2] in REPEATS else MAX_NUMBER
    todo, seen = [value], 0
    while todo:
        part = todo.pop()
        seen += 1
        todo.extend(part if isinstance(part, list | tuple) else ())
        number = isinstance(part, int | float) and not -limit <= part <= limit
        if number or seen > MAX_PARTS or (isinstance(part, str) and len(part) > MAX_TEXT):
            raise ConfigError(
                f"{key} is out of all proportion", where="model.config", fix=f"Numbers up to {limit} are taken."
            )


def _is_point_rend(values: Mapping[str, Any]) -> bool:
    return values.get("MODEL.ROI_MASK_HEAD.NAME") in POINT_REND_HEADS


def _defaults(*, point_rend: bool) -> Any:
    with warnings.catch_warnings():
        # torch.jit.script, which Detectron2 uses, is deprecated.
        warnings.simplefilter("ignore")
        from detectron2.config import get_cfg

        cfg = get_cfg()
        if point_rend:
            try:
                from detectron2.projects.point_rend import add_pointrend_config
            except ImportError as error:
                raise ConfigError(
                    "PointRend is not part of this installation of Detectron2", where="model.config", fix=INSTALL
                ) from error
            add_pointrend_config(cfg)
    return cfg


def _merge(values: Mapping[str, Any]) -> Any:
    """Detectron2's defaults with these values, each of the kind that the default has."""
    cfg = _defaults(point_rend=_is_point_rend(values))
    known = dict(_flat(cfg))
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise ConfigError(
                f"unknown key {key[:100]} of Detectron2",
                where="model.config or model.overrides",
                fix=f"Did you mean {' or '.join(near)}?" if near else "Check its spelling.",
            )
        whole = isinstance(known[key], float) and isinstance(value, int) and not isinstance(value, bool)
        try:
            cfg.merge_from_list([key, float(value) if whole else value])
        except (ValueError, TypeError, AssertionError, SyntaxError, RecursionError, MemoryError) as error:
            raise ConfigError(
                f"{key} must be like {known[key]!r}, got {str(value)[:100]!r}", where="model.config or model.overrides"
            ) from error
        if key.endswith(".NORM") and "SyncBN" in str(value):
            # One process has nobody to be in step with, and on processors torch refuses to.
            cfg.merge_from_list([key, "BN"])
    for key, value in _flat(cfg):
        # Again: Detectron2 makes numbers and lists of texts.
        if key in values:
            _check_size(key, value)
    return cfg


def _set_classes(cfg: Any, classes: int) -> None:
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    if "POINT_HEAD" in cfg.MODEL:
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = classes


def _check_masks(cfg: Any) -> None:
    """Refuse networks that give something else than boxes with masks."""
    model = cfg.MODEL
    wanted = {
        "META_ARCHITECTURE": (model.META_ARCHITECTURE, ("GeneralizedRCNN",)),
        "MASK_ON": (model.MASK_ON, (True,)),
        "KEYPOINT_ON": (model.KEYPOINT_ON, (False,)),
        "PROPOSAL_GENERATOR.NAME": (model.PROPOSAL_GENERATOR.NAME, ("RPN",)),
        "ROI_HEADS.NAME": (model.ROI_HEADS.NAME, ROI_HEADS),
    }
    for key, (got, known) in wanted.items():
        if got not in known:
            raise ConfigError(
                f"needs a config for instance masks (MODEL.{key} {' or '.join(map(str, known))}), got {got}",
                where="model.config",
                fix="Boxes alone, keypoints, semantic and panoptic segmentation are not trained here: take one of "
                "COCO-InstanceSegmentation/, or Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml.",
            )
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise ConfigError(f"INPUT.FORMAT must be BGR or RGB, got {cfg.INPUT.FORMAT!r}", where="model.config")


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
