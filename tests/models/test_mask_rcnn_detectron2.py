"""Files of the real Detectron2, and what it makes of ours: run where it is installed."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.engine.detectron2_files import CONFIG, WEIGHTS, write_detectron2
from vertinst.errors import CheckpointError, ConfigError
from vertinst.models import mask_rcnn

warnings.filterwarnings("ignore", category=FutureWarning)
detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

FIRST = "backbone.bottom_up.stem.conv1.weight"
ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_{}_FPN_3x.yaml"


def network(depth: int, classes: int = 80) -> tuple[Any, Any]:
    """Detectron2's network of random weights and statistics, and its config."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config(ZOO.format(depth))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    torch.manual_seed(depth)
    model = build_model(cfg).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model, cfg


def written(folder: Path, form: str, model: Any, cfg: Any) -> Path:
    """The network as Detectron2's zoo or its training saves it."""
    if form == "pkl":
        content = {"model": {n: t.numpy() for n, t in model.state_dict().items()}, "__author__": "Detectron2 Model Zoo"}
        (folder / "model_final.pkl").write_bytes(pickle.dumps(content))
        return folder / "model_final.pkl"
    from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
    from detectron2.solver import build_lr_scheduler, build_optimizer

    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    scheduler.step()
    saver = DetectionCheckpointer(model, str(folder), optimizer=optimizer, scheduler=scheduler)
    PeriodicCheckpointer(saver, 1, max_iter=1).step(0)
    return folder / "model_final.pth"


@pytest.mark.parametrize(("depth", "form"), [(50, "pkl"), (50, "pth"), (101, "pkl"), (101, "pth")])
def test_its_files_are_read_and_written_tensor_by_tensor(tmp_path: Path, depth: int, form: str) -> None:
    model, cfg = network(depth)
    path = written(tmp_path, form, model, cfg)
    found = checkpoints.read(path)
    assert (found.description.model, found.description.options["backbone"]) == ("mask_rcnn", f"resnet{depth}")
    checkpoints.check_options(found)
    folder = write_detectron2(found, tmp_path / "out")
    theirs, ours = model.state_dict(), torch.load(folder / WEIGHTS, weights_only=True)["model"]
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        if name == FIRST:
            # Scaled there and back: the last bit.
            torch.testing.assert_close(ours[name], tensor, rtol=2e-7, atol=0)
        else:
            assert torch.equal(ours[name], tensor), name


def predictor(folder: Path) -> Any:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    cfg = get_cfg()
    cfg.merge_from_file(str(folder / CONFIG))
    cfg.MODEL.WEIGHTS = str(folder / WEIGHTS)
    cfg.MODEL.DEVICE = "cpu"
    return DefaultPredictor(cfg)


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "detectron2", "backbone": "resnet50"},
        {"preset": "radiograph", "backbone": "resnet18"},
        {"preset": "radiograph", "backbone": "resnet50", "frozen_batch_norm": True, "batch_norm_eps": 0.0},
        {"fpn_norm": True, "rpn_convs": 2, "box_head_convs": 4, "head_norm": True, "trainable_layers": 3},
    ],
    ids=["detectron2", "resnet18", "epsilon", "norms"],
)
def test_default_predictor_runs_what_is_exported(tmp_path: Path, changes: dict[str, Any]) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    small = {"image_size": 128, "max_size": 160, "channels": 16, "box_head_width": 32, "score_threshold": 0.0}
    options = mask_rcnn.Options(**{**small, **changes, "max_detections": 5})
    torch.manual_seed(0)
    model = mask_rcnn.build(options, ("a", "b")).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    checkpoints.save(
        tmp_path / "best.safetensors",
        model.state_dict(),
        Description("mask_rcnn", options.model_dump(mode="json"), ("a", "b")),
    )
    folder = write_detectron2(checkpoints.read(tmp_path / "best.safetensors"), tmp_path / "out")
    theirs = predictor(folder)
    incompatible = DetectionCheckpointer(theirs.model)._load_model(
        {"model": dict(torch.load(folder / WEIGHTS, weights_only=True)["model"])}
    )
    assert (incompatible.missing_keys, incompatible.unexpected_keys) == ([], [])
    film = (np.random.default_rng(0).random((128, 96, 1)) * 255).astype(np.uint8).repeat(3, 2)
    found = theirs(film)["instances"]
    assert len(found) == 5
    # The same batch through both: the rest of the test is of weights and settings, not of how films are resized.
    grey = torch.from_numpy(film.astype("float32")).permute(2, 0, 1)
    with torch.inference_mode():
        mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        levels = list(model.backbone(((grey / 255 - mean) / deviation)[None]).values())
        prepared = theirs.model.preprocess_image([{"image": grey}]).tensor
        wanted = list(theirs.model.backbone(prepared).values())
    for ours, level in zip(levels, wanted, strict=True):
        torch.testing.assert_close(ours, level, rtol=1e-3, atol=1e-3 * float(level.abs().max()))
    if options.preprocessing == "radiograph":
        with torch.inference_mode():
            (mine,) = model([grey / 255])
        # Ours keeps no detection whose mask is empty.
        found = found[found.pred_masks.flatten(1).any(1)]
        assert len(found) > 1
        np.testing.assert_allclose(found.pred_boxes.tensor.numpy(), mine.boxes, atol=0.05)
        np.testing.assert_allclose(found.scores.numpy(), mine.scores, atol=1e-4)
        assert (found.pred_classes.numpy() + 1).tolist() == mine.category_ids.tolist()


def test_what_detectron2_cannot_compute_is_refused(tmp_path: Path) -> None:
    options = mask_rcnn.Options(preset="torchvision", backbone="resnet18", channels=8, box_head_width=8)
    weights = mask_rcnn.build(options, ("a",)).state_dict()
    path = tmp_path / "best.safetensors"
    checkpoints.save(path, weights, Description("mask_rcnn", options.model_dump(mode="json"), ("a",)))
    with pytest.raises(ConfigError, match="conventions must be detectron2 to run there, got torchvision"):
        write_detectron2(checkpoints.read(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="model yolact cannot be exported to Detectron2"):
        write_detectron2(checkpoints.read("demo"), tmp_path / "out")
    checkpoints.save(path, {}, Description("mask_rcnn", options.model_dump(mode="json"), ("a",)))
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        write_detectron2(checkpoints.read(path), tmp_path / "out")
