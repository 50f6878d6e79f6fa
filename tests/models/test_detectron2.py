"""The real Detectron2 as a model. What needs it is skipped where it is not installed; the rest runs everywhere."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from vertinst import doctor
from vertinst.config import load_config, save_config
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Checkpoint, Description
from vertinst.engine.start import start_from
from vertinst.engine.train import train
from vertinst.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError
from vertinst.models import _detectron2_config, detectron2
from vertinst.models._detectron2_config import is_installed, resolve_config
from vertinst.models._detectron2_yaml import read_config
from vertinst.models.detectron2 import Options, build, detectron2_files, resolve
from vertinst.structures import Annotation, Dataset, ImageRecord, rle

needs_detectron2 = pytest.mark.skipif(
    not is_installed(), reason="Detectron2 is not installed; `vertinst doctor` tells how"
)

CLASSES = ("block", "disc", "bar")
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
SMALL = (
    "MODEL.RESNETS.DEPTH=18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=64",
    "MODEL.RESNETS.NORM=BN",
    "MODEL.BACKBONE.FREEZE_AT=0",
    "MODEL.FPN.OUT_CHANNELS=32",
    "MODEL.ANCHOR_GENERATOR.SIZES=[[8], [16], [32], [64], [128]]",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN=100",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=100",
    "MODEL.RPN.POST_NMS_TOPK_TEST=40",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=32",
    "MODEL.ROI_BOX_HEAD.FC_DIM=64",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=32",
    "MODEL.ROI_MASK_HEAD.NUM_CONV=1",
    "TEST.DETECTIONS_PER_IMAGE=10",
)
POINT_REND = (
    "MODEL.ROI_MASK_HEAD.NAME=PointRendMaskHead",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE=''",
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON=true",
    "MODEL.ROI_MASK_HEAD.FC_DIM=32",
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES=true",
    "MODEL.POINT_HEAD.FC_DIM=32",
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS=2",
)
KINDS = {"mask_rcnn": (MASK_RCNN, SMALL), "cascade": (CASCADE, SMALL), "point_rend": (MASK_RCNN, SMALL + POINT_REND)}


def options(kind: str = "mask_rcnn", *more: str) -> Options:
    config, overrides = KINDS[kind]
    return resolve(Options(config=config, overrides=overrides + more, image_size=128))


def model(kind: str = "mask_rcnn", *more: str) -> detectron2.Detectron2:
    torch.manual_seed(0)
    return build(options(kind, *more), CLASSES)


# What runs everywhere.


def test_without_detectron2_one_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"which is not installed\n.*pip install \"setuptools<80\" wheel && pip install --no-build-isolation"
    with pytest.raises(ConfigError, match=message):
        load_config("detectron2_mask_rcnn_lumbar.yaml")
    with pytest.raises(ConfigError, match=r"mask_rcnn computes the same as Detectron2's Mask R-CNN without it"):
        resolve(Options())
    # A checkpoint brings its settings.
    with pytest.raises(ConfigError, match=message):
        build(Options(config={"MODEL": {"MASK_ON": True}}), CLASSES)
    finding = doctor._detectron2()[0]
    assert finding.found == "not installed: needed for the model detectron2 alone"
    assert finding.mend in _detectron2_config.INSTALL
    assert not finding.fatal


def test_a_checkpoint_of_it_says_so_where_detectron2_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    described = Description("detectron2", {"config": {"MODEL": {"MASK_ON": True}}}, CLASSES)
    with pytest.raises(ConfigError, match="needs Detectron2, which is not installed"):
        checkpoints.build_model(Checkpoint(Path("best.safetensors"), described, {}, {}))


def test_a_folder_of_the_same_name_is_no_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_installed():
        pytest.skip("Detectron2 is installed")
    (tmp_path / "detectron2").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("detectron2") is not None
    assert not is_installed()
    with pytest.raises(ConfigError, match="not installed"):
        resolve(Options())


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="backbone"):
        Options(backbone="resnet50")
    with pytest.raises(ValidationError, match="greater than or equal to 64"):
        Options(image_size=3)


def test_a_name_is_not_read_when_a_model_is_built() -> None:
    # It may stand in a stranger's checkpoint.
    with pytest.raises(ConfigError, match=r"model\.config: must be the values of a config, got the name of one"):
        build(Options(config="/etc/passwd.yaml"), CLASSES)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A zoo of one base and one config, as Detectron2 writes them."""
    folder = tmp_path / "zoo"
    (folder / "COCO").mkdir(parents=True)
    (folder / "Base.yaml").write_text("MODEL: {MASK_ON: false, RESNETS: {DEPTH: 50}}\nVERSION: 2\n")
    (folder / "COCO" / "mask.yaml").write_text("_BASE_: ../Base.yaml\nMODEL: {MASK_ON: true}\n")
    return folder


def config_file(tmp_path: Path, text: str) -> str:
    folder = tmp_path / "own"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def test_bases_are_merged_from_the_zoo_and_the_own_folder(tmp_path: Path, zoo: Path) -> None:
    wanted = {"MODEL": {"MASK_ON": True, "RESNETS": {"DEPTH": 50}}, "VERSION": 2}
    assert read_config("COCO/mask.yaml", zoo) == wanted
    name = config_file(tmp_path, "_BASE_: below.yaml\nMODEL: {RESNETS: {DEPTH: 101}}\n")
    (Path(name).parent / "below.yaml").write_text("_BASE_: ../../../configs/COCO/mask.yaml\n")
    assert read_config(name, zoo) == {"MODEL": {"MASK_ON": True, "RESNETS": {"DEPTH": 101}}, "VERSION": 2}


@pytest.mark.parametrize(
    "base", ["../secret.yaml", "/etc/passwd", "https://example.org/a.yaml", "~/a.yaml", "link.yaml", "a\0b.yaml"]
)
def test_bases_elsewhere_are_refused(tmp_path: Path, zoo: Path, base: str) -> None:
    (tmp_path / "secret.yaml").write_text("MODEL: {MASK_ON: true}\n")
    name = config_file(tmp_path, yaml.safe_dump({"_BASE_": base}))
    (Path(name).parent / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(ConfigError, match="_BASE_ must lie in the folder of the config or in Detectron2's zoo"):
        read_config(name, zoo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: !!python/object/apply:os.system ['touch {0}']\n", r"must be plain YAML \(could not determine"),
        ('MODEL: !!python/object/apply:eval [\'open("{0}", "w")\']\n', "Tags such as !!python run code"),
        ("- a\n", "must be a mapping of keys, got list"),
        ("_BASE_: mine.yaml\n", "at most 10 bases"),
        ("MODEL: [\n", "must be plain YAML"),
        ("MODEL: !!bool x\n", r"must be plain YAML \(KeyError\)"),
        ("MODEL: !!timestamp x\n", r"must be plain YAML \(AttributeError\)"),
        ("a: &a {x: 1}\nMODEL: {<<: [*a, *a]}\n", r"must be plain YAML \(an alias"),
        ("_BASE_: [below.yaml, below.yaml, mine.yaml]\n", "at most 10 bases in all"),
    ],
)
def test_a_file_that_is_more_or_less_than_plain_yaml_is_refused(
    tmp_path: Path, zoo: Path, text: str, message: str
) -> None:
    name = config_file(tmp_path, text.replace("{0}", str(tmp_path / "hacked")))
    (Path(name).parent / "below.yaml").write_text("MODEL: {MASK_ON: true}\n")
    with pytest.raises(ConfigError, match=message):
        read_config(name, zoo)
    assert not (tmp_path / "hacked").exists()


def test_an_unknown_name_names_the_nearest_and_programs_are_not_run(tmp_path: Path, zoo: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config(.|\n)*Did you mean COCO/mask\.yaml"):
        read_config("COCO/mask_3x.yaml", zoo)
    with pytest.raises(ConfigError, match="no such config"):
        read_config("../own/mine.yaml", zoo)
    with pytest.raises(ConfigError, match=r"\.py configs are programs"):
        read_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", zoo)


def test_overrides_are_written_either_way() -> None:
    pairs = dict(_detectron2_config._pairs(["MODEL.A=[1, 2]", "MODEL.B", "3", "MODEL.C = x=y", "MODEL.D=''"]))
    assert pairs == {"MODEL.A": [1, 2], "MODEL.B": 3, "MODEL.C": "x=y", "MODEL.D": ""}
    with pytest.raises(ConfigError, match=r"must be KEY=VALUE, got 'MODEL\.A'"):
        dict(_detectron2_config._pairs(["MODEL.A"]))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("SOLVER.BASE_LR", r"SOLVER\.BASE_LR has no effect here\nUse optim and schedule"),
        ("MODEL.WEIGHTS", r"Use init\.weights"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "Use classes"),
        ("INPUT.MIN_SIZE_TRAIN", r"Use model\.image_size"),
        ("OUTPUT_DIR", r"Settings of the network start with MODEL\."),
    ],
)
def test_what_would_have_no_effect_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _detectron2_config._checked([(key, 1)])


def endless() -> dict:
    settings: dict = {}
    settings["MODEL"] = settings
    return settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL": {"FPN": {"OUT_CHANNELS": 10**12}}}, r"OUT_CHANNELS is out of all proportion"),
        ({"MODEL": {"ROI_MASK_HEAD": {"NUM_CONV": 10**6}}}, "Numbers up to 64"),
        ({"MODEL": {"A": [[1] * 300]}}, "out of all proportion"),
        ({"MODEL": {"A": "x" * 1000}}, "out of all proportion"),
        ({"MODEL": {"A": float("nan")}}, "out of all proportion"),
        ({"MODEL": {str(i): 1 for i in range(3000)}}, "at most 2000 values"),
        (endless(), "nested at most 12 deep"),
    ],
)
def test_a_hostile_checkpoint_asks_for_too_much(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _detectron2_config._checked(_detectron2_config._flat(settings))


# What needs Detectron2.


@needs_detectron2
@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_films_without_objects_do_no_harm(kind: str, draw: Callable) -> None:
    network = model(kind).train()
    films = [draw(), draw(empty=True)]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    totals = []
    for _ in range(8):
        parts = network([image for image, _ in films], [target for _, target in films])
        assert {"loss_mask", "loss_rpn_cls", "loss_rpn_loc"} < set(parts)
        assert all(part.ndim == 0 for part in parts.values())
        total = sum(parts.values())
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        totals.append(total.item())
    assert sum(totals[-2:]) < 0.8 * sum(totals[:2])
    image, target = draw(empty=True)
    alone = network([image], [target])
    sum(alone.values()).backward()
    assert "loss_mask" not in alone
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@needs_detectron2
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_of_film_obeys_the_contract(kind: str, check_contract: Callable) -> None:
    images = [torch.rand(3, 131, 77), torch.rand(1, 40, 90).expand(3, -1, -1)]
    with torch.inference_mode():
        results = model(kind).eval()(images)
    assert sum(len(result) for result in results) > 0
    for image, result in zip(images, results, strict=True):
        check_contract(result, image, len(CLASSES))


@needs_detectron2
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_opens_here_and_in_detectron2_and_gives_the_same(kind: str, draw: Callable, tmp_path: Path) -> None:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor
    from detectron2.projects.point_rend import add_pointrend_config

    network = model(kind).eval()
    path = tmp_path / "best.safetensors"
    checkpoints.save(
        path, network.state_dict(), Description("detectron2", network.options.model_dump(mode="json"), CLASSES)
    )
    opened = checkpoints.build_model(checkpoints.read(path))
    # Whole grey values, and the longest side of the network: nothing is rounded or resized.
    grey = np.random.default_rng(0).integers(0, 256, (128, 96), dtype=np.uint8)
    film = torch.tensor(grey / 255, dtype=torch.float32).expand(3, -1, -1)
    with torch.inference_mode():
        first, again = network([film])[0], opened([film])[0]
    assert len(first) > 0
    assert np.array_equal(first.boxes, again.boxes)
    assert first.masks == again.masks

    text, tensors = detectron2_files(network.options, CLASSES, network.state_dict())
    (tmp_path / "config.yaml").write_text(text)
    torch.save({"model": tensors}, tmp_path / "model_final.pth")
    cfg = get_cfg()
    if kind == "point_rend":
        assert "add_pointrend_config(cfg)" in text
        add_pointrend_config(cfg)
    cfg.merge_from_file(str(tmp_path / "config.yaml"), allow_unsafe=False)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(tmp_path / "model_final.pth"), "cpu"
    found = DefaultPredictor(cfg)(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))["instances"]
    order = torch.argsort(found.scores, descending=True, stable=True).numpy()
    theirs = found.pred_masks.numpy()[order]
    # Empty masks are left out here.
    order, theirs = order[theirs.any(axis=(1, 2))], theirs[theirs.any(axis=(1, 2))]
    assert np.abs(found.pred_boxes.tensor.numpy()[order] - first.boxes).max() < 0.01
    assert np.abs(found.scores.numpy()[order] - first.scores).max() < 1e-4
    assert (found.pred_classes.numpy()[order] + 1 == first.category_ids).all()
    ours = np.stack([rle.decode(mask) for mask in first.masks]).astype(bool)
    assert (ours != theirs).mean() < 0.002


def test_weights_that_a_training_can_start_from(tmp_path: Path) -> None:
    body = {
        "stem.conv1.weight": torch.zeros(1),
        "res2.0.conv1.norm.bias": torch.zeros(1),
        "linear.weight": torch.ones(1),
    }
    found = detectron2.recognise_start(body, "r-50.pkl")
    assert found is not None
    assert set(found[2]) == {"backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.res2.0.conv1.norm.bias"}
    whole = {"backbone.fpn_output2.bias": 0, "proposal_generator.rpn_head.conv.bias": 0, "pixel_mean": 0}
    found = detectron2.recognise_start(whole, "model_final.pth")
    assert found is not None
    assert "pixel_mean" not in found[2]
    assert len(found[2]) == 2
    assert detectron2.recognise_start({"layer1.0.conv1.weight": torch.zeros(1)}, "resnet50.pth") is None
    # A stranger's weights are recognised by other models: this one needs the network's settings too.
    assert not hasattr(detectron2, "recognise")


@needs_detectron2
def test_training_starts_from_files_of_detectron2(tmp_path: Path) -> None:
    source = model("cascade")
    path = tmp_path / "model_final.pth"
    torch.save({"model": source.state_dict(), "iteration": 3}, path)
    start = checkpoints.read(path, model="detectron2")
    assert start.foreign
    fresh = build(options("cascade", "MODEL.RPN.NMS_THRESH=0.6"), (*CLASSES, "rod"))
    taken = start_from(fresh, start, "detectron2", fresh.options, (*CLASSES, "rod"), strict=True)
    skipped = {row.name for row in taken.rows if row.outcome != "taken"}
    assert skipped
    assert all("cls_score" in name or "mask_head.predictor" in name for name in skipped)
    assert torch.equal(fresh.backbone.bottom_up.stem.conv1.weight, source.backbone.bottom_up.stem.conv1.weight)


@needs_detectron2
def test_training_starts_from_a_backbone_by_caffe2s_names() -> None:
    network = model("mask_rcnn", "MODEL.RESNETS.DEPTH=50", "MODEL.RESNETS.RES2_OUT_CHANNELS=256")
    stem = torch.rand(64, 3, 7, 7)
    tensors = {"conv1_w": stem, "res2_0_branch2a_w": torch.rand(64, 64, 1, 1), "res_conv1_bn_s": torch.rand(64)}
    found = detectron2.recognise_start(tensors, "R-50.pkl")
    assert found is not None
    assert set(found[2]) < set(network.state_dict())
    assert torch.equal(found[2]["backbone.bottom_up.stem.conv1.weight"], stem)
    assert len(found[2]) == 3


@needs_detectron2
@pytest.mark.parametrize("more", [{"conv1_b": [1], "conv1.b": [1]}, {"bbox_pred_w": []}, {"cls_score_w": []}])
def test_caffe2s_names_for_other_tensors_are_refused(more: dict[str, list[int]]) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in {"conv1_w": [1], **more}.items()}
    with pytest.raises(CheckpointError, match="have Caffe2's names, two of them for one tensor"):
        detectron2.recognise_start(tensors, "R-50.pkl")


@needs_detectron2
def test_resolved_settings_are_short_and_stay_the_same() -> None:
    found = resolve(Options(config=CASCADE, overrides=("MODEL.RESNETS.DEPTH", "101")))
    assert found.config["MODEL"]["RESNETS"]["DEPTH"] == 101
    assert found.config["MODEL"]["ROI_HEADS"]["NAME"] == "CascadeROIHeads"
    assert set(found.config) <= {"MODEL", "TEST", "INPUT"}
    assert "WEIGHTS" not in found.config["MODEL"]
    assert found.overrides == ()
    assert found.config_name == "cascade_mask_rcnn_R_50_FPN_3x.yaml"
    assert len(yaml.safe_dump(found.config).splitlines()) < 60
    assert resolve(found) == found
    assert resolve(Options(config=found.config, overrides=("MODEL.RESNETS.DEPTH=50",))).config != found.config


@needs_detectron2
@pytest.mark.parametrize(
    "name",
    [
        "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml",
        "Misc/semantic_R_50_FPN_1x.yaml",
    ],
)
def test_configs_without_instance_masks_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="needs a config for instance masks"):
        resolve(Options(config=name))


@needs_detectron2
def test_code_in_a_config_of_the_zoo_is_not_run_either() -> None:
    with pytest.raises(ConfigError, match=r"Base-RetinaNet\.yaml: must be plain YAML"):
        resolve(Options(config="COCO-Detection/retinanet_R_50_FPN_3x.yaml"))


@needs_detectron2
def test_every_config_of_the_zoo_with_masks_can_be_built() -> None:
    folder = _detectron2_config.zoo_folder()
    names = [p.relative_to(folder).as_posix() for p in folder.glob("*-InstanceSegmentation/*.yaml")]
    names += [p.relative_to(folder).as_posix() for p in folder.glob("Misc/*mask_rcnn*.yaml")]
    # Deeper networks take longer and differ in numbers alone.
    names = [name for name in names if "101" not in name and "152" not in name]
    assert len(names) > 10
    for name in names:
        with torch.device("meta"):
            network = build(resolve(Options(config=name)), CLASSES)
        assert next(network.parameters()).is_meta


@needs_detectron2
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("MODEL.RPN.PRE_NMS_TOPK_TRIAN=3", r"unknown key(.|\n)*Did you mean MODEL\.RPN\.PRE_NMS_TOPK_TRAIN"),
        ("MODEL.RESNETS.DEPTH=deep", "MODEL.RESNETS.DEPTH must be like 50, got 'deep'"),
        ("MODEL.ROI_HEADS.NAME=Mine", "needs a config for instance masks"),
        ("INPUT.FORMAT=L", "INPUT.FORMAT must be BGR or RGB"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(MASK_RCNN, [override])


@needs_detectron2
@pytest.mark.parametrize("override", ["MODEL.RESNETS.DEPTH=19", "MODEL.RESNETS.NUM_GROUPS=0", "MODEL.BACKBONE.NAME=x"])
def test_settings_that_do_not_go_together_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="Detectron2 cannot make a network of these settings"):
        build(resolve(Options(overrides=(override,))), CLASSES)


@needs_detectron2
def test_whole_numbers_do_for_fractions_and_synchronised_norm_becomes_that_of_one_process() -> None:
    found = resolve_config(MASK_RCNN, ["MODEL.ROI_HEADS.SCORE_THRESH_TEST=0", "MODEL.RESNETS.NORM=SyncBN"])
    assert found["MODEL"]["ROI_HEADS"]["SCORE_THRESH_TEST"] == 0.0
    assert found["MODEL"]["RESNETS"]["NORM"] == "BN"


@needs_detectron2
def test_freezing_is_an_override(draw: Callable) -> None:
    frozen = {n for n, p in model("mask_rcnn", "MODEL.BACKBONE.FREEZE_AT=3").named_parameters() if not p.requires_grad}
    assert frozen
    assert all(
        name.startswith(("backbone.bottom_up.stem", "backbone.bottom_up.res2", "backbone.bottom_up.res3"))
        for name in frozen
    )


@needs_detectron2
def test_weights_that_are_no_numbers_are_not_taken_for_an_empty_film(draw: Callable) -> None:
    image, target = draw()
    network = model()
    network.roi_heads.box_predictor.cls_score.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="outputs must be finite"), torch.inference_mode():
        network.eval()([image])
    network.proposal_generator.rpn_head.anchor_deltas.weight.data[:] = float("nan")
    with pytest.raises(NonFiniteLossError, match="training diverged"):
        network.train()([image], [target])


@needs_detectron2
def test_a_wrong_label_is_refused(draw: Callable) -> None:
    image, target = draw()
    with pytest.raises(DataError, match=r"labels must lie in 1\.\.3"):
        model().train()([image], [{**target, "labels": target["labels"] + 3}])


@needs_detectron2
def test_the_packaged_config_is_read(tmp_path: Path) -> None:
    config = load_config("detectron2_mask_rcnn_lumbar")
    assert config.model.model_extra["config"]["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@needs_detectron2
def test_doctor_tells_what_works() -> None:
    finding = doctor._detectron2()[0]
    assert "compiled operators work on cpu" in finding.found
    assert not finding.mend


@needs_detectron2
def test_a_run_ends_with_files_that_detectron2_opens(tmp_path: Path, draw: Callable) -> None:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    films = tmp_path / "films"
    films.mkdir()
    image, target = draw()
    cv2.imwrite(str(films / "1.png"), (image[0].numpy() * 255).round().astype(np.uint8))
    parts = zip(target["labels"], target["masks"], strict=True)
    regions = tuple(Annotation(CLASSES[label - 1], rle.encode(mask.numpy())) for label, mask in parts)
    data = Dataset(CLASSES, (ImageRecord(1, "1.png", 96, 128, annotations=regions),))
    overrides = ", ".join(f'"{override}"' for override in SMALL)
    settings = [f"model.overrides=[{overrides}]", "model.image_size=128", f"classes=[{', '.join(CLASSES)}]"]
    settings += ["schedule.epochs=1", "data.workers=0", "precision=32", "device=cpu"]
    run = tmp_path / "run"
    train(load_config("detectron2_mask_rcnn_lumbar", settings), data, data, films, run)
    # Its own settings are enough to go on, as a resumed run does.
    train(load_config(run / "config.yaml", ["schedule.epochs=2"]), data, data, films, run, resume=True)

    cfg = get_cfg()
    cfg.merge_from_file(str(run / "detectron2" / "config.yaml"), allow_unsafe=False)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(run / "detectron2" / "model_final.pth"), "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = DefaultPredictor(cfg)
    assert len(predictor(cv2.imread(str(films / "1.png")))["instances"]) > 0
    best = checkpoints.read(run).weights
    theirs = predictor.model.state_dict()
    assert set(best) == set(theirs)
    assert all(torch.equal(best[name], theirs[name]) for name in best)


@needs_detectron2
@pytest.mark.parametrize(
    ("section", "values", "error", "message"),
    [
        ("FPN", {"OUT_CHANNELS": 10**6}, CheckpointError, "weights do not fit the model"),
        ("BACKBONE", {"NAME": "__import__('os').getcwd()"}, ConfigError, "No object named"),
        ("BACKBONE", {"COMPUTED_X": 1}, ConfigError, "unknown key"),
        ("RESNETS", {"DEPTH": "(" * 290}, ConfigError, "must be like 50"),
        ("RESNETS", {"DEPTH": "1000000000"}, ConfigError, "Numbers up to 1000000"),
        ("ROI_BOX_HEAD", {"NUM_FC": "1000"}, ConfigError, "Numbers up to 64"),
        ("RESNETS", {"RES2_OUT_CHANNELS": -5}, ConfigError, "cannot make a network of these settings"),
    ],
)
def test_a_hostile_checkpoint_is_refused_before_memory_is_taken(
    section: str, values: dict, error: type[Exception], message: str
) -> None:
    config = resolve(Options()).config
    config["MODEL"][section] |= values
    described = Description("detectron2", {"config": config}, CLASSES)
    with pytest.raises(error, match=message):
        checkpoints.build_model(Checkpoint(Path("best.safetensors"), described, {"w": torch.zeros(1)}, {}))
