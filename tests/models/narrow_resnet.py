"""ResNets that cost next to nothing, for tests of what does not hang on the number of their weights."""

from torch import nn
from torchvision.models import resnet


class NarrowResNet(resnet.ResNet):
    """An eighth of the channels in every stage but the stem, with as many layers."""

    def __init__(self, block: type[nn.Module], *arguments: object, **options: object) -> None:
        super().__init__(block, *arguments, **options)
        # Where the width is read from.
        self.fc = nn.Linear(self.inplanes, 1)

    def _make_layer(self, block: type[nn.Module], planes: int, *arguments: object, **options: object) -> nn.Module:
        return super()._make_layer(block, planes // 8, *arguments, **options)
