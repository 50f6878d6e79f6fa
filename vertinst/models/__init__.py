"""One file = one model: `Options` (pydantic) and `build(options, classes)`; and how what it builds is used.

The module that `build` gives takes films as torchvision's detectors do. In training `forward(images, targets)` returns
a dict of losses; in evaluation `forward(images)` returns the `Instances` of each film, best score first.
"""
