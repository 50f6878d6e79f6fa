import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from vertinst.errors import CheckpointError, DataError
from vertinst.models.yolact import Options, Yolact, build
from vertinst.structures import rle

CLASSES = ("block", "disc", "bar")
SMALL = Options(backbone="resnet18", image_size=128, channels=32, prototypes=8, prototype_convs=1)


@pytest.fixture
def model(narrow: None) -> Yolact:
    torch.manual_seed(0)
    return build(SMALL, CLASSES)


def losses(model: Yolact, films: list[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Tensor]:
    result = model.train()([image for image, _ in films], [target for _, target in films])
    assert isinstance(result, dict)
    return result


@pytest.mark.usefixtures("narrow")
def test_training_lowers_every_loss_and_finds_what_was_drawn(draw: Callable, check_contract: Callable) -> None:
    torch.manual_seed(0)
    model = build(SMALL.model_copy(update={"image_size": 96}), CLASSES)
    image, target = draw()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(30):
        parts = losses(model, [(image, target)])
        optimiser.zero_grad()
        sum(parts.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        history.append({name: part.item() for name, part in parts.items()})
    assert set(history[0]) == {"loss_class", "loss_box", "loss_mask", "loss_semantic"}
    assert all(history[-1][name] < 0.8 * first for name, first in history[0].items())
    use_statistics_of(model, (image, target))
    with torch.inference_mode():
        found = model.eval()([image])[0]
    check_contract(found, image, len(CLASSES))
    for mask, label in zip(target["masks"][:3], target["labels"][:3], strict=True):
        same = found[(found.category_ids == int(label)) & (found.scores > 0.3)]
        assert rle.iou(same.masks, [rle.encode(mask.numpy())]).max() > 0.5


def use_statistics_of(model: Yolact, film: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Batch norm's running means know little after thirty steps: take those of the film itself."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    losses(model, [film])


def test_gradients_reach_every_parameter(model: Yolact, draw: Callable) -> None:
    sum(losses(model, [draw(), draw(empty=True)]).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A level without any positive or hard negative anchor may rest for one step; no other parameter may.
    assert [name for name in without if not name.startswith("fpn.downsample_layers")] == []


def test_films_without_objects_teach_background(model: Yolact, draw: Callable) -> None:
    parts = losses(model, [draw(empty=True), draw(empty=True)])
    assert parts["loss_box"].item() == 0.0
    assert parts["loss_mask"].item() == 0.0
    assert parts["loss_class"].item() > 0.0
    sum(parts.values()).backward()
    bias = model.prediction_layers[0].conf_layer.bias.grad.view(-1, len(CLASSES) + 1)
    assert bias[:, 0].sum() < 0
    assert torch.isfinite(bias).all()


@pytest.mark.parametrize("size", [(131, 77), (40, 300), (300, 41), (9, 9)])
def test_any_size_of_film_obeys_the_contract(model: Yolact, check_contract: Callable, size: tuple[int, int]) -> None:
    images = [torch.rand(3, *size), torch.rand(3, 64, 64)]
    with torch.inference_mode():
        # Untrained outputs lie close to the prior: lower the threshold so that there is something to look at.
        model.options.score_threshold = 0.0
        results = model.eval()(images)
    model.options.score_threshold = 0.05
    for image, result in zip(images, results, strict=True):
        assert 0 < len(result) <= SMALL.max_detections
        check_contract(result, image, len(CLASSES))


def test_no_mask_reaches_outside_of_its_box(model: Yolact) -> None:
    model.options.score_threshold = 0.0
    with torch.inference_mode():
        result = model.eval()([torch.rand(3, 100, 90)])[0]
    model.options.score_threshold = 0.05
    assert len(result) > 0
    for mask, (x1, y1, x2, y2) in zip(result.masks, result.boxes.tolist(), strict=True):
        left, top, right, bottom = rle.box_xyxy(mask)
        assert left >= math.floor(x1)
        assert top >= math.floor(y1)
        assert right <= math.ceil(x2)
        assert bottom <= math.ceil(y2)


@pytest.mark.usefixtures("narrow")
def test_nothing_found_is_an_ordinary_result(draw: Callable, check_contract: Callable) -> None:
    blind = build(SMALL.model_copy(update={"score_threshold": 1.0}), CLASSES).eval()
    image, _ = draw()
    result = blind([image])[0]
    assert len(result) == 0
    check_contract(result, image, len(CLASSES))


def test_bf16_autocast_gives_finite_losses_and_gradients(model: Yolact, draw: Callable) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses(model, [draw(), draw(empty=True)])
        total = sum(parts.values())
    assert total.dtype == torch.float32
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    exact = losses(model, [draw(), draw(empty=True)])
    assert all(parts[name].item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.05) for name in exact)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("interval", [0, 1])
def test_bf16_finds_what_float32_finds(interval: int, draw: Callable) -> None:
    torch.manual_seed(0)
    options = SMALL.model_copy(update={"deformable_interval": interval, "score_threshold": 0.0, "max_detections": 5})
    model = build(options, CLASSES)
    parts = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            parts.append(losses(model, [draw()]))
    sum(parts[1].values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.backbone.layers.parameters())
    assert all(float(parts[1][name]) == pytest.approx(float(parts[0][name]), rel=0.1, abs=0.05) for name in parts[0])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert len(model.eval()([draw()[0]])[0]) > 0


def test_channels_last_and_state_dict_do_not_change_the_output(model: Yolact, draw: Callable) -> None:
    image, _ = draw()
    options = SMALL.model_copy(update={"score_threshold": 0.0})
    twin = build(options, CLASSES)
    twin.load_state_dict(model.state_dict())
    model.options = options
    with torch.inference_mode():
        expected = model.eval()([image])[0]
        copied = twin.eval()([image])[0]
        last = twin.to(memory_format=torch.channels_last)([image])[0]
    assert copied.masks == expected.masks
    np.testing.assert_array_equal(copied.boxes, expected.boxes)
    np.testing.assert_array_equal(copied.scores, expected.scores)
    np.testing.assert_allclose(last.scores, expected.scores, atol=1e-4)


def test_state_dict_holds_weights_only(model: Yolact) -> None:
    assert not [name for name in model.state_dict() if "anchor" in name]


def test_broken_input_and_broken_weights_are_refused(model: Yolact, draw: Callable) -> None:
    image, target = draw()
    with pytest.raises(DataError, match="pixels must be finite numbers"):
        model.eval()([image * float("nan")])
    with pytest.raises(DataError, match="boxes must have x1 < x2"):
        losses(model, [(image, {**target, "boxes": target["boxes"] * 0})])
    with torch.no_grad():
        model.prediction_layers[0].conf_layer.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="outputs must be finite"):
        model.eval()([image])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet19"}, "Input should be 'resnet18'"),
        ({"image_sise": 320}, "Extra inputs are not permitted"),
        ({"image_size": 10}, "greater than or equal to 64"),
        ({"aspect_ratios": ()}, "at least 1 item"),
        ({"anchor_sizes": (0.1, 0.2)}, "Field required"),
        ({"mask_loss_weight": -1}, "greater than or equal to 0"),
        ({"preset": "own"}, "Input should be 'radiograph' or 'original'"),
        ({"preset": "original", "image_size": "large"}, "valid integer"),
        ({"backbone": "darknet53", "deformable_interval": 1}, "darknet53 has neither deformable convolutions"),
        ({"backbone": "darknet53", "backbone_weights": "imagenet"}, "nor weights to download"),
        ({"negative_iou": 0.6}, "negative_iou must not be above positive_iou, got 0.6 and 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options(**settings)


def test_an_unknown_backbone_is_told_once() -> None:
    with pytest.raises(ValidationError, match=r"'resnet101' or 'darknet53'") as raised:
        Options(backbone="resnet19")
    assert [error["loc"] for error in raised.value.errors()] == [("backbone",)]


def test_options_that_shape_the_network() -> None:
    options = SMALL.model_copy(update={"head_convs": 2, "prototype_convs": 0, "aspect_ratios": (1.0,), "prototypes": 5})
    model = build(options, CLASSES)
    assert model.prediction_layers[0].mask_layer.out_channels == 2 * 5
    assert len(model.prediction_layers[0].upfeature) == 4
    result = model.eval()([torch.rand(3, 64, 64)])
    assert isinstance(result, list)


@pytest.mark.parametrize(
    "name", ["prediction_layers.0.bbox_layer.weight", "prediction_layers.0.mask_layer.weight", "proto_net.0.weight"]
)
def test_boxes_and_masks_must_be_numbers_too(model: Yolact, name: str) -> None:
    torch.nn.init.constant_(model.get_parameter(name), float("nan"))
    with torch.inference_mode(), pytest.raises(CheckpointError, match="outputs must be finite"):
        model.eval()([torch.rand(3, 90, 70)])


def test_the_original_preset_fills_what_is_not_set() -> None:
    options = Options(preset="original", image_size=400, nms="ordinary", aspect_ratios=(1.0,))
    assert [round(side * 400, 6) for side in options.anchor_sizes] == [17, 34, 69, 139, 279]
    assert options.aspect_ratios == (1.0,)
    assert (options.mask_crop, options.mask_targets, options.film_tone) == ("prototype", "binary", "stored")
    assert options.masks_per_film == 100
    assert Options(preset="original", image_size=700).masks_per_film == 300
    assert Options(**options.model_dump()) == options
    assert Options().film_tone == "window"


VARIANTS = {
    "original": {"preset": "original"},
    "darknet": {"backbone": "darknet53"},
    "plus": {"deformable_interval": 1, "mask_rescoring": True},
    "fine": {"fine_prototypes": True, "boundary_weight": 2.0, "box_expansion": 0.1},
    "focal": {"class_loss": "focal", "masks_per_film": 3},
}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_train_in_every_part_and_find(name: str, draw: Callable, check_contract: Callable) -> None:
    torch.manual_seed(0)
    model = build(Options(**{**SMALL.model_dump(exclude={"preset"}, exclude_unset=True), **VARIANTS[name]}), CLASSES)
    if model.fine_prototypes is not None:
        # Its last layer starts at zero, and holds back the gradients of those before it for one step.
        torch.nn.init.normal_(model.fine_prototypes.last.weight)
    if model.maskiou_net is not None:
        torch.nn.init.constant_(model.maskiou_net.maskiou_net[10].bias, 0.5)
    image, target = draw()
    parts = losses(model, [(image, target), draw(empty=True)])
    assert ("loss_rescoring" in parts) == (name == "plus")
    assert all(torch.isfinite(part) for part in parts.values())
    sum(parts.values()).backward()
    resting = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Levels that no anchor of the films falls on, and ReLUs of the rescoring network that are all shut at the start.
    assert [n for n in resting if not n.startswith(("fpn.downsample_layers", "maskiou_net"))] == []
    model.options.score_threshold = 0.0
    with torch.inference_mode():
        found = model.eval()([image])[0]
    assert len(found) > 0
    check_contract(found, image, len(CLASSES))


def test_fine_prototypes_start_as_the_coarse_ones_enlarged() -> None:
    torch.manual_seed(0)
    fine = build(SMALL.model_copy(update={"fine_prototypes": True}), CLASSES).eval()
    coarse = build(SMALL, CLASSES).eval()
    coarse.load_state_dict(fine.state_dict(), strict=False)
    batch, _ = coarse.prepare([torch.rand(3, 128, 128)])
    with torch.inference_mode():
        small, large = coarse.network(batch).prototypes, fine.network(batch).prototypes
    assert large.shape[-2:] == (64, 64)
    assert torch.allclose(torch.nn.functional.avg_pool2d(large, 2)[..., 2:-2, 2:-2], small[..., 2:-2, 2:-2], atol=0.2)


def test_the_original_preprocessing_stretches_and_scales_as_it_does() -> None:
    model = build(Options(preset="original", image_size=64, backbone="resnet18"), CLASSES)
    film = torch.full((3, 100, 50), 200 / 255)
    batch, sizes = model.prepare([film])
    assert batch.shape == (1, 3, 64, 64)
    assert sizes == [(64, 64)]
    # Its means and deviations in 0..255, red first.
    expected = torch.tensor([(200 - 123.68) / 58.40, (200 - 116.78) / 57.12, (200 - 103.94) / 57.38])
    assert torch.allclose(batch.amax(dim=(0, 2, 3)), expected, atol=1e-4)
    darknet = build(Options(preset="original", image_size=64, backbone="darknet53"), CLASSES)
    assert torch.allclose(darknet.prepare([film])[0], torch.tensor(200 / 255), atol=1e-6)


def test_rescoring_multiplies_the_scores(draw: Callable) -> None:
    torch.manual_seed(0)
    options = SMALL.model_copy(update={"mask_rescoring": True, "score_threshold": 0.0})
    model = build(options, CLASSES).eval()
    plain = build(options.model_copy(update={"mask_rescoring": False}), CLASSES).eval()
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if "maskiou" not in n})
    with torch.no_grad():
        model.maskiou_net.maskiou_net[10].weight.zero_()
        model.maskiou_net.maskiou_net[10].bias.copy_(torch.tensor([0.5, 0.25, 2.0]))
    image, _ = draw()
    with torch.inference_mode():
        rescored, scored = model([image])[0], plain([image])[0]
    by_label = dict(zip([1, 2, 3], [0.5, 0.25, 2.0], strict=True))
    expected = sorted(
        min(s * by_label[c], 1.0) for s, c in zip(scored.scores.tolist(), scored.category_ids.tolist(), strict=True)
    )
    np.testing.assert_allclose(sorted(rescored.scores.tolist()), expected, rtol=1e-5)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("options", [{}, {"deformable_interval": 1}, {"backbone": "darknet53"}])
def test_training_leaves_frozen_stages_as_they_were(options: dict[str, object], draw: Callable) -> None:
    model = build(SMALL.model_copy(update={"trainable_layers": 2, **options}), CLASSES)
    stages = list(model.backbone.layers)
    frozen = torch.nn.ModuleList([*(c for n, c in model.backbone.named_children() if n != "layers"), *stages[:-2]])
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    moving = stages[-1].state_dict()
    learnt = {name: tensor.clone() for name, tensor in moving.items() if name.endswith("running_mean")}
    losses(model, [draw(), draw(empty=True)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert not any(torch.equal(moving[name], tensor) for name, tensor in learnt.items())


def test_frozen_stages_of_darknet_and_deformable_networks_stay() -> None:
    darknet = build(SMALL.model_copy(update={"backbone": "darknet53", "trainable_layers": 2}), CLASSES)
    trained = {n.split(".")[2] for n, p in darknet.named_parameters() if n.startswith("backbone") and p.requires_grad}
    assert trained == {"3", "4"}
    frozen = build(SMALL.model_copy(update={"backbone": "darknet53", "frozen_batch_norm": True}), CLASSES).train()
    assert not frozen.backbone.layers[0][0][1].training
    plus = build(SMALL.model_copy(update={"deformable_interval": 1, "trainable_layers": 1}), CLASSES)
    assert not plus.backbone.layers[1][0].conv2.bias.requires_grad
    assert plus.backbone.layers[3][0].conv2.conv_offset_mask.weight.requires_grad
