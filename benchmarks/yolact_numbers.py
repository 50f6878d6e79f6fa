"""What `yolact_original.py` compares, and the fixtures that it leaves for the tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import seeded_yolact as seeded
import torch
import yolact_original as theirs
from torch import Tensor

from vertinst.models.yolact import Raw
from vertinst.structures import Instances
from vertinst.structures.rle import decode, encode

Rows = dict[str, tuple[float, float]]

HEADS = ("loc", "conf", "mask", "proto", "segm")
FIXTURES = theirs.TESTS / "fixtures"


def compare(path: Path, name: str, size: int | None) -> Rows:
    """All differences of one configuration: what, how large, how large it may be."""
    config = seeded.CONFIGS[name]
    size = size or config.size
    original = theirs.load_original(path, config.original, max_size=size)
    theirs.compile_ordinary_nms(original)
    net = theirs.original_net(original, config.classes)
    model = seeded.our_model(name, size)
    rows: Rows = {}
    rows |= _preprocessing(original, model)
    rows |= _network(original, net, model, size)
    rows |= _crafted(original, net, name)
    rows |= _double(original, name)
    return rows


def _network(original: SimpleNamespace, net: Any, model: Any, size: int) -> Rows:
    """Heads, detections, masks and losses of two films, and the gradients with respect to the heads."""
    films, targets = seeded.batch(2, size), seeded.targets(model, size, 2)
    heads = theirs.original_heads(net, films)
    raw, semantic = seeded.our_heads(model, films)
    ours = seeded.named(raw, semantic)
    rows: Rows = {name: (_largest(heads[name], ours[name]), 1e-4) for name in HEADS}
    rows["priors"] = (_largest(heads["priors"], seeded.our_priors(model, size)), 1e-6)
    with torch.no_grad():
        for kind in seeded.NMS_KINDS:
            sizes = ((size, size), (size * 3 // 4, size))
            rows |= _films(original, net, model, {**ours, "priors": heads["priors"]}, kind, sizes, "own")
        if original.cfg.use_maskiou:
            masks = seeded.score_masks()
            difference = _largest(net.maskiou_net(masks[:, None]), seeded.our_score_maps(model, masks))
            rows["mask IoU"] = difference, 1e-4
    for kind in ("ohem", "focal"):
        a, b = _both_losses(original, net, model, heads, ours, targets, size, kind)
        for letter in a:
            rows[f"loss {letter} {kind}" if letter == "C" else f"loss {letter}"] = _relative(a[letter], b[letter]), 1e-4
        wanted, found = (seeded.gradients(x, {n: y[n] for n in HEADS}, {}) for x, y in ((a, heads), (b, ours)))
        worst = max(seeded.relative(wanted[n], found[n]) for n in HEADS)
        rows[f"gradients of heads, {kind}"] = worst, 1e-4
    return rows


def _both_losses(
    original: SimpleNamespace,
    net: Any,
    model: Any,
    heads: dict[str, Tensor],
    ours: dict[str, Tensor],
    targets: list[dict[str, Tensor]],
    size: int,
    kind: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    original.cfg.use_focal_loss = kind == "focal"
    model.options = model.options.model_copy(update={"class_loss": kind})
    a = theirs.original_losses(original, net, heads, targets, size)
    raw = Raw(*(ours[name] for name in HEADS[:-1]))
    b = seeded.our_losses(model, raw, ours["segm"], targets, size)
    if set(a) != set(b):
        raise RuntimeError(f"both must have the same losses, got {sorted(a)} and {sorted(b)}")
    return a, b


def _double(original: SimpleNamespace, name: str) -> Rows:
    """Gradients of all parameters in double precision.

    In single precision the two differ by a hundredth here and there: rounding decides on which side of a ReLU's kink
    an activation lies.
    """
    seeded.use_double()
    config, size, films = seeded.CONFIGS[name], seeded.loss_size(name), 2
    original.cfg.max_size = size
    net, model = theirs.original_net(original, config.classes).double(), seeded.our_model(name, size).double()
    batch, targets = seeded.batch(films, size).double(), seeded.targets(model, size, films)
    heads = theirs.original_heads(net, batch)
    ours = seeded.named(*seeded.our_heads(model, batch))
    a, b = _both_losses(original, net, model, heads, ours, targets, size, "ohem")
    parameters = {key: value for key, value in net.named_parameters() if value.requires_grad}
    mine = dict(model.named_parameters())
    wanted = seeded.gradients(a, {}, parameters)
    found = seeded.gradients(b, {}, {key: mine[key] for key in parameters})
    return {
        "heads, double precision": (max(_largest(heads[key], ours[key]) for key in HEADS), 1e-9),
        "losses, double precision": (max(_relative(a[key], b[key]) for key in a), 1e-6),
        "gradients of parameters, double precision": (max(seeded.relative(wanted[k], found[k]) for k in wanted), 1e-6),
    }


def _crafted(original: SimpleNamespace, net: Any, name: str) -> Rows:
    """Detections and masks on head outputs made for the purpose."""
    rows: Rows = {}
    size = seeded.crafted_size(name)
    model = seeded.our_model(name, size)
    original.cfg.max_size = size
    for faint in (False, True):
        heads = seeded.crafted_heads(model, size, faint=faint)
        with torch.no_grad():
            for kind in seeded.NMS_KINDS:
                prefix = "faint" if faint else "crowded"
                rows |= _films(original, net, model, heads, kind, seeded.FILM_SIZES, prefix)
    return rows


def _films(
    original: SimpleNamespace,
    net: Any,
    model: Any,
    heads: dict[str, Tensor],
    kind: str,
    sizes: tuple[tuple[int, int], ...],
    prefix: str,
) -> Rows:
    """Both go on from the same head outputs."""
    model.options = seeded.with_nms(model.options, kind)
    first = {name: value[:1] for name, value in heads.items() if name in HEADS} | {"priors": heads["priors"]}
    detection = theirs.original_detections(original, first, kind)
    side = original.cfg.max_size
    raw = Raw(first["loc"], first["conf"], first["mask"], first["proto"])
    wrong = pixels = edges = 0
    score = box = 0.0
    for size in sizes:
        wanted = theirs.original_films(original, net, detection, size)
        found = model.detect(raw, (side, side), [size], [(side, side)])[0]
        # Equal scores by class; of those that were cut at 1 only the order tells which was higher.
        ties = np.where(found.scores < 1, found.category_ids, np.arange(len(found.scores)))
        found = found[np.lexsort((ties, -found.scores))]
        if wanted["class"].tolist() != (found.category_ids - 1).tolist():
            wrong += 1
            continue
        score = max(score, _largest(wanted["score"].clamp(max=1), found.scores))
        box = max(box, _largest(wanted["box"], found.boxes))
        edge = _edges_on_pixels(wanted["box"], size, first["proto"])
        pixels, edges = pixels + _wrong_pixels(wanted, found, edge), edges + int(edge.sum())
    return {
        f"{prefix}, {kind}: films with other classes or order": (wrong, 0),
        f"{prefix}, {kind}: scores": (score, 1e-5),
        f"{prefix}, {kind}: boxes, px": (box, 1e-3),
        f"{prefix}, {kind}: pixels of masks": (pixels, 0),
        f"{prefix}, {kind}: masks that rounding cuts a pixel further": (edges, 3),
    }


def _wrong_pixels(wanted: dict[str, Tensor], found: Instances, edges: Tensor) -> int:
    """Pixels that differ although they are not within 1e-5 of the threshold; masks with such `edges` are left out."""
    wrong = 0
    parts = zip(wanted["mask"], wanted["probability"], found.masks, edges.tolist(), strict=True)
    for mask, probability, rle, edge in parts:
        clear = (probability - 0.5).abs() > 1e-5
        wrong += 0 if edge else int(((mask != torch.from_numpy(decode(rle))) & clear).sum())
    return wrong


def _edges_on_pixels(boxes: Tensor, film_size: tuple[int, int], prototypes: Tensor) -> Tensor:
    """(N,) bool: rounding decides in which row or column of the prototypes the box ends, where the mask is cut."""
    height, width = prototypes.shape[-2:]
    scale = torch.tensor([width / film_size[1], height / film_size[0]] * 2, dtype=torch.float64)
    place = boxes.double() * scale
    inside = (place > 0) & (place < torch.tensor([width, height] * 2))
    return ((place - place.round()).abs() < 1e-5).logical_and(inside).any(dim=1)


def _preprocessing(original: SimpleNamespace, model: Any) -> Rows:
    fast = slow = 0.0
    for height, width in seeded.PREPROCESSED_SIZES:
        film = seeded.colour_film(height, width)
        a, b = theirs.original_preprocessing(original, film.permute(1, 2, 0).flip(2))
        ours = model.prepare([film.float() / 255])[0][0]
        fast, slow = max(fast, _largest(a, ours)), max(slow, _largest(b, ours))
    return {"FastBaseTransform": (fast, 1e-4), "BaseTransform": (slow, 1e-3)}


def _largest(a: Any, b: Any) -> float:
    a, b = (np.asarray(x.detach() if isinstance(x, Tensor) else x, dtype=np.float64) for x in (a, b))
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max()) if a.size else 0.0


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs() / a.detach().abs())


def fixtures(path: Path, name: str, size: int | None) -> Rows:
    """Write what the original gives for one configuration; the inputs come from the seed again."""
    config, small = seeded.CONFIGS[name], size or seeded.SMALL[name]
    original = theirs.load_original(path, config.original)
    full_net = theirs.original_net(original, config.classes)
    arrays: seeded.Arrays = {"priors": seeded.digest({"priors": _full_priors(original, full_net)})["priors"]}
    if name in seeded.PREPROCESSED:
        for height, width in seeded.PREPROCESSED_SIZES:
            film = seeded.colour_film(height, width).permute(1, 2, 0).flip(2)
            fast, slow = theirs.original_preprocessing(original, film)
            prepared = {f"fast {height} {width}": fast, f"slow {height} {width}": slow}
            arrays |= {f"preprocessing/{key}": value for key, value in seeded.digest(prepared).items()}
    original.cfg.max_size = small
    net = theirs.original_net(original, config.classes)
    with torch.no_grad():
        heads = theirs.original_heads(net, seeded.batch(1, small))
        if original.cfg.use_maskiou:
            masks = seeded.score_masks()
            heads["mask_iou"] = net.maskiou_net(masks[:, None])
        arrays |= {f"heads/{key}": value for key, value in seeded.digest(heads).items()}
        if name in seeded.CRAFTED:
            theirs.compile_ordinary_nms(original)
            arrays |= _crafted_fixtures(original, net, name)
    if name in seeded.DIFFERENTIATED:
        arrays |= _loss_fixtures(original, name)
    np.savez_compressed(FIXTURES / f"{name}.npz", **arrays)
    return {}


def _full_priors(original: SimpleNamespace, net: Any) -> Tensor:
    side = original.cfg.max_size
    original.cfg._tmp_img_h = original.cfg._tmp_img_w = side
    grids = [-(-side // stride) for stride in (8, 16, 32, 64, 128)]
    layers = zip(net.prediction_layers, grids, strict=True)
    return torch.cat([layer.make_priors(grid, grid, torch.device("cpu")) for layer, grid in layers])


def _crafted_fixtures(original: SimpleNamespace, net: Any, name: str) -> seeded.Arrays:
    size = seeded.crafted_size(name)
    original.cfg.max_size = size
    model = seeded.crafted_model(name)
    arrays: seeded.Arrays = {}
    for case, kind, film_size in seeded.crafted_cases(name):
        heads = seeded.crafted_heads(model, size, faint=case == "faint")
        detection = theirs.original_detections(original, heads, kind)
        found = theirs.original_films(original, net, detection, film_size)
        counts = [encode(mask.numpy())["counts"] for mask in found["mask"]]
        near = ((found["probability"] - 0.5).abs() <= 1e-5).nonzero().to(torch.int32)
        key = f"crafted/{case} {kind} {film_size[0]} {film_size[1]}"
        arrays[f"{key}/class"] = found["class"].to(torch.uint8).numpy()
        arrays[f"{key}/score"] = found["score"].numpy()
        arrays[f"{key}/box"] = found["box"].numpy()
        arrays[f"{key}/counts"] = np.frombuffer(b" ".join(counts), dtype=np.uint8)
        arrays[f"{key}/near"] = near.numpy()
    return arrays


def _loss_fixtures(original: SimpleNamespace, name: str) -> seeded.Arrays:
    """Losses and gradients in double precision."""
    seeded.use_double()
    config, size, films = seeded.CONFIGS[name], seeded.loss_size(name), seeded.DIFFERENTIATED[name]
    original.cfg.max_size = size
    net = theirs.original_net(original, config.classes).double()
    heads = theirs.original_heads(net, seeded.batch(films, size).double())
    targets = [seeded.truth(size, config.classes, n, seed) for seed, n in enumerate(seeded.OBJECTS[:films])]
    losses = theirs.original_losses(original, net, heads, targets, size)
    parameters = {key: value for key, value in net.named_parameters() if value.requires_grad}
    arrays: seeded.Arrays = {f"loss/{letter}": loss.detach().numpy() for letter, loss in losses.items()}
    found = seeded.gradients(losses, {key: heads[key] for key in HEADS}, parameters)
    table = seeded.digest(found, 4)
    arrays["gradients"] = np.stack([table[key] for key in sorted(table)])
    arrays["gradients/names"] = np.array(sorted(table))
    original.cfg.use_focal_loss = True
    focal = theirs.original_losses(original, net, heads, targets, size)["C"]
    arrays["loss/focal"] = focal.detach().numpy()
    arrays["gradients/focal"] = seeded.digest(seeded.gradients({"C": focal}, {"conf": heads["conf"]}, {}), 200)["conf"]
    return arrays
