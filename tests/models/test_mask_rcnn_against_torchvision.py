"""Our Mask R-CNN beside torchvision's two, with the same weights from a seed, in the same process.

In double precision, where rounding decides nothing: the same sets in the same order.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import seeded_mask_rcnn as seeded
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, overwrite_eps
from torchvision.models.detection.mask_rcnn import MaskRCNN as Theirs
from torchvision.ops import FrozenBatchNorm2d

from vertinst.models import _mask_rcnn_heads, _mask_rcnn_rpn
from vertinst.models._mask_rcnn_names import recognise
from vertinst.models.mask_rcnn import MaskRCNN, Options

CLASSES, SHORTEST, LONGEST = 4, 96, 150
LIMITS = {"rpn_proposals_train": 60, "rpn_proposals_test": 40, "rois_per_image": 16, "max_detections": 10}
SIZE = (110, 160)
TRAINED, OBJECTS = ((96, 128), (128, 96)), (3, 2)


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.float)
        seeded.use_double()
        yield
        torch.set_default_dtype(torch.float32)
        seeded.forget_anchors()


@pytest.fixture(scope="module", params=["v1", "v2"])
def both(request: pytest.FixtureRequest, double: None) -> tuple[Theirs, MaskRCNN]:
    """Torchvision's network and ours from its state dict, in evaluation."""
    theirs = _theirs(v2=request.param == "v2")
    found = recognise(theirs.state_dict(), "theirs.pth")
    assert found is not None
    options, classes, weights = found
    assert options["preset"] == ("torchvision_v2" if request.param == "v2" else "torchvision")
    assert len(classes) == CLASSES
    ours = MaskRCNN(Options.model_validate({**options, "image_size": SHORTEST, "max_size": LONGEST, **LIMITS}), CLASSES)
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert {name.rpartition(".")[2] for name in (*missing, *unexpected)} <= {"num_batches_tracked"}
    return theirs, ours.eval()


def _theirs(*, v2: bool) -> Theirs:
    """As it is after loading the published weights of COCO, but smaller: v1's batch norm is constant then."""
    net: Theirs = (maskrcnn_resnet50_fpn_v2 if v2 else maskrcnn_resnet50_fpn)(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=SHORTEST,
        max_size=LONGEST,
        rpn_post_nms_top_n_train=LIMITS["rpn_proposals_train"],
        rpn_post_nms_top_n_test=LIMITS["rpn_proposals_test"],
        box_batch_size_per_image=LIMITS["rois_per_image"],
        box_detections_per_img=LIMITS["max_detections"],
    )
    if not v2:
        for name, norm in list(net.backbone.body.named_modules()):
            if isinstance(norm, nn.BatchNorm2d):
                net.backbone.body.set_submodule(name, FrozenBatchNorm2d(norm.num_features))
        overwrite_eps(net, 0.0)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict(seeded.torchvision_weights(shapes))
    return net.eval()


@torch.no_grad()
def _their_stages(net: Theirs, image: Tensor) -> dict[str, Tensor]:
    batch, _ = net.transform([image])
    features = net.backbone(batch.tensors)
    proposals, _ = net.rpn(batch, features)
    (found,), _ = net.roi_heads(features, proposals, batch.image_sizes)
    # Pasting comes in their place.
    masks = found["masks"][:, 0]
    return {
        **{f"p{number}": level for number, level in enumerate(features.values(), start=2)},
        "input": batch.tensors,
        "proposals": proposals[0],
        "box": net.transform.postprocess([found], batch.image_sizes, [tuple(image.shape[1:])])[0]["boxes"],
        "score": found["scores"],
        "class": found["labels"] - 1,
        "roi_mask": masks,
    }


def test_features_proposals_and_detections(both: tuple[Theirs, MaskRCNN]) -> None:
    theirs, ours = both
    film = seeded.film(*SIZE)
    wanted, found = _their_stages(theirs, seeded.as_image(film)), seeded.our_stages(ours, film)[0]
    np.testing.assert_allclose(found["input"], seeded.as_theirs(ours, wanted["input"]), atol=1e-6)
    for level in ("p2", "p3", "p4", "p5", "p6"):
        np.testing.assert_allclose(found[level], wanted[level], atol=1e-6, err_msg=level)
    np.testing.assert_allclose(found["proposals"], wanted["proposals"], atol=1e-4)
    np.testing.assert_array_equal(found["class"], wanted["class"])
    np.testing.assert_allclose(found["box"], wanted["box"], atol=1e-4)
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)
    np.testing.assert_allclose(found["roi_mask"], wanted["roi_mask"], atol=1e-6)
    assert len(found["box"]) == LIMITS["max_detections"]


@pytest.mark.usefixtures("_same_samples")
def test_losses(both: tuple[Theirs, MaskRCNN]) -> None:
    theirs, ours = both
    films = [seeded.film(*size, seed=10 + number) for number, size in enumerate(TRAINED)]
    truths = [
        seeded.truth(*size, CLASSES, count, number)
        for number, (size, count) in enumerate(zip(TRAINED, OBJECTS, strict=True))
    ]
    theirs.train()
    _hold_norms(theirs)
    wanted = theirs([seeded.as_image(film) for film in films], [_copy(truth) for truth in truths])
    ours.train()
    _hold_norms(ours)
    found = ours([seeded.as_image(film) for film in films], truths)
    theirs.eval()
    ours.eval()
    names = {"loss_rpn_box_reg", "loss_objectness", "loss_classifier", "loss_box_reg", "loss_mask"}
    assert set(found) == set(wanted) == names
    for name in names:
        np.testing.assert_allclose(found[name].item(), wanted[name].item(), rtol=1e-6, err_msg=name)


def _copy(truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**truth, "masks": truth["masks"].to(torch.uint8)}


def _hold_norms(network: nn.Module) -> None:
    """With the statistics of a batch, rounding would grow from layer to layer."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@pytest.fixture
def _same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spread examples in place of random ones, in both."""

    def theirs(self: BalancedPositiveNegativeSampler, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
        for film in labels:
            for part, places in zip(
                drawn, seeded.sample(film, self.batch_size_per_image, self.positive_fraction, 0), strict=True
            ):
                mask = torch.zeros_like(film, dtype=torch.uint8)
                mask[places] = 1
                part.append(mask)
        return drawn

    monkeypatch.setattr(BalancedPositiveNegativeSampler, "__call__", theirs)
    for place in (_mask_rcnn_rpn, _mask_rcnn_heads):
        monkeypatch.setattr(place, "sample", lambda *given: torch.cat(seeded.sample(*given)))
