"""The settings of a training run: YAML at the edge, pydantic models inside, unknown keys refused everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vertinst import files, plugins
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.settings import check_settings, differences, packaged_configs, read_settings
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

Fraction = Annotated[float, Field(ge=0, le=1)]


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
        metal: Probability of drawing synthetic metal and cement (screws, rods, cages; plates, wires, cement) onto a
            film. Kinds whose name is among the classes come with mask and label, the others are clutter; what they
            cover stays annotated.
        flip: Probability of mirroring left and right.
        rotation_deg: Turned by up to this angle either way.
        scale: Enlarged or reduced by up to this fraction.
        shift: Moved by up to this fraction of the sides.
        gamma: Grey values to the power of exp(u), u uniform in -gamma..gamma.
        window: Black and white point each moved by up to this fraction of the grey range.
        noise: Standard deviation of added Gaussian noise, drawn from 0..noise (grey range 0..1).
        blur_px: Standard deviation of a Gaussian blur, drawn from 0..blur_px.
    """

    metal: Fraction = 0.0
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
        repeat_threshold: Films with a class that fewer than this share of the training films have (a rare implant)
            are shown more often, sqrt(threshold / share) times an epoch on average and changed differently each time:
            with 0.4, films of a class that a tenth of them has come twice. null or 0 shows every film once; that is
            the default because repeats teach a rare class to be found, and to be expected where it is not.
        augment: Random changes.
    """

    longest_side_px: int | None = Field(None, ge=64, le=8192)
    cache: bool = True
    workers: int = Field(0, ge=0, le=128)
    repeat_threshold: float | None = Field(None, ge=0, le=1)
    augment: AugmentConfig = AugmentConfig()


class OptimConfig(Section):
    """The optimiser.

    Attributes:
        name: AdamW, or SGD with Nesterov momentum.
        lr: Learning rate after warm-up.
        weight_decay: Applied to weights of two and more dimensions; not to biases and normalisation.
        momentum: SGD's momentum, or AdamW's first beta.
        backbone_lr_factor: Learning rate of the network that extracts the features relative to the rest.
        clip_norm: Largest norm of the gradient; null does not clip.
        ema_decay: Largest decay of an exponential moving average of the weights, which is then what is validated,
            kept as the best and predicted with (0.999 suits a few thousand steps; shorter runs average over about
            their last ninth). null takes the weights as they are.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(3e-4, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    backbone_lr_factor: float = Field(1.0, ge=0, le=10)
    clip_norm: float | None = Field(10.0, gt=0)
    ema_decay: float | None = Field(None, ge=0, lt=1)


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
        weights: Path of a vertinst checkpoint or run folder; of a file of Detectron2 (`.pkl`, `.pth`), torchvision or
            YOLACT's original implementation, or of an ImageNet backbone; a name of `vertinst weights list` that was
            fetched; `demo` for the packaged small weights; or null for the model's own start.
        strict: Refuse weights of other classes or shapes; false loads what fits and says what did not. Of
            files of others what fits is taken in any case; true asks for the same backbone.
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

    @model_validator(mode="after")
    def _known_pairs(self) -> Self:
        unknown = self.postprocess.suppression.unknown_classes(self.classes)
        if unknown:
            raise ValueError(
                f"postprocess.suppression.pairs names {', '.join(unknown)}, which is no class of this run: "
                f"they are {', '.join(self.classes)}"
            )
        return self


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read settings and check every one of them, the model's and the post-processing's own included.

    Args:
        name_or_path: A YAML file, or the name of a packaged one with or without `.yaml`.
        overrides: `key=value` with dots between keys (`optim.lr=0.001`); the value is read as YAML.

    Returns:
        The settings with every default filled in, the model's own options included.

    Raises:
        ConfigError: No such file, not YAML, an unknown key (the nearest known ones are named), a wrong value.
    """
    settings, where = read_settings(str(name_or_path), overrides)
    config: Config = check_settings(Config, settings, where)
    options = _check_options(config, where)
    resolved = ModelConfig(name=config.model.name, **options.model_dump(mode="json"))
    return config.model_copy(update={"model": resolved})


def save_config(config: Config, path: Path) -> None:
    """Write all settings, defaults included, as YAML that `load_config` reads back to the same settings."""
    files.write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def model_options(config: Config) -> BaseModel:
    """The model's own options, validated. Imports the model, hence torch.

    Raises:
        ConfigError: There is no such model, or an option is unknown or out of range.
    """
    return _check_options(config, None)


def _check_options(config: Config, where: str | None) -> BaseModel:
    plugin = plugins.load("models", config.model.name)
    options: BaseModel = check_settings(plugin.Options, dict(config.model.model_extra or {}), where, ("model",))
    # Options may name a file that says more. It is read for settings alone, never for those of a stranger's checkpoint.
    resolve: Callable[[Any], BaseModel] | None = getattr(plugin, "resolve", None)
    return resolve(options) if resolve else options
