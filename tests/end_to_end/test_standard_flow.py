"""The quantizer and the partitioner in ExecuTorch's own flow, without this package's `export`."""

from __future__ import annotations

import pytest
import torch
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from models import images, plain_model
from packqvit_delegate import PackQViTPartitioner, PackQViTQuantizer, UnsupportedModelError, runtime
from packqvit_delegate.passes import lower_to_integer


def lower(module: torch.fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> bytes:
    exported = torch.export.export(module, inputs)
    edge = to_edge_transform_and_lower(exported, partitioner=[PackQViTPartitioner()])
    return bytes(edge.to_executorch().buffer)


@pytest.mark.parametrize("bits", [4, 8])
def test_post_training(bits: int) -> None:
    model, batch = plain_model(), images(2)
    prepared = prepare_pt2e(torch.export.export(model, (batch,)).module(), PackQViTQuantizer(bits=bits))
    prepared(batch)
    integer = lower_to_integer(convert_pt2e(prepared))
    (actual,) = runtime.load(lower(integer, (batch,))).run(batch)
    assert torch.equal(actual, integer(batch))


def test_quantisation_aware_training() -> None:
    model, batch = plain_model(), images(1)
    module = torch.export.export(model.eval(), (batch,)).module()
    prepared = prepare_qat_pt2e(module, PackQViTQuantizer(bits=8, is_qat=True))
    optimizer = torch.optim.SGD(prepared.parameters(), 1e-4)
    losses = []
    for _ in range(12):  # the grids are frozen after 8
        optimizer.zero_grad()
        loss = prepared(batch).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    integer = lower_to_integer(convert_pt2e(prepared))
    (actual,) = runtime.load(lower(integer, (batch,))).run(batch)
    assert torch.equal(actual, integer(batch))


def test_active_dropout_is_pointed_out() -> None:
    model, batch = plain_model(), images(2)
    module = torch.export.export(model.train(), (batch,)).module()
    with pytest.raises(UnsupportedModelError, match=r"model.eval\(\)"):
        prepare_qat_pt2e(module, PackQViTQuantizer(bits=8, is_qat=True))


def test_a_forgotten_lowering_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    model, batch = plain_model(), images(2)
    prepared = prepare_pt2e(torch.export.export(model, (batch,)).module(), PackQViTQuantizer(bits=8))
    prepared(batch)
    exported = torch.export.export(convert_pt2e(prepared), (batch,))
    to_edge_transform_and_lower(exported, partitioner=[PackQViTPartitioner()])
    assert "lower_to_integer" in caplog.text
