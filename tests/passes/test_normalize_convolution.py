from __future__ import annotations

import pytest
from torch import nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import normalize_convolution

CONVOLUTIONS = {
    "valid": nn.Conv2d(3, 4, (4, 2), (4, 2), padding="valid"),
    "valid_without_bias": nn.Conv2d(3, 4, 4, 4, padding="valid", bias=False),
    "valid_in_groups": nn.Conv2d(4, 4, 3, 2, padding="valid", dilation=2, groups=2),
    "same_without_neighbours": nn.Conv2d(3, 4, 1, padding="same"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_padding_is_spelled_out(name: str) -> None:
    convolution = CONVOLUTIONS[name]
    model = Lambda(lambda m, x: m.conv(x), conv=convolution)
    graph_module = run_pass(normalize_convolution, model, tensor(2, convolution.in_channels, 9, 11))
    assert operators(graph_module) == {"conv2d.default": 1}


def test_padding_that_adds_pixels_stays() -> None:
    model = Lambda(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 4, 3, padding="same"))
    assert operators(run_pass(normalize_convolution, model, tensor(2, 3, 9, 9))) == {"conv2d.padding": 1}
