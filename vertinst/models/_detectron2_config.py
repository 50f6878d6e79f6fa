"""Detectron2's settings: read from its YAML files without running anything in them, checked, made a `CfgNode`.

Detectron2 loads YAML with `yaml.unsafe_load` and takes a file's `_BASE_` from anywhere, the web included. Here a file
is plain YAML, and its bases lie in its own folder or in Detectron2's zoo. What is kept of it are plain values that
differ from Detectron2's defaults, so that a checkpoint opens without the file.
"""

from __future__ import annotations

import difflib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from vertinst import files
from vertinst.errors import ConfigError, DataError

__all__ = [
    "INSTALL",
    "INSTALL_COMMANDS",
    "build_network",
    "full_config",
    "is_installed",
    "read_config",
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

BASE = "_BASE_"
SEPARATOR = "."
VERSION = 2
MAX_BASES = 10
MAX_BYTES = 1_000_000
# Of a stranger's checkpoint: beyond these nobody's network lies, and building it would take hours or all memory.
MAX_VALUES, MAX_DEPTH, MAX_TEXT, MAX_NUMBER, MAX_REPEATS = 2000, 12, 300, 1_000_000, 64
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
REFUSALS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)


def is_installed() -> bool:
    """Whether Detectron2 is there; it is not imported."""
    return importlib.util.find_spec("detectron2") is not None


def zoo_folder() -> Path:
    """The folder of Detectron2's own configs.

    Raises:
        ConfigError: Detectron2 is not installed.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the model detectron2 needs Detectron2, which is not installed", fix=INSTALL)
    return Path(next(iter(spec.submodule_search_locations))) / "model_zoo" / "configs"


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
        read = {key: value for key, value in _flat(read_config(config, zoo)) if _is_kept(key)}
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


def read_config(name: str, zoo: Path) -> dict[str, Any]:
    """A YAML file of Detectron2 with its bases merged in; Detectron2 itself is not asked.

    Args:
        name: A path, or a name below `zoo`.
        zoo: Folder of Detectron2's configs.

    Returns:
        Plain values, nested.

    Raises:
        ConfigError: No such file, another kind of file, not plain YAML, or a base outside of its folder.
    """
    if not name.endswith((".yaml", ".yml")):
        raise ConfigError(
            "must be a YAML file of Detectron2",
            where=f"model.config={name}",
            fix="Its .py configs are programs, which are not run here.",
        )
    path = Path(name)
    if not path.is_file():
        path = _in_zoo(name, zoo)
    return _read(path, path.parent, zoo, MAX_BASES)


def _in_zoo(name: str, zoo: Path) -> Path:
    try:
        path = files.inside(zoo, name)
    except DataError:
        path = None
    if path is not None and path.is_file():
        return path
    known = sorted(p.relative_to(zoo).as_posix() for p in zoo.rglob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near = near or ["COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"]
    raise ConfigError(
        "no such config file, nor one of Detectron2's zoo", where=name, fix=f"Did you mean {' or '.join(near)}?"
    )


def _read(path: Path, folder: Path, zoo: Path, left: int) -> dict[str, Any]:
    if not left:
        raise ConfigError(f"must have at most {MAX_BASES} bases one below the other", where=path, fix=f"Check {BASE}.")
    content = _load(path)
    bases = content.pop(BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        merged = _over(merged, _read(_find_base(str(base), path, folder, zoo), folder, zoo, left - 1))
    return _over(merged, content)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"must be at most {MAX_BYTES} bytes", where=path, fix="Is this a config?")
        content = yaml.safe_load(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(
            f"must be plain YAML ({problem})",
            where=path,
            fix="Tags such as !!python run code and are refused: write values out.",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"must be a mapping of keys, got {type(content).__name__}", where=path)
    return content


def _find_base(base: str, path: Path, folder: Path, zoo: Path) -> Path:
    """The file meant by a base; one that leads outside (a project's `../../../../configs/x`) is sought in the zoo."""
    inside = [place.resolve() for place in (folder, zoo)]
    found = (path.parent / base).resolve() if "\0" not in base else path
    if any(found.is_relative_to(place) for place in inside) and found.is_file():
        return found
    tail = base.rpartition("configs/")[2]
    try:
        return _in_zoo(tail, zoo)
    except ConfigError:
        raise ConfigError(
            f"{BASE} must lie in the folder of the config or in Detectron2's zoo, got {base[:100]!r}",
            where=path,
            fix="Copy the base beside the config.",
        ) from None


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` laid over it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _flat(settings: Mapping[str, Any], prefix: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, few and shallow enough for a network's settings."""
    if not depth:
        raise ConfigError(f"must be nested at most {MAX_DEPTH} deep", where="model.config")
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}{SEPARATOR}", depth - 1)
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


def _checked(pairs: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """What may be set by hand or come with a checkpoint: nothing that would have no effect."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if not _is_kept(key):
            own = next(
                (
                    ours
                    for start, ours in OWN.items()
                    if key == start or (start[-1] == SEPARATOR and key.startswith(start))
                ),
                "",
            )
            raise ConfigError(
                f"{key[:100]} has no effect here",
                where="model.overrides" if own else "model.config",
                fix=f"Use {own}." if own else f"Settings of the network start with {KEPT[0]}",
            )
        values[key] = value
        if len(values) > MAX_VALUES:
            raise ConfigError(f"must be at most {MAX_VALUES} settings", where="model.config")
    for key, value in values.items():
        _check_size(key, value)
    return values


def _check_size(key: str, value: Any) -> None:
    limit = MAX_REPEATS if key.rpartition(SEPARATOR)[2] in REPEATS else MAX_NUMBER
    todo, seen = [value], 0
    while todo:
        part = todo.pop()
        seen += 1
        todo.extend(part if isinstance(part, list | tuple) else ())
        number = isinstance(part, int | float) and not -limit <= part <= limit
        if number or seen > MAX_VALUES or (isinstance(part, str) and len(part) > MAX_TEXT):
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
