"""The original YOLACT (github.com/dbolya/yolact) on a CPU, beside ours.

Both get weights and films from one seed (`tests/models/seeded_yolact.py`). With `pip install cython` and a C compiler:

    python benchmarks/yolact_original.py compare --original PATH   # the largest differences, as a table
    python benchmarks/yolact_original.py fixtures --original PATH  # tests/models/fixtures anew, from the original alone
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

TESTS = Path(__file__).resolve().parents[1] / "tests" / "models"
sys.path.append(str(TESTS))

import seeded_yolact as seeded  # noqa: E402


def load_original(path: Path, config_name: str, **changes: Any) -> SimpleNamespace:
    """Import the original from a checkout, once a process: its settings are global and its modules have common names.

    Args:
        path: The checkout; nothing is written into it.
        config_name: One of `data/config.py`, for instance `yolact_resnet50_config`.
        changes: Settings in place of the config's own.

    Returns:
        Its modules: `config` (with `cfg`), `yolact`, `box_utils`, `output_utils`, `multibox_loss`, `augmentations`.

    Raises:
        RuntimeError: The original was loaded in this process already.
    """
    if "yolact" in sys.modules:
        raise RuntimeError("must be called once a process: the original's settings are global")
    _stand_ins()
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = importlib.import_module("data.config")
        config.set_cfg(config_name)
        # Its evaluation script sets the first.
        config.cfg.replace({"mask_proto_debug": False, **changes})
        names = {
            "yolact": "yolact",
            "box_utils": "layers.box_utils",
            "output_utils": "layers.output_utils",
            "multibox_loss": "layers.modules.multibox_loss",
            "augmentations": "utils.augmentations",
        }
        modules = {name: importlib.import_module(place) for name, place in names.items()}
    return SimpleNamespace(path=path, config=config, cfg=config.cfg, **modules)


def _stand_ins() -> None:
    """What the original takes for granted: CUDA, names that numpy has removed, and its own CUDA extension."""
    if not torch.cuda.is_available():
        torch.cuda.current_device = lambda: 0
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    for name, kind in {"int": np.int64, "float": np.float64, "bool": np.bool_}.items():
        if name not in vars(np):
            setattr(np, name, kind)
    module = types.ModuleType("dcn_v2")
    module.DCN = DeformableConv  # type: ignore[attr-defined]
    sys.modules["dcn_v2"] = module


class DeformableConv(nn.Module):
    """Modulated deformable convolution (arXiv 1811.11168) with the parameter names of the original's extension."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        dilation: int = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__()
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        outputs = 3 * deformable_groups * kernel_size**2
        self.conv_offset_mask = nn.Conv2d(in_channels, outputs, kernel_size, stride, padding)

    def forward(self, features: Tensor) -> Tensor:
        """The last third of the inner convolution weighs the samples, the rest moves them (y, x)."""
        guide = self.conv_offset_mask(features)
        cut = guide.shape[1] // 3 * 2
        return deform_conv2d(
            features, guide[:, :cut], self.weight, self.bias, mask=guide[:, cut:].sigmoid(), **self.geometry
        )


def compile_ordinary_nms(original: SimpleNamespace) -> None:
    """Compile the original's Cython NMS in a temporary folder; asks for `pip install cython` and a C compiler."""
    import pyximport

    folder = Path(tempfile.mkdtemp(prefix="cython_nms"))
    text = (original.path / "utils" / "cython_nms.pyx").read_text()
    # Neither numpy nor its declarations for Cython have these names any more.
    text = text.replace("np.int_t", "np.int64_t").replace("dtype=np.int)", "dtype=np.int64)")
    (folder / "cython_nms.pyx").write_text(text)
    install: Callable[..., Any] = pyximport.install
    sys.path.insert(0, str(folder))
    hooks = install(build_dir=str(folder / "build"), setup_args={"include_dirs": np.get_include()})
    sys.modules["utils.cython_nms"] = importlib.import_module("cython_nms")
    pyximport.uninstall(*hooks)
    sys.path.remove(str(folder))
    # It installs pyximport again before each use, which is needless by now.
    pyximport.install = lambda *_, **__: None


def original_net(original: SimpleNamespace, classes: int) -> Any:
    """The original's network with the seed's weights and constant batch norm, in training, where it gives logits."""
    original.cfg.freeze_bn = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = original.yolact.Yolact()
    state = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict(seeded.weights(state, classes))
    net.train()
    return net


def original_heads(net: Any, films: Tensor) -> dict[str, Tensor]:
    """`loc`, `conf` (logits), `mask`, `proto` (B, k, h, w), `segm` and `priors` of a batch."""
    found: dict[str, Tensor] = dict(net(films))
    found["proto"] = found["proto"].permute(0, 3, 1, 2)
    return found


def original_detections(original: SimpleNamespace, heads: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Class (from 0), score, box (fractions of the film) and coefficients after NMS of the first film."""
    cfg = original.cfg
    detect = original.yolact.Detect(
        heads["conf"].shape[2],
        bkg_label=0,
        top_k=cfg.nms_top_k,
        conf_thresh=cfg.nms_conf_thresh,
        nms_thresh=cfg.nms_thresh,
    )
    detect.use_fast_nms, detect.use_cross_class_nms = kind != "ordinary", kind == "cross_class"
    given = {**heads, "conf": heads["conf"].softmax(-1), "proto": heads["proto"].permute(0, 2, 3, 1).contiguous()}
    found: dict[str, Tensor] = detect(given, None)[0]["detection"]
    return found


def original_films(
    original: SimpleNamespace, net: Any, detection: dict[str, Tensor], size: tuple[int, int]
) -> dict[str, Tensor]:
    """What `postprocess` makes of detections on a film of (H, W), as ours orders it: best first, nothing empty.

    Returns:
        `class` from 0, `score` (rescored in YOLACT++), `box` in px of the film, `mask` bool, and `probability`, which
        the masks are before they are cut at a half.
    """
    kept: list[Tensor] = []
    cut = torch.Tensor.gt_

    def remember(masks: Tensor, threshold: float) -> Tensor:
        kept.append(masks.clone())
        return cut(masks, threshold)

    torch.Tensor.gt_ = remember  # type: ignore[method-assign, assignment]
    try:
        copy = {name: value.clone() for name, value in detection.items()}
        classes, scores, _, masks = original.output_utils.postprocess(
            [{"detection": copy, "net": net}], size[1], size[0]
        )
    finally:
        torch.Tensor.gt_ = cut  # type: ignore[method-assign]
    score = scores[1] if isinstance(scores, list) else scores
    # Of equal scores the smaller class first: with the original that is left to the sorting.
    order = torch.from_numpy(np.lexsort((classes.numpy(), -score.numpy())))
    order = order[masks[order].flatten(1).any(1)]
    box = (detection["box"] * torch.tensor([size[1], size[0]] * 2)).clamp(min=0)
    box = torch.minimum(box, torch.tensor([size[1], size[0]] * 2))
    return {
        "class": classes[order],
        "score": score[order],
        "box": box[order],
        "mask": masks[order].bool(),
        "probability": kept[0][order],
    }


def original_losses(
    original: SimpleNamespace, net: Any, heads: dict[str, Tensor], targets: list[dict[str, Tensor]], size: int
) -> dict[str, Tensor]:
    """The weighted losses under their letters."""
    cfg = original.cfg
    criterion = original.multibox_loss.MultiBoxLoss(
        cfg.num_classes, cfg.positive_iou_threshold, cfg.negative_iou_threshold, cfg.ohem_negpos_ratio
    )
    boxes = [torch.cat((t["boxes"] / size, t["labels"][:, None] - 1.0), dim=1) for t in targets]
    masks = [t["masks"].float() for t in targets]
    given = {**heads, "proto": heads["proto"].permute(0, 2, 3, 1)}
    losses: dict[str, Tensor] = criterion(net, given, boxes, masks, [0] * len(targets))
    return losses


def original_preprocessing(original: SimpleNamespace, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """`FastBaseTransform` and `BaseTransform` of (H, W, 3) in 0..255, channels BGR, each as (3, h, w)."""
    transforms = original.augmentations
    fast = transforms.FastBaseTransform()(pixels[None].float())[0]
    box = np.array([[0.0, 0.0, 1.0, 1.0]])
    labels = {"num_crowds": 0, "labels": np.array([0])}
    height, width = pixels.shape[:2]
    slow = transforms.BaseTransform()(pixels.numpy(), np.zeros((1, height, width)), box, labels)[0]
    return fast, torch.from_numpy(slow).permute(2, 0, 1)


def main() -> None:
    """Run one of the two commands, each configuration in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("compare", "fixtures"))
    parser.add_argument("--original", type=Path, required=True, help="checkout of github.com/dbolya/yolact")
    parser.add_argument("--config", nargs="+", choices=list(seeded.CONFIGS), default=list(seeded.CONFIGS))
    parser.add_argument("--size", type=int, help="films of this many pixels instead of each configuration's own")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        numbers = importlib.import_module("yolact_numbers")
        run = numbers.fixtures if arguments.command == "fixtures" else numbers.compare
        print(json.dumps(run(arguments.original, arguments.config[0], arguments.size)))
        return
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for name in arguments.config:
        size = [] if arguments.size is None else ["--size", str(arguments.size)]
        command = [sys.executable, __file__, arguments.command, "--original", str(arguments.original), *size]
        done = subprocess.run([*command, "--config", name, "--alone"], stdout=subprocess.PIPE, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: done", file=sys.stderr)
    if arguments.command == "compare":
        sys.exit(_print_table(rows))


def _print_table(rows: dict[str, dict[str, tuple[float, float]]]) -> int:
    """A row for each quantity, a column for each configuration; the number of differences that are too large."""
    print(f"| largest difference | at most | {' | '.join(rows)} |\n|---|---|{'---|' * len(rows)}")
    for what in dict.fromkeys(what for found in rows.values() for what in found):
        limit = next(found[what][1] for found in rows.values() if what in found)
        cells = [f"{found[what][0]:.2g}" if what in found else "" for found in rows.values()]
        print(f"| {what} | {limit:.0e} | {' | '.join(cells)} |" if limit else f"| {what} | 0 | {' | '.join(cells)} |")
    wrong = [
        (name, what) for name, found in rows.items() for what, (value, limit) in found.items() if not value <= limit
    ]
    for name, what in wrong:
        print(f"TOO LARGE: {name}: {what}", file=sys.stderr)
    return len(wrong)


if __name__ == "__main__":
    main()
