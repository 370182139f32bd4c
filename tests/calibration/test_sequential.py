"""Calibration in the order of the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from models import images, plain_model
from packqvit_delegate import CalibrationError, CalibrationMethod, PackQViTError, PackQViTQuantizer
from packqvit_delegate.calibration import calibrate
from packqvit_delegate.passes import lower_to_integer
from packqvit_delegate.quantizer.observers import MinMSEObserver, WeightObserver


def prepared_model(batch: Tensor, bits: int = 4) -> GraphModule:
    return prepare_pt2e(torch.export.export(plain_model(), (batch,)).module(), PackQViTQuantizer(bits=bits))


def integer_model(batches: list[Tensor], size: int, bits: int = 4, **method: object) -> GraphModule:
    prepared = prepared_model(batches[0][:size], bits)
    calibrate(prepared, [(batch,) for batch in batches], size, CalibrationMethod(**method))  # type: ignore[arg-type]
    return lower_to_integer(convert_pt2e(prepared))


def error(integer: GraphModule, x: Tensor) -> float:
    with torch.no_grad():
        return float((integer(x) - plain_model()(x)).square().mean())


def test_the_integer_model_comes_close_to_the_float_one() -> None:
    x = images(16, seed=5)
    with torch.no_grad():
        power = float(plain_model()(x[:1]).var())
    assert error(integer_model([x], 1, bits=8), x[:1]) < 0.02 * power


def test_gptq_beats_nearest_at_4_bits() -> None:
    train, test = images(32, seed=1), images(32, seed=2)

    def mean_error(rounding: str) -> float:
        model = integer_model([train], 1, rounding=rounding)
        return sum(error(model, test[i : i + 1]) for i in range(len(test)))

    assert mean_error("gptq") < mean_error("nearest")


@pytest.mark.parametrize("sizes", [[3, 5], [1] * 8])
def test_all_batches_count(sizes: list[int]) -> None:
    """Batches add up in another order, which flips single codes: far less than an image that was left out does."""
    x, other = images(8), images(16, seed=2)
    batches = list(x.split(sizes))

    def answers(calibration: list[Tensor]) -> Tensor:
        model = integer_model(calibration, 1)
        with torch.no_grad():
            return torch.cat([model(image) for image in other.split(1)])

    reference = answers([x])
    assert torch.equal(answers([x]), reference)
    split, first_alone = answers(batches), answers(batches[:1])
    assert (split - reference).square().mean() < 0.25 * (first_alone - reference).square().mean()


def test_one_image_is_enough_to_calibrate() -> None:
    x = images(1)
    with torch.no_grad():
        power = float(plain_model()(x).var())
    assert error(integer_model([x], 1), x) < 0.2 * power
    assert error(integer_model([x], 1, bits=8), x) < 0.02 * power


def test_a_program_for_batches_is_calibrated_on_them() -> None:
    x = images(4)
    assert integer_model([x[:2], x[2:]], 2)(x[:2]).shape[0] == 2


def test_weights_lie_on_the_grid_that_is_exported() -> None:
    x = images(4)
    prepared = prepared_model(x[:1])
    calibrate(prepared, [(x,)])
    fixed = [m for m in prepared.modules() if isinstance(m, WeightObserver) and m._fixed]
    assert fixed
    for observer in fixed:
        scales, _ = observer.calculate_qparams()
        weight = observer._weight
        assert weight is not None
        codes = weight / scales[:, None]
        assert torch.allclose(codes, codes.round(), atol=1e-4) and float(codes.abs().max()) < observer.quant_max + 0.5


def test_nothing_is_random() -> None:
    x = images(8)
    first, second = integer_model([x], 1), integer_model([x], 1)
    for (name, a), (_, b) in zip(first.named_buffers(), second.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("method", [{"rounding": "up"}, {"damping": 0.0}])
def test_unknown_methods_are_refused(method: dict[str, object]) -> None:
    with pytest.raises(PackQViTError, match=next(iter(method))):
        CalibrationMethod(**method)  # type: ignore[arg-type]


def test_no_images_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no calibration data"):
        calibrate(prepared_model(images(1)), [])


def test_without_clipping_ranges_end_at_the_extremes() -> None:
    x = images(8, seed=3)

    def worst_ratio(clipping: bool) -> float:
        prepared = prepared_model(x[:1])
        calibrate(prepared, [(x,)], method=CalibrationMethod(clipping=clipping))
        observers = [m for m in prepared.modules() if isinstance(m, MinMSEObserver)]
        ratios = []
        for observer in observers:
            scale, zero_point = observer.affine_pair()
            low, high = observer.sample.range()
            covered = (observer.quant_max - zero_point) * scale, (zero_point - observer.quant_min) * scale
            ratios.append(min(covered[0] / max(high, 1e-9), covered[1] / max(-low, 1e-9)))
        return min(ratios)

    assert worst_ratio(clipping=True) < 0.8  # at 4 bits something is clipped
    assert worst_ratio(clipping=False) > 0.93  # half a step of 15, by which a zero point is rounded
