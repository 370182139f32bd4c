"""A model of the zoo, and the weights and inputs that it is tried with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMALIZATION = ((0.5,) * 3, (0.5,) * 3)
"""Mean and standard deviation of the pixels of all models."""
CALIBRATION_SAMPLES = 4
TEST_SAMPLES = 2


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: Of the program and in the tables; ` 2 layers` and the like say what was left out of it.
        build: Makes it, with random weights that are the same each time.
        size: Height and width of its pictures.
        batch: Of the program.
        inputs: Makes so many inputs [n, ...] from a seed, where they are no pictures.
    """

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int] = (224, 224)
    batch: int = 1
    inputs: Callable[[int, int], Tensor] | None = None

    @property
    def takes_pictures(self) -> bool:
        """Whether its input is pixels [n, 3, h, w]."""
        return self.inputs is None

    def samples(self, count: int, seed: int) -> Tensor:
        """So many inputs, [count, ...]."""
        return self.inputs(count, seed) if self.inputs is not None else pictures(count, self.size, seed)

    @property
    def calibration(self) -> Tensor:
        """What the program is calibrated with."""
        return self.samples(max(CALIBRATION_SAMPLES, self.batch), 0)

    @property
    def tests(self) -> tuple[Tensor, ...]:
        """Inputs of the program's batch that it is compared with the model on."""
        return self.samples(max(1, TEST_SAMPLES // self.batch) * self.batch, 7).split(self.batch)


def pictures(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Pictures of low and high frequencies and grain, float32 [count, 3, h, w], normalised by NORMALIZATION."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 128 + 10 * torch.randn(count, 3, *size, generator=generator)
    for cells, strength, mode in ((4, 50, "bicubic"), (32, 25, "bilinear")):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        pixels += strength * functional.interpolate(coarse, size=size, mode=mode)
    return pixels.round().clamp(0, 255) / 255 * 2 - 1


def tokens(length: int, vocabulary: int) -> Callable[[int, int], Tensor]:
    """Inputs of a text tower: int64 [n, length]."""

    def make(count: int, seed: int) -> Tensor:
        return torch.randint(3, vocabulary - 10, (count, length), generator=torch.Generator().manual_seed(seed))

    return make


def noise(*shape: int) -> Callable[[int, int], Tensor]:
    """Normal inputs, float32 [n, *shape]."""

    def make(count: int, seed: int) -> Tensor:
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))

    return make


def randomize(model: nn.Module) -> nn.Module:
    """Gives a model weights for which activations neither vanish nor explode, and norms and biases that matter.

    Temperatures of attention stay as the model has them.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            normal = torch.randn(parameter.shape, generator=generator)
            kind = name.rsplit(".", 1)[-1]
            if parameter.dim() == 0 or "logit_scale" in name:
                continue
            scales = kind.startswith("gamma") or "lambda" in kind or "layer_scale" in name
            if scales or (parameter.dim() == 1 and "bias" not in kind and parameter.numel() > 1):
                parameter.copy_(1 + 0.2 * normal)
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * normal)
            elif kind in ("weight", "in_proj_weight", "qkv_weight"):
                parameter.copy_(normal / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * normal)
    return model.eval()
