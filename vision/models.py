"""Models that read normalised images (N, C, S, S) and give logits (N, K)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import check_setting
from vision.images import import_torchvision


class ImageModel(nn.Module):
    """Pixels go through a body that gives features (N, F), then through a linear head.

    Convolutions run in the channels-last memory format, which takes half the time on a CPU.

    If `mirror`, features in evaluation are the mean of those of an image and of its mirror image,
    and so are the logits, because the head is linear. Training reads each image only as it is.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, mirror: bool = False) -> None:
        super().__init__()
        self.body = body.to(memory_format=torch.channels_last)
        self.head = head
        self.mirror = mirror

    def features(self, inputs: Tensor) -> Tensor:
        """Return the features (N, F) that the head reads."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.training or not self.mirror:
            return self.body(inputs)
        return (self.body(inputs) + self.body(inputs.flip(3))) / 2

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return self.head(self.features(inputs))


def linear(num_classes: int, channels: int, image_size: int) -> ImageModel:
    """Return softmax regression: each logit is a weighted sum of pixels."""
    _check(channels=channels, image_size=image_size)
    head = nn.Linear(channels * image_size**2, num_classes)
    return ImageModel(nn.Flatten(), head)


def mlp(
    num_classes: int,
    channels: int,
    image_size: int,
    hidden_dim: int = 256,
    depth: int = 2,
    dropout: float = 0.2,
) -> ImageModel:
    """Return `depth` fully connected layers, which do not know which pixels are neighbours."""
    _check(dropout, channels=channels, image_size=image_size, hidden_dim=hidden_dim, depth=depth)
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(depth):
        size = hidden_dim if i else channels * image_size**2
        layers += [nn.Linear(size, hidden_dim), nn.ReLU(), nn.Dropout(dropout)]
    return ImageModel(nn.Sequential(*layers), nn.Linear(hidden_dim, num_classes))


def small_cnn(
    num_classes: int,
    channels: int,
    image_size: int,
    width: int = 32,
    dropout: float = 0.0,
    whiten: bool = False,
    blocks: int = 0,
    mirror: bool = False,
) -> ImageModel:
    """Return four convolutions, the last one residual, averaged over the image; fast on a CPU.

    The first convolution halves images of 16 pixels or more, before there are many channels.
    Pooling comes before normalisation and ReLU, which then have a quarter of the work.

    If `whiten`, the filters of the first convolution start as `whiten_filters` makes them. If
    `blocks` > 0, another pooling and that many further residual convolutions follow; on a quarter
    of the pixels they cost little. For `mirror` see `ImageModel`.
    """
    _check(dropout, channels=channels, width=width)
    check_setting("blocks", blocks, blocks >= 0, "at least 0")
    if blocks:  # of smaller images one pixel would be left, and a batch of one could not train
        check_setting("image_size", image_size, image_size >= 8, "at least 8 where blocks > 0")
    kernel, stride = (4, 2) if image_size >= 16 else (3, 1)
    body = nn.Sequential(
        convolution(channels, width, kernel, stride),
        convolution(width, 2 * width, pool=True),
        convolution(2 * width, 4 * width),
        Residual(convolution(4 * width, 4 * width)),
        nn.MaxPool2d(2) if blocks else nn.Identity(),
        *(Residual(convolution(4 * width, 4 * width)) for _ in range(blocks)),
        MeanOfPixels(),
        nn.Dropout(dropout),
    )
    model = ImageModel(body, nn.Linear(4 * width, num_classes), mirror)
    if whiten:
        first: Any = body[0]
        model.prepare = partial(whiten_filters, first[0])  # type: ignore[assignment]
    return model


def whiten_filters(layer: nn.Conv2d, inputs: Tensor, eps: float = 5e-4) -> None:
    """Set the filters of `layer` so that their outputs for `inputs` are uncorrelated.

    With the eigenvectors v and eigenvalues s of the covariance of all patches that the layer reads,
    they are v / sqrt(s + eps) of the largest s, then the same with the other sign, because ReLU
    follows. Where there are more filters than twice the eigenvectors, the last stay as they are.
    """
    window: dict[str, Any] = {name: getattr(layer, name) for name in ("padding", "stride")}
    patches = F.unfold(inputs.cpu(), layer.kernel_size, **window)  # (N, D, P)
    values, vectors = torch.linalg.eigh(patches.transpose(0, 1).flatten(1).double().cov())
    count = min(len(values), len(layer.weight) // 2)
    filters = (vectors / (values + eps).sqrt()).mT.flip(0)[:count]
    both = torch.cat([filters, -filters]).view(-1, *layer.weight.shape[1:])
    layer.weight.data[: 2 * count] = both


def resnet18(num_classes: int, channels: int, image_size: int) -> ImageModel:
    """Return torchvision's ResNet-18 (He et al. 2015), untrained, with a stem for small images.

    The stem neither strides nor pools. Images of up to 8 pixels are halved once less, because the
    batch normalisation of a single image needs more than one pixel.
    """
    body = import_torchvision().models.resnet18(num_classes=num_classes)
    body.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    body.maxpool = nn.Identity()
    body.avgpool = MeanOfPixels()
    if image_size <= 8:
        body.layer4[0].conv1.stride = body.layer4[0].downsample[0].stride = (1, 1)
    head, body.fc = body.fc, nn.Identity()
    return ImageModel(body, head)


class Residual(nn.Module):
    """A residual block: x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return x + inner(x)."""
        return x + self.inner(x)


class MeanOfPixels(nn.Module):
    """The mean (N, C) of images (N, C, S, S), whose gradient is channels-last as images are.

    That of torch's AdaptiveAvgPool2d is not, which slows the backward pass of the layers before it:
    with this one, a step of `small_cnn` takes .87 of the time in bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of all pixels of each channel."""
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


def convolution(
    channels: int, out_channels: int, kernel: int = 3, stride: int = 1, pool: bool = False
) -> nn.Sequential:
    """Return a convolution, 2x2 pooling where asked for, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _check(dropout: float = 0.0, **sizes: int) -> None:
    check_setting("dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
    for name, size in sizes.items():
        check_setting(name, size, size >= 1, "at least 1")
