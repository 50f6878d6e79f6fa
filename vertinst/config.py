"""The settings of a training run: YAML at the edge, pydantic models inside, unknown keys refused everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vertinst import files, plugins
from vertinst.errors import ConfigError
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.structures.dataset import CLASSES

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "InitConfig",
    "ModelConfig",
    "OptimConfig",
    "ScheduleConfig",
    "check_settings",
    "differences",
    "load_config",
    "model_options",
    "packaged_configs",
    "save_config",
]

M = TypeVar("M", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, le=1)]
MAX_CONFIG_BYTES = 1_000_000


class Section(BaseModel):
    """A part of the settings: frozen, no key that is not listed, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(BaseModel):
    """Which model, and in the same mapping its own options (`Options` in `models/<name>.py`).

    Attributes:
        name: File name of the model without `.py`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "yolact"


class AugmentConfig(Section):
    """What is changed at random on training films; 0 switches a change off.

    Attributes:
        flip: Probability of mirroring left and right.
        rotation_deg: Turned by up to this angle either way.
        scale: Enlarged or reduced by up to this fraction.
        shift: Moved by up to this fraction of the sides.
        gamma: Grey values to the power of exp(u), u uniform in -gamma..gamma.
        window: Black and white point each moved by up to this fraction of the grey range.
        noise: Standard deviation of added Gaussian noise, drawn from 0..noise (grey range 0..1).
        blur_px: Standard deviation of a Gaussian blur, drawn from 0..blur_px.
    """

    flip: Fraction = 0.5
    rotation_deg: float = Field(5.0, ge=0, le=180)
    scale: float = Field(0.1, ge=0, lt=1)
    shift: float = Field(0.05, ge=0, lt=1)
    gamma: float = Field(0.3, ge=0, le=2)
    window: float = Field(0.1, ge=0, lt=0.5)
    noise: Fraction = 0.02
    blur_px: float = Field(0.7, ge=0, le=20)


class DataConfig(Section):
    """How films are read for training.

    Attributes:
        longest_side_px: Films are reduced to this longest side once, before training; null takes the model's own
            `image_size`. Smaller films are not enlarged here.
        cache: Keep the reduced films in memory (about 2 bytes a pixel); false decodes them at every use.
        workers: Processes that prepare batches; 0 prepares them in the training process. The result is the same.
        augment: Random changes.
    """

    longest_side_px: int | None = Field(None, ge=64, le=8192)
    cache: bool = True
    workers: int = Field(0, ge=0, le=128)
    augment: AugmentConfig = AugmentConfig()


class OptimConfig(Section):
    """The optimiser.

    Attributes:
        name: AdamW, or SGD with Nesterov momentum.
        lr: Learning rate after warm-up.
        weight_decay: Applied to weights of two and more dimensions; not to biases and normalisation.
        momentum: SGD's momentum, or AdamW's first beta.
        backbone_lr_factor: Learning rate of the backbone (`body.*` or `backbone.*`) relative to the rest.
        clip_norm: Largest norm of the gradient; null does not clip.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(3e-4, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    backbone_lr_factor: float = Field(1.0, ge=0, le=10)
    clip_norm: float | None = Field(10.0, gt=0)


class ScheduleConfig(Section):
    """How long, and how the learning rate moves.

    Attributes:
        epochs: Passes over the training films.
        batch_size: Films in a step; the last batch of an epoch may be smaller.
        warmup_epochs: The learning rate rises linearly over these; fractions are fine.
        decay: `cosine` down to a hundredth; `step` a tenth after 2/3 and again after 8/9 of the run; `none`.
        patience: Stop when the validation score has not improved for this many epochs; null never.
        evaluate_every: Validate after every so many epochs, and after the last.
        minutes: Stop after this much wall time, at the end of the epoch; null never. The decay then follows steps
            or time, whichever is further on, so the result depends on the machine's speed.
    """

    epochs: int = Field(100, ge=1, le=100_000)
    batch_size: int = Field(4, ge=1, le=1024)
    warmup_epochs: float = Field(1.0, ge=0)
    decay: Literal["cosine", "step", "none"] = "cosine"
    patience: int | None = Field(None, ge=1)
    evaluate_every: int = Field(1, ge=1)
    minutes: float | None = Field(None, gt=0)


class InitConfig(Section):
    """What training starts from.

    Attributes:
        weights: Path of a vertinst checkpoint or run folder, `demo` for the packaged small weights, or null for
            the model's own start.
        strict: Refuse weights of other classes or shapes; false loads what fits and says what did not.
    """

    weights: str | None = None
    strict: bool = True


class Config(Section):
    """All settings of a training run.

    Attributes:
        model: Model and its options.
        classes: Names of what is learnt, numbered from 1 in this order.
        data: Films.
        optim: Optimiser.
        schedule: Epochs.
        init: Start.
        postprocess: How instances become a spine, for predictions on the validation films.
        seed: Of everything drawn at random.
        deterministic: Ask torch for deterministic algorithms where it has them (slower on GPUs).
        precision: `auto` takes bf16 where the hardware gains from it.
        device: `auto` takes a GPU where there is one.
    """

    model: ModelConfig = ModelConfig()
    classes: tuple[str, ...] = Field(CLASSES, min_length=1)
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    init: InitConfig = InitConfig()
    postprocess: SpineOptions = SpineOptions()
    seed: int = Field(0, ge=0, lt=2**31)
    deterministic: bool = False
    precision: Literal["auto", "32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("precision", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        # YAML reads a bare 32 as a number.
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("classes")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError(f"classes must be different names, got {', '.join(value)}")
        return value


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read settings and check every one of them, the model's and the post-processing's own included.

    Args:
        name_or_path: A YAML file, or the name of a packaged one with or without `.yaml`.
        overrides: `key=value` with dots between keys (`optim.lr=0.001`); the value is read as YAML.

    Raises:
        ConfigError: No such file, not YAML, an unknown key (the nearest known ones are named), a wrong value.
    """
    source, text = _read(str(name_or_path))
    content = _parse(text, source)
    if not isinstance(content, dict | None):
        raise ConfigError(f"must be a mapping of keys, got {type(content).__name__}", where=source)
    settings: dict[str, Any] = content or {}
    keys = [_override(settings, override) for override in overrides]
    where = f"{source} with --set {', '.join(keys)}" if keys else source
    config: Config = check_settings(Config, settings, where, ())
    check_settings(_options_class(config), dict(config.model.model_extra or {}), where, ("model",))
    return config


def check_settings(
    model: type[M], settings: Mapping[str, Any], where: str | None = None, prefix: tuple[str, ...] = ()
) -> M:
    """Make a pydantic model from settings of the outside, its errors told as ours.

    Args:
        model: What they must fit.
        settings: Keys and values.
        where: What the user wrote them in.
        prefix: Keys above these, for the message.

    Raises:
        ConfigError: Every unknown key, with the nearest known ones, and every wrong value.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        problems = [_explain(e, model, prefix) for e in error.errors()]
        fixes = dict.fromkeys(fix for _, fix in problems if fix)
        raise ConfigError("; ".join(text for text, _ in problems), where=where, fix=" ".join(fixes)) from error


def save_config(config: Config, path: Path) -> None:
    """Write all settings, defaults included, as YAML that `load_config` reads back to the same settings."""
    files.write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def packaged_configs() -> tuple[str, ...]:
    """Names of the packaged settings, sorted, without `.yaml`."""
    folder = resources.files("vertinst.configs")
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def model_options(config: Config) -> BaseModel:
    """The model's own options, validated. Imports the model, hence torch.

    Raises:
        ConfigError: There is no such model, or an option is unknown or out of range.
    """
    return check_settings(_options_class(config), dict(config.model.model_extra or {}), None, ("model",))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted keys whose values differ between two dumped settings, sorted; a missing key differs from any value."""
    left, right = dict(_flat(a)), dict(_flat(b))
    absent = object()
    return tuple(sorted(k for k in left.keys() | right.keys() if left.get(k, absent) != right.get(k, absent)))


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _options_class(config: Config) -> type[BaseModel]:
    options: type[BaseModel] = plugins.load("models", config.model.name).Options
    return options


def _read(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path)
    name = name_or_path.removesuffix(".yaml")
    try:
        if path.is_file():
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ConfigError(f"must be at most {MAX_CONFIG_BYTES} bytes", where=path, fix="Is this a config?")
            return str(path), path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path, fix="Save it as UTF-8 text.") from error
    known = packaged_configs()
    if name in known:
        return f"{name}.yaml", (resources.files("vertinst.configs") / f"{name}.yaml").read_text("utf-8")
    raise ConfigError(
        "no such config file, nor a packaged one of that name",
        where=name_or_path,
        fix=f"{_nearest(name, known)}Packaged: {', '.join(known)}.",
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice: the first would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str, source: str) -> Any:
    try:
        # A subclass of SafeLoader builds plain containers, numbers and text, nothing else.
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"is not valid YAML: {place}{problem}", where=source, fix="Repair that line.") from error


def _override(settings: dict[str, Any], override: str) -> str:
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set must be key=value, got {override!r}", fix="For example --set optim.lr=0.001.")
    *parents, last = key.split(".")
    place = settings
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{parent} has no keys of its own", where=f"--set {override}", fix="Check the dots.")
    place[last] = _parse(value, f"--set {key}")
    return key


def _explain(error: Any, model: type[BaseModel], prefix: tuple[str, ...]) -> tuple[str, str]:
    """One problem in words, and the way out."""
    location = [str(part) for part in error["loc"]]
    key = ".".join((*prefix, *location))
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"unknown key {key}", f"{_nearest(location[-1], known)}Known: {', '.join(sorted(known))}."
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{key or 'settings'}: {error['msg']}{got}", f"Correct {key}."


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)] if field else []
        model = next((k for k in kinds if issubclass(k, BaseModel)), model)
    return list(model.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}? " if near else ""
