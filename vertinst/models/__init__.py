"""One file = one model: `Options` (pydantic) and `build(options, classes)`; and how what it builds is used.

The module that `build` gives takes films as torchvision's detectors do. In training `forward(images, targets)` returns
a dict of losses; in evaluation `forward(images)` returns the `Instances` of each film, best score first.

A model may also have: `resolve(options)`, which reads files that options name, for a user's settings alone;
`recognise(tensors, file_name)` of weights that others published, and `recognise_start` of those that only a training
can start from; `detectron2_files(options, classes, weights)`, with `OPENS_IN_DETECTRON2` at the end of every run.
"""
