from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from vertinst.errors import CheckpointError, DataError
from vertinst.models.mask_rcnn import MaskRCNN, Options, build

CLASSES = ("block", "disc", "bar")
SMALL = Options(
    backbone="resnet18",
    image_size=128,
    channels=32,
    box_head_width=64,
    mask_head_convs=1,
    rpn_proposals_train=100,
    rpn_proposals_test=40,
    rois_per_image=32,
)
NAMES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def model() -> MaskRCNN:
    torch.manual_seed(0)
    return build(SMALL, CLASSES)


def losses(model: MaskRCNN, films: list[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Tensor]:
    result = model.train()([image for image, _ in films], [target for _, target in films])
    assert isinstance(result, dict)
    return result


def test_training_lowers_the_loss(model: MaskRCNN, draw: Callable) -> None:
    films = [draw()]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(15):
        parts = losses(model, films)
        assert set(parts) == NAMES
        total = sum(parts.values())
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        totals.append(total.item())
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3])


def test_gradients_reach_every_parameter(model: MaskRCNN, draw: Callable) -> None:
    sum(losses(model, [draw(), draw(empty=True)]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_films_without_objects(model: MaskRCNN, draw: Callable) -> None:
    parts = losses(model, [draw(empty=True)])
    assert parts["loss_mask"].item() == 0.0
    assert parts["loss_box_reg"].item() == 0.0
    sum(parts.values()).backward()
    assert all(torch.isfinite(part) for part in parts.values())


@pytest.mark.parametrize("size", [(131, 77), (40, 300), (9, 9)])
def test_any_size_of_film_obeys_the_contract(model: MaskRCNN, check_contract: Callable, size: tuple[int, int]) -> None:
    images = [torch.rand(3, *size), torch.rand(3, 64, 64)]
    with torch.inference_mode():
        results = model.eval()(images)
    assert sum(len(result) for result in results) > 0
    for image, result in zip(images, results, strict=True):
        check_contract(result, image, len(CLASSES))


def test_nothing_found_is_an_ordinary_result(draw: Callable, check_contract: Callable) -> None:
    image, _ = draw()
    result = build(SMALL.model_copy(update={"score_threshold": 1.0}), CLASSES).eval()([image])[0]
    assert len(result) == 0
    check_contract(result, image, len(CLASSES))


def test_bf16_autocast_gives_finite_losses_and_gradients(model: MaskRCNN, draw: Callable) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        total = sum(losses(model, [draw(), draw(empty=True)]).values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_channels_last_and_state_dict_do_not_change_the_output(model: MaskRCNN, draw: Callable) -> None:
    image, _ = draw()
    twin = build(SMALL, CLASSES)
    twin.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = model.eval()([image])[0]
        copied = twin.eval()([image])[0]
        last = twin.to(memory_format=torch.channels_last)([image])[0]
    assert copied.masks == expected.masks
    np.testing.assert_array_equal(copied.boxes, expected.boxes)
    np.testing.assert_array_equal(copied.scores, expected.scores)
    np.testing.assert_allclose(last.scores[:5], expected.scores[:5], atol=1e-4)


def test_loss_weights_scale_their_losses(draw: Callable) -> None:
    def with_weights(**weights: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = build(SMALL.model_copy(update=weights), CLASSES)
        torch.manual_seed(1)
        return losses(model, [draw()])

    plain = with_weights()
    scaled = with_weights(rpn_loss_weight=2.0, class_loss_weight=3.0, box_loss_weight=4.0, mask_loss_weight=0.0)
    factors = {"loss_classifier": 3, "loss_box_reg": 4, "loss_mask": 0, "loss_objectness": 2, "loss_rpn_box_reg": 2}
    for name, factor in factors.items():
        assert scaled[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-4)


def test_anchors_follow_image_size_and_are_wider_than_high() -> None:
    options = {"aspect_ratios": (4.0,), "anchor_sizes": (0.1, 0.2, 0.3, 0.4, 0.5)}
    model = build(SMALL.model_copy(update=options), CLASSES)
    with torch.no_grad():
        _, _, anchors, _ = model.propose(torch.rand(1, 3, 128, 96), [(128, 96)])
    assert [len(level) for level in anchors] == [32 * 24, 16 * 12, 8 * 6, 4 * 3, 2 * 2]
    x1, y1, x2, y2 = anchors[4][0].tolist()
    assert (x2 - x1, y2 - y1) == pytest.approx((128, 32), abs=0.01)
    assert anchors[4][1].tolist() == pytest.approx([x1 + 64, y1, x2 + 64, y2])


@pytest.mark.parametrize("preset", ["detectron2", "torchvision", "torchvision_v2"])
def test_presets_train_and_find(preset: str, draw: Callable, check_contract: Callable) -> None:
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "image_size": 96, "max_size": 160, "channels": 16, "box_head_width": 32}
    model = build(Options(preset=preset, **small, stride_in_1x1=False, rpn_proposals_test=50), CLASSES)
    parts = losses(model, [draw(), draw(empty=True)])
    sum(parts.values()).backward()
    assert all(torch.isfinite(part) for part in parts.values())
    image, _ = draw()
    with torch.inference_mode():
        found = model.eval()([image])[0]
    assert len(found) > 0
    check_contract(found, image, len(CLASSES))


def test_presets_are_defaults_and_no_more() -> None:
    options = Options(preset="detectron2", image_size=400, rois_per_image=64)
    assert options.stride_in_1x1
    assert options.rois_per_image == 64
    assert [side * 400 for side in options.anchor_sizes] == pytest.approx([32, 64, 128, 256, 512])
    assert options.film_tone == "stored"
    assert options.longest_side_px == 1333
    assert Options(**options.model_dump(mode="json")) == options
    assert Options().longest_side_px == Options().image_size


def test_frozen_stages_get_no_gradient(draw: Callable) -> None:
    model = build(SMALL.model_copy(update={"trainable_layers": 2, "frozen_batch_norm": True}), CLASSES)
    sum(losses(model, [draw()]).values()).backward()
    without = {name.split(".")[2] for name, p in model.named_parameters() if p.grad is None}
    assert without == {"conv1", "layer1", "layer2"}


def test_broken_input_is_refused(model: MaskRCNN, draw: Callable) -> None:
    image, target = draw()
    with pytest.raises(DataError, match="pixels must be finite numbers"):
        model.eval()([image * float("nan")])
    with pytest.raises(DataError, match="boxes must have x1 < x2"):
        losses(model, [(image, {**target, "boxes": target["boxes"] * 0})])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vgg16"}, "Input should be 'resnet18'"),
        ({"box_score_thresh": 0.1}, "Extra inputs are not permitted"),
        ({"rois_per_image": 0}, "greater than or equal to 4"),
        ({"score_threshold": 1.5}, "less than or equal to 1"),
        ({"backbone": "resnet34", "stride_in_1x1": True}, "stride_in_1x1 must be false for resnet34"),
        ({"preset": "torchvision", "image_size": 1500}, "max_size must be at least image_size, got 1333 and 1500"),
        ({"preset": "mmdet"}, "Input should be 'radiograph'"),
        ({"preset": ["detectron2"]}, "Input should be 'radiograph'"),
        ({"aspect_ratios": (1.0,) * 17}, "at most 16 items"),
        ({"rpn_candidates_test": 20_001}, "less than or equal to 20000"),
        ({"rpn_candidates_train": 20_001}, "less than or equal to 20000"),
        ({"rpn_proposals_test": 10_001}, "less than or equal to 10000"),
        ({"rpn_proposals_train": 10_001}, "less than or equal to 10000"),
        ({"max_detections": 10_001}, "less than or equal to 10000"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options(**settings)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.body.conv1.weight",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.mask_predictor.mask_fcn_logits.weight",
    ],
)
def test_weights_that_are_no_numbers_are_no_film_without_vertebrae(model: MaskRCNN, name: str) -> None:
    torch.nn.init.constant_(model.get_parameter(name), float("nan"))
    model.options = model.options.model_copy(update={"score_threshold": 0.0})
    with torch.inference_mode(), pytest.raises(CheckpointError, match="outputs must be finite"):
        model.eval()([torch.rand(3, 90, 70)])
