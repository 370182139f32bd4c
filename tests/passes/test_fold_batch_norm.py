"""BatchNorm in the layer in front of it, or spelled out: the same function, also behind torchao's own folding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from models import images, plain_model
from packqvit_delegate import export
from packqvit_delegate.capture import capture
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.fold_batch_norm import fold_batch_norm
from programs import assert_exact, signal_to_noise

NORMS = {"batch_norm.default", "_native_batch_norm_legit_no_training.default"}


def norm(kind: type[nn.Module], channels: int, **options: bool) -> nn.Module:
    """With statistics and parameters that matter."""
    made = kind(channels, **options)
    made.running_mean.normal_()
    made.running_var.uniform_(0.3, 2)
    if made.affine:
        nn.init.normal_(made.weight)
        nn.init.normal_(made.bias)
    return made.eval()


def in_front(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(m.layer(x))


def flattened(m: nn.Module, x: Tensor) -> Tensor:
    """As LeViT's layers."""
    y = m.layer(x)
    return m.norm(y.flatten(0, 1)).reshape(y.shape)


def read_twice(m: nn.Module, x: Tensor) -> Tensor:
    y = m.layer(x)
    return y.sigmoid() + m.norm(y)


def alone(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(x.relu())


@pytest.mark.parametrize(
    ("function", "layer", "normalized", "shape", "folds"),
    [
        (in_front, nn.Conv2d(4, 6, 3), norm(nn.BatchNorm2d, 6), (2, 4, 5, 5), True),
        (in_front, nn.Conv2d(4, 8, 3, groups=4, bias=False), norm(nn.BatchNorm2d, 8, affine=False), (2, 4, 5, 5), True),
        (in_front, nn.Conv1d(4, 6, 3), norm(nn.BatchNorm1d, 6), (2, 4, 7), True),
        (in_front, nn.Linear(4, 6), norm(nn.BatchNorm1d, 6), (3, 4), True),
        (flattened, nn.Linear(4, 6, bias=False), norm(nn.BatchNorm1d, 6), (2, 5, 4), True),
        (in_front, nn.Linear(7, 5), norm(nn.BatchNorm1d, 4), (2, 4, 7), False),
        (in_front, nn.ConvTranspose2d(4, 6, 2), norm(nn.BatchNorm2d, 6), (2, 4, 3, 3), False),
        (read_twice, nn.Conv2d(4, 6, 3), norm(nn.BatchNorm2d, 6), (2, 4, 5, 5), False),
        (alone, nn.Identity(), norm(nn.BatchNorm2d, 4), (2, 4, 5, 5), False),
    ],
    ids=["conv", "groups", "conv1d", "linear", "levit", "axis 1", "transposed", "read twice", "alone"],
)
def test_is_no_more(function: Callable, layer: nn.Module, normalized: nn.Module, shape: tuple, folds: bool) -> None:
    made = run_pass(fold_batch_norm, Lambda(function, layer=layer, norm=normalized), tensor(*shape))
    counts = operators(made)
    assert not NORMS & set(counts)
    assert ("mul.Tensor" in counts) is not folds


def test_statistics_of_the_batch_stay() -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(m.layer(x), None, None, training=True)

    counts = operators(run_pass(fold_batch_norm, Lambda(function, layer=nn.Conv2d(4, 6, 3)), tensor(2, 4, 5, 5)))
    assert NORMS & set(counts)


class Stem(nn.Module):
    """A convolution that a BatchNorm and a skip read, as MaxViT's, in front of a Vision Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.behind = nn.Conv2d(3, 3, 3, padding=1), norm(nn.BatchNorm2d, 3), nn.Conv2d(3, 3, 1)
        self.vit = plain_model()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.vit(y + self.behind(self.norm(y)))


def test_a_shared_convolution_keeps_its_weights() -> None:
    torch.manual_seed(0)
    model, x = Stem().eval(), images(8)
    graph = canonicalize(capture(model, (x[:1],)))
    torch.testing.assert_close(graph(x[:1]), model(x[:1]), rtol=1e-3, atol=1e-4)
    program = export(model, (x[:1],), x, bits=8)
    (found,) = assert_exact(program, x[:2])
    assert signal_to_noise(model(x[:2]).detach(), found) > 25
