"""One file = one model: `Options` (pydantic) and `build(options, classes)`, torchvision's detection contract."""
