"""Our Mask R-CNN beside Detectron2's: the same weights and films from a seed, the largest differences as a table.

Run it with a Python that has both (Detectron2 built from its public source, see `benchmarks/README.md`):

    python benchmarks/mask_rcnn_numbers.py                   # the table
    python benchmarks/mask_rcnn_numbers.py --write-fixtures  # tests/models/fixtures anew, from Detectron2 alone
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import mask_rcnn_detectron2 as theirs
import numpy as np
import torch
from mask_rcnn_detectron2 import Film, seeded
from torch import Tensor

from vertinst.models._mask_rcnn_heads import Drawn
from vertinst.structures.rle import decode, encode

Rows = dict[str, tuple[float, float]]

FIXTURES = theirs.TESTS / "fixtures"
LEVELS = ("p2", "p3", "p4", "p5", "p6")
# Of smaller masks one pixel is more than a thousandth.
LARGE_PX = 1000
# Boxes further apart than this are not taken for one and the same.
SAME_PX = 0.05
# Where nothing is rounded away: films of a third of the size, in the networks of the full size.
DOUBLE_FILMS = {"shortest": 256, "longest": 427, "films": ((352, 269),), "trained": ((256, 275), (283, 256))}
LOSSES = ("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")


def compare(name: str) -> Rows:
    """All differences of one case: what, how large, how large it may be."""
    case = seeded.CASES[name]
    rows: Rows = {}
    net, model = theirs.network(case), seeded.our_model(case)
    for seed, size in enumerate(case.films):
        film = seeded.film(*size, seed=seed)
        wanted = theirs.evaluate(net, theirs.resized(case, film), size)
        _merge(rows, _stages(wanted, seeded.our_stages(model, film)[0]))
        _merge(rows, _on_film(wanted, model, film))
    with torch.no_grad():
        _merge(rows, _losses(case, net, model, 1e-4, "", given=True))
    del net, model
    _merge(rows, _double(case))
    return rows


def _merge(rows: Rows, more: Rows) -> None:
    for what, (value, limit) in more.items():
        rows[what] = max(value, rows.get(what, (0.0, limit))[0]), limit


def _stages(wanted: dict[str, Tensor], found: dict[str, Tensor], suffix: str = "", *, exact: bool = False) -> Rows:
    """Input, features, proposals and detections of one film; `exact` where rounding decides nothing."""
    features, px, logit = (1e-9, 1e-6, 1e-8) if exact else (1e-3, 1e-2, 1e-3)
    rows: Rows = {} if exact else {"input, grey values": (_largest(wanted["input"], found["input"]), 1e-3)}
    rows["features, relative"] = max(seeded.relative(*_pair(wanted[p], found[p])) for p in LEVELS), features
    proposals = _match(wanted["proposals"], found["proposals"], wanted["objectness"], found["objectness"])
    rows["proposals in one set alone"] = proposals.missing, 0
    rows["proposals in another order"] = proposals.swapped, 0
    rows["proposals, px"] = proposals.px, px
    rows["proposals' logits"] = proposals.score, logit
    detections = _match(wanted["box"], found["box"], wanted["score"], found["score"], (wanted["class"], found["class"]))
    rows["detections in one set alone"] = detections.missing, 0
    rows["detections in another order"] = detections.swapped, 0
    rows["detections, px of the film"] = detections.px, px
    rows["scores"] = detections.score, 1e-8 if exact else 1e-4
    a, b = detections.pairs.T
    rows["mask probabilities in boxes"] = _largest(wanted["roi_mask"][a], found["roi_mask"][b]), features
    return {f"{what}{suffix}": value for what, value in rows.items()}


class Match(NamedTuple):
    """How two lists of boxes go together."""

    pairs: Tensor
    """(M, 2) places in the first and in the second."""
    missing: int
    """Boxes that only one of them has."""
    swapped: int
    """Pairs before a better one in the second list, although their scores differ by more than rounding."""
    px: float
    score: float


def _match(
    a: Tensor, b: Tensor, scores_a: Tensor, scores_b: Tensor, classes: tuple[Tensor, Tensor] | None = None
) -> Match:
    distance = (a[:, None] - b[None]).abs().amax(dim=2)
    if classes is not None:
        distance = distance + 1e6 * (classes[0][:, None] != classes[1][None])
    # Twins (two proposals that were clipped to the same box) by their scores.
    distance = distance + 1e-3 * (scores_a[:, None] - scores_b[None]).abs()
    if not len(a) or not len(b):
        return Match(torch.zeros((0, 2), dtype=torch.int64), len(a) + len(b), 0, 0.0, 0.0)
    there, back = distance.argmin(dim=1), distance.argmin(dim=0)
    mutual = back[there] == torch.arange(len(a))
    near = (a - b[there]).abs().amax(dim=1) < SAME_PX
    chosen = (mutual & near).nonzero()[:, 0]
    pairs = torch.stack((chosen, there[chosen]), dim=1)
    px = _largest(a[pairs[:, 0]], b[pairs[:, 1]])
    score = _largest(scores_a[pairs[:, 0]], scores_b[pairs[:, 1]])
    ordered = scores_a[pairs[pairs[:, 1].argsort(), 0]]
    swapped = int((ordered.cummin(dim=0).values + 2 * score < ordered).sum())
    return Match(pairs, len(a) + len(b) - 2 * len(pairs), swapped, px, score)


def _on_film(wanted: dict[str, Tensor], model: Any, film: Film) -> Rows:
    """What users get: boxes, scores and masks in the film's own pixels; Detectron2's empty masks are left out."""
    with torch.no_grad():
        found = model([seeded.as_image(film)])[0]
    some = wanted["mask"].flatten(1).any(1)
    kept = {key: wanted[key][some] for key in ("box", "score", "class", "mask")}
    ours = [torch.from_numpy(part) for part in (found.boxes, found.scores, found.category_ids - 1)]
    match = _match(kept["box"], ours[0], kept["score"], ours[1], (kept["class"], ours[2]))
    a, b = match.pairs.T
    mine = torch.from_numpy(np.stack([decode(found.masks[place]) for place in b])).bool()
    return {"instances in one set alone": (match.missing, 0), **_masks(kept["mask"][a], mine)}


def _masks(wanted: Tensor, found: Tensor) -> Rows:
    """Of two lists of masks (N, H, W)."""
    both, either = ((one.flatten(1).sum(1)) for one in (wanted & found, wanted | found))
    large = either >= LARGE_PX
    worst = float((1 - both[large] / either[large]).max()) if large.any() else 0.0
    return {
        f"masks of {LARGE_PX} pixels and more, 1 - IoU": (worst, 1e-3),
        "masks, wrong pixels in one": (float((either - both).max()), np.inf),
        "masks, wrong pixels of a million": (float((either - both).sum() / either.sum()) * 1e6, 1e3),
    }


def _losses(case: seeded.Case, net: Any, model: Any, limit: float, suffix: str, *, given: bool) -> Rows:
    """Of a batch of two films, the second without any object, from the same sampled anchors and proposals.

    `given`: ours learns from Detectron2's proposals; in single precision two of nearly the same score may change places
    between both, and then others are sampled. Else ours samples its own, which must be the same.
    """
    films, targets = seeded.trained_films(case), seeded.targets(case)
    wanted = theirs.train(net, films, targets)
    found = seeded.our_training(model, films, targets, _drawn(wanted, targets) if given else None)
    rows: Rows = {"sampled anchors": (int((wanted.anchor_labels != found.anchor_labels).sum()), 0)}
    if not given:
        alike = [a.tolist() == b.tolist() for a, b in zip(wanted.labels, found.labels, strict=True)]
        rows["films with other sampled proposals"] = len(alike) - sum(alike), 0
        px = [_largest(a, b) for a, b in zip(wanted.boxes, found.boxes, strict=True)]
        rows["sampled proposals, px"] = max(px), 1e-6
    for loss in LOSSES:
        rows[f"{loss}, relative"] = _relative(wanted.losses[loss], found.losses[loss]), limit
    if torch.is_grad_enabled():
        rows["gradients of parameters, relative"] = _gradients(net, model, wanted.losses, found.losses), limit
    return {f"{what}{suffix}": value for what, value in rows.items()}


def _drawn(wanted: Any, targets: list[dict[str, Tensor]]) -> list[Drawn]:
    """What Detectron2 sampled, as ours takes it."""
    drawn = []
    for boxes, labels, matched, target in zip(wanted.boxes, wanted.labels, wanted.matched, targets, strict=True):
        # A film without truths has nothing to match.
        truth = torch.zeros_like(labels) if matched is None else torch.cdist(matched, target["boxes"]).argmin(dim=1)
        drawn.append(Drawn(boxes, labels, truth))
    return drawn


def _gradients(net: Any, model: Any, a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, as a share of the largest number of its tensor."""
    wanted = seeded.gradients(a, dict(net.named_parameters()))
    zeros = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    named = seeded.renamed({**zeros, **wanted})
    found = seeded.gradients(b, dict(model.named_parameters()))
    trained = {name for name, value in named.items() if name in found}
    if len(trained) != len(found) or len(found) != len(wanted):
        raise RuntimeError(f"both must train the same parameters, got {len(wanted)} and {len(found)}")
    return max(seeded.relative(*_pair(named[name], found[name])) for name in trained)


def _double(case: seeded.Case) -> Rows:
    """Everything once more where rounding decides nothing: the same sets, the same order, all gradients.

    In single precision two ways of rounding put an activation on this or that side of a ReLU's kink.
    """
    theirs.use_double()
    seeded.use_double()
    small = case._replace(**DOUBLE_FILMS) if case.shortest > 256 and case.depth > 18 else case
    net, model = theirs.network(small).double(), seeded.our_model(small)
    suffix = ", double"
    rows: Rows = {}
    for seed, size in enumerate(small.films):
        film, caps = seeded.film(*size, seed=seed), seeded.caps(small)
        for most, found in zip(caps, seeded.our_stages(model, film, caps), strict=True):
            net.roi_heads.box_predictor.test_topk_per_image = most
            wanted = theirs.evaluate(net, theirs.resized(small, film), size)
            _merge(rows, _stages(wanted, found, suffix, exact=True))
        pasted = torch.from_numpy(seeded.paste(found, size))
        _merge(rows, {f"{what}{suffix}": value for what, value in _masks(wanted["mask"], pasted).items()})
    return rows | _losses(small, net, model, 1e-8, suffix, given=False)


def _pair(a: Tensor, b: Tensor) -> tuple[Any, Any]:
    return a.detach().numpy(), b.detach().numpy()


def _largest(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a.detach() - b.detach()).abs().max()) if a.numel() else 0.0


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs() / a.detach().abs().clamp(min=1e-30))


def fixtures(name: str) -> Rows:
    """Write what Detectron2 gives for one case, in double precision; the inputs come from the seed again."""
    case = seeded.CASES[name]
    arrays: seeded.Arrays = {}
    if name == seeded.PREPROCESSED:
        for size in seeded.PREPROCESSED_SIZES:
            image = theirs.resized(seeded.CASES["R50"], seeded.film(*size))
            key = seeded.size_key(size)
            arrays[f"preprocessing/{key}"] = seeded.digest({key: image})[key]
            arrays[f"preprocessing/{key}/size"] = np.array(image.shape[1:])
    theirs.use_double()
    net = theirs.network(case).double()
    for most in seeded.caps(case):
        net.roi_heads.box_predictor.test_topk_per_image = most
        for seed, size in enumerate(case.films):
            found = theirs.evaluate(net, theirs.resized(case, seeded.film(*size, seed=seed)), size)
            arrays |= _film_fixtures(f"{seeded.size_key(size)}/{most}", found, masks=most == case.most)
    arrays |= _training_fixtures(case, net)
    np.savez_compressed(FIXTURES / f"mask_rcnn_{name}.npz", **arrays)
    return {}


def _film_fixtures(key: str, found: dict[str, Tensor], *, masks: bool) -> seeded.Arrays:
    arrays = {f"{key}/{part}": found[part].to(torch.float32).numpy() for part in ("box", "score", "class")}
    arrays[f"{key}/roi_mask"] = seeded.digest({"roi_mask": found["roi_mask"]}, 200)["roi_mask"]
    if not masks:
        return arrays
    arrays |= {f"{key}/{part}": values for part, values in seeded.digest({p: found[p] for p in LEVELS}).items()}
    arrays |= {f"{key}/{part}": found[part].to(torch.float32).numpy() for part in ("proposals", "objectness")}
    counts = [encode(mask.numpy())["counts"] for mask in found["mask"]]
    arrays[f"{key}/counts"] = np.frombuffer(b" ".join(counts), dtype=np.uint8)
    sure = [
        theirs.paste_masks_in_image(found["roi_mask"], found["box"], tuple(found["mask"].shape[1:]), 0.5 + shift)
        for shift in (-1e-4, 1e-4)
    ]
    arrays[f"{key}/near"] = (sure[0] != sure[1]).nonzero().to(torch.int32).numpy()
    return arrays


def _training_fixtures(case: seeded.Case, net: Any) -> seeded.Arrays:
    """Losses, what was sampled and gradients."""
    films, targets = seeded.trained_films(case), seeded.targets(case)
    found = theirs.train(net, films, targets)
    arrays: seeded.Arrays = {f"loss/{name}": loss.detach().numpy() for name, loss in found.losses.items()}
    arrays["anchor_labels"] = found.anchor_labels.to(torch.int8).numpy()
    for number, (boxes, labels) in enumerate(zip(found.boxes, found.labels, strict=True)):
        arrays[f"sampled/{number}/boxes"] = boxes.to(torch.float32).numpy()
        arrays[f"sampled/{number}/labels"] = labels.to(torch.int8).numpy()
    table = seeded.digest(seeded.gradients(found.losses, dict(net.named_parameters())), 3)
    arrays["gradients"] = np.stack([table[key] for key in sorted(table)])
    arrays["gradients/names"] = np.array(sorted(table))
    return arrays


def main() -> None:
    """Run each case in its own process: that of double precision cannot be undone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-fixtures", action="store_true", help="write the tests' fixtures instead")
    parser.add_argument("--case", nargs="+", choices=list(seeded.CASES))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    run = fixtures if arguments.write_fixtures else compare
    if arguments.alone:
        print(json.dumps(run(arguments.case[0])))
        return
    names = arguments.case or [*(seeded.SMALL if arguments.write_fixtures else seeded.CASES)]
    rows: dict[str, Rows] = {}
    for name in names:
        flags = ["--write-fixtures"] if arguments.write_fixtures else []
        command = [sys.executable, __file__, "--case", name, "--alone", *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: done", file=sys.stderr)
    if not arguments.write_fixtures:
        sys.exit(_print_table(rows))


def _print_table(rows: dict[str, Rows]) -> int:
    """A row for each quantity, a column for each case; the number of differences that are too large."""
    print(f"| largest difference | at most | {' | '.join(rows)} |\n|---|---|{'---|' * len(rows)}")
    for what in dict.fromkeys(what for found in rows.values() for what in found):
        limit = next(found[what][1] for found in rows.values() if what in found)
        cells = [f"{found[what][0]:.2g}" if what in found else "" for found in rows.values()]
        print(f"| {what} | {'' if limit == np.inf else f'{limit:.0e}' if limit else 0} | {' | '.join(cells)} |")
    wrong = [
        (name, what) for name, found in rows.items() for what, (value, limit) in found.items() if not value <= limit
    ]
    for name, what in wrong:
        print(f"TOO LARGE: {name}: {what}", file=sys.stderr)
    return len(wrong)


if __name__ == "__main__":
    main()
