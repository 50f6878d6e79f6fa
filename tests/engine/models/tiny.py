"""A model small enough to be trained many times in a test: one mask a class. A plug-in like any other."""

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional as F

from vertinst.models._instances import to_instances
from vertinst.structures import rle


class Options(BaseModel, extra="forbid"):
    width: int = 16
    image_size: int = 64


class Tiny(nn.Module):
    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        width = options.width
        self.body = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Sequential(
            # Draws from torch's generator at each step, which a resumed run has to repeat.
            nn.Dropout2d(0.05),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, images, targets=None):
        logits = [self.head(self.body(image[None]))[0] for image in images]
        if not self.training:
            return [detections(maps) for maps in logits]
        losses = [F.binary_cross_entropy_with_logits(m, class_map(t, m)) for m, t in zip(logits, targets, strict=True)]
        size = torch.stack([m.mean() ** 2 for m in logits]).mean()
        return {"loss_mask": torch.stack(losses).mean(), "loss_size": 0.001 * size}


def class_map(target, logits):
    truth = torch.zeros_like(logits)
    for label, mask in zip(target["labels"].tolist(), target["masks"], strict=True):
        truth[label - 1] = torch.maximum(truth[label - 1], mask.to(truth.dtype))
    return truth


def detections(logits):
    masks = logits.sigmoid()
    height, width = masks.shape[1:]
    count = len(masks)
    return to_instances(
        torch.tensor([[0.0, 0.0, width, height]]).expand(count, 4),
        torch.arange(1, count + 1),
        masks.flatten(1).amax(1),
        [rle.encode(mask) for mask in (masks > 0.5).numpy()],
        (height, width),
    )


def build(options: Options, classes: tuple[str, ...]) -> Tiny:
    return Tiny(options, len(classes))
