"""The integer references against the real functions, within stated errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from packqvit_delegate import PlanError
from packqvit_delegate.ops import arithmetic
from packqvit_delegate.ops.layer_norm import normalized_fraction_bits
from packqvit_delegate.passes.integer.attention_rules import MAX_KEYS
from packqvit_delegate.requantizer import make_requantizer, normalized_multiplier

ops = torch.ops.packqvit


def test_exp2_is_within_2e_4_relatively_and_decreases() -> None:
    exponent = torch.arange(0, 1024)
    p, octaves = arithmetic.exp2_negative(exponent)
    real = torch.exp2(-exponent.double() / 1024) * 16384
    assert bool((octaves == 0).all())
    assert float((p / real - 1).abs().max()) < 1.9e-4
    assert bool((p[1:] < p[:-1]).all()) and p[0] == 16384 and p[-1] > 8192


def test_log2_is_within_a_quarter_step_and_a_rounding() -> None:
    total = torch.cat([torch.arange(1 << 14, 1 << 16), (1 << torch.arange(14, 31)), (1 << torch.arange(15, 32)) - 1])
    real = torch.log2(total.double() / (1 << 14)) * 1024
    assert float((arithmetic.log2_normalizer(total) - real).abs().max()) < 0.5 + 0.26


@given(st.integers(0, (1 << 62) - 1))
def test_integer_sqrt_is_exact(value: int) -> None:
    assert int(arithmetic.integer_sqrt(torch.tensor(value))) == math.isqrt(value)


@given(st.integers(1, (1 << 62) - 1))
def test_bit_length_is_exact(value: int) -> None:
    assert int(arithmetic.bit_length(torch.tensor(value))) == value.bit_length()


@given(st.floats(1e-9, 1e9))
def test_normalized_multiplier_is_within_its_precision(ratio: float) -> None:
    multiplier, shift = normalized_multiplier(ratio)
    assert 1 << 14 <= multiplier < 1 << 15
    assert multiplier * 2.0 ** -(15 + shift) == pytest.approx(ratio, rel=2**-15)


@pytest.mark.parametrize("log2", [True, False])
def test_softmax_of_groups_is_the_masked_softmax(log2: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    step, windows, tokens = 1e-3, 4, 9
    scores = torch.randint(-4000, 4000, (2 * windows, 3, tokens, tokens), generator=generator, dtype=torch.int32)
    bias = torch.randint(-2000, 2000, (3, tokens, tokens), generator=generator, dtype=torch.int32)
    groups = torch.randint(0, 3, (windows, tokens), generator=generator).to(torch.uint8)
    multiplier, shift = normalized_multiplier(step * math.log2(math.e) * 1024)
    codes = ops.softmax(scores, bias, multiplier, shift, log2, groups)
    same = (groups[:, :, None] == groups[:, None]).repeat(2, 1, 1)[:, None]
    real = ((scores + bias) * step).masked_fill(~same, -math.inf).softmax(-1)
    assert bool((codes[~same.expand_as(codes)] == (15 if log2 else 0)).all())
    if log2:
        assert float((codes - (-real.log2()).clamp_max(15)).abs().max()) < 0.52
    else:
        assert float((codes / codes.sum(-1, keepdim=True, dtype=torch.float32) - real).abs().max()) < 0.01
    plain = ops.softmax(scores, bias, multiplier, shift, log2, torch.zeros_like(groups))
    assert torch.equal(plain, ops.softmax(scores, bias, multiplier, shift, log2))


@settings(deadline=None)
@given(st.floats(1e-7, 4.0), st.sampled_from([7 * 128 * 192, 127 * 128 * 768, 127 * 128 * 4096]), st.integers(0, 99))
def test_requantised_values_are_within_the_stated_error(ratio: float, bound: int, seed: int) -> None:
    requantizer = make_requantizer(torch.tensor([ratio]).double(), bound, 6)
    reach = min(bound, int(200 / ratio) + 1)
    accumulator = torch.randint(-reach, reach + 1, (500, 1), generator=torch.Generator().manual_seed(seed))
    codes = arithmetic.requantize(
        accumulator,
        requantizer.multiplier,
        requantizer.shift,
        requantizer.left_shift,
        requantizer.fraction_bits,
        3,
        -128,
        127,
    )
    real = (accumulator * ratio + 3).clamp(-128, 127)
    error = (codes - real).abs()
    assert float((error - 0.5 - 2.0**-requantizer.fraction_bits - 2**-15 * real.abs()).max()) <= 1e-9


def test_a_grid_too_fine_for_its_accumulators_is_refused() -> None:
    with pytest.raises(PlanError, match="too fine"):
        make_requantizer(torch.tensor([64.0]).double(), 127 * 128 * 4096, 6)
    with pytest.raises(PlanError, match="not a positive finite number"):
        make_requantizer(torch.tensor([math.nan]).double(), 1000, 6)


def _softmax_codes(logits: torch.Tensor, step: float, log2: bool) -> torch.Tensor:
    multiplier, shift = normalized_multiplier(step * math.log2(math.e) * 1024)
    return ops.softmax(logits, None, multiplier, shift, log2)


@pytest.mark.parametrize("step", [1e-6, 2e-4, 0.01, 0.7])
@pytest.mark.parametrize("spread", [1.0, 12.0])
def test_linear_probabilities_are_within_a_step(step: float, spread: float) -> None:
    real = torch.randn(2, 3, 20, 197, generator=torch.Generator().manual_seed(0)).double() * spread
    logits = torch.round(real / step).to(torch.int32)
    expected = torch.softmax(logits.double() * step, -1)
    expected /= expected.amax(-1, keepdim=True)
    codes = _softmax_codes(logits, step, log2=False).double()
    # Half a step of rounding and 0.15 % of the value.
    assert float(((codes - 255 * expected).abs() - 0.5 - 1.5e-3 * 255 * expected).max()) < 0
    assert bool((codes.amax(-1) == 255).all())


@pytest.mark.parametrize("keys", [1, 2, 197, 1370, 32768])
@pytest.mark.parametrize("ratio", [0.11, 0.9, 3.7])
def test_linear_codes_weigh_a_mean_of_values(keys: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(keys)
    codes = torch.randint(0, 256, (1, 2, 5, keys), generator=generator, dtype=torch.uint8)
    codes[..., 0] = 255
    v = torch.randint(-127, 128, (1, keys, 16), generator=generator, dtype=torch.int8)
    v[..., -1] = 127
    scaled = torch.full((16,), ratio * 2.0**-8, dtype=torch.float64)
    requantizer = make_requantizer(scaled, 32767, 6)
    args = (requantizer.multiplier, requantizer.shift, False, requantizer.left_shift, requantizer.fraction_bits)
    actual = ops.attention_values(codes, v, *args, 0, -128, 127).double()
    weights = codes.double() / codes.double().sum(-1, keepdim=True)
    heads = v.double().reshape(1, keys, 2, 8).transpose(1, 2)
    expected = (weights @ heads).transpose(1, 2).reshape(1, 5, 16) * ratio
    # Half an output step, the steps of 2^-8 of a value and of 2^-6 of the output, and 2^-14 of the value.
    bound = 0.5 + ratio * 2.0**-8 + 2.0**-6 + 2.0**-14 * expected.abs()
    assert bool(((actual - expected.clamp(-128, 127)).abs() <= bound).all())


@pytest.mark.parametrize("step", [1e-6, 2e-4, 0.01, 0.7])
def test_log2_codes_differ_from_the_rounded_logarithm_only_at_ties(step: float) -> None:
    logits = torch.round(torch.randn(2, 3, 20, 197, generator=torch.Generator().manual_seed(1)) * 4 / step).to(
        torch.int32
    )
    exact = -torch.log2(torch.softmax(logits.double() * step, -1))
    codes = _softmax_codes(logits, step, log2=True)
    assert float(((codes - exact.clamp_max(15)).abs() - 0.5 - 3e-3).max()) < 0


@pytest.mark.parametrize("keys", [1, 197, 1032, 4097, 5793, 16384, 32768])
def test_log2_weights_of_a_row_add_up_to_about_one(keys: int) -> None:
    """Sums of values fit into 32 bits however many keys there are (docs/numerics.md, attention values)."""
    octaves = torch.arange(0, 16 * 64 + 1).reshape(1, 1, -1, 1)  # of all keys but one, in steps of 2^-6
    rows = octaves.expand(-1, -1, -1, keys).clone()
    rows[..., 0] = 0
    spread = torch.randint(0, 16 * 64, (1, 1, 64, keys), generator=torch.Generator().manual_seed(keys))
    sharper = spread * torch.arange(64).reshape(1, 1, 64, 1) // 32
    scores = -torch.cat([rows, spread, sharper], 2).to(torch.int32)
    codes = torch.cat([ops.softmax(part, None, 1 << 14, -5, True) for part in scores.split(64, 2)], 2).long()
    weights = torch.where(codes < 15, 1 << (14 - codes).clamp_min(0), 0).sum(-1)
    assert int(weights.max()) <= 2.13 * 2**14
    if keys <= MAX_KEYS[True]:  # beyond, keys that are all alike have code 15
        assert int(weights.min()) >= 2**12


@pytest.mark.parametrize("channels", [64, 192, 384, 768, 1024, 4096])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_layer_norm_is_within_its_error(channels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(40, channels, generator=generator)
    x = (x * (20 if dtype == torch.int8 else 3000)).round()
    x[:, 3] = 120 if dtype == torch.int8 else 30000  # a massive outlier channel
    gamma, beta = torch.rand(channels, generator=generator) * 2, torch.randn(channels, generator=generator)
    scale, zero_point, fraction_bits = 0.05, -4, normalized_fraction_bits(channels)
    shift = math.floor(math.log2(32767 * scale / float(gamma.max()))) + fraction_bits
    weight = torch.round(gamma.double() / scale * 2.0 ** (shift - fraction_bits)).to(torch.int16)
    bias = (torch.round((beta.double() / scale + zero_point) * 2.0**shift) + 2 ** (shift - 1)).to(torch.int32)
    codes = ops.layer_norm(x.to(dtype), None, weight, bias, 0, shift, -128, 127)
    real = functional.layer_norm(x.double(), (channels,), gamma.double(), beta.double(), 0.0) / scale + zero_point
    inside = (real > -128) & (real < 127)
    # Half a code, and the two 16-bit roundings of the normalised value, scaled by gamma.
    allowed = 0.5 + 2.0 * gamma.double() / scale * 2.0**-fraction_bits
    assert float(((codes - real).abs() - allowed)[inside].max()) < 0.02


@pytest.mark.parametrize("channels", [2, 64, 192, 256, 1024, 4096])
def test_layer_norm_holds_a_channel_that_dominates(channels: int) -> None:
    """Massive tokens of vision transformers: (x - mean) / sigma close to sqrt(channels), whatever the reciprocal is."""
    sizes = torch.logspace(2.5, 4.45, 97, dtype=torch.float64).unsqueeze(1)
    noise = torch.randn(97, channels, generator=torch.Generator().manual_seed(channels), dtype=torch.float64)
    x = sizes * 1e-3 * noise
    x[:, :1] = sizes
    x = x.round().to(torch.int16)
    steps, fraction_bits = 100.0 / math.sqrt(channels), normalized_fraction_bits(channels)
    shift = math.floor(math.log2(32767 / steps)) + fraction_bits
    weight = torch.full((channels,), round(steps * 2.0 ** (shift - fraction_bits)), dtype=torch.int16)
    bias = torch.full((channels,), 2 ** (shift - 1), dtype=torch.int32)
    codes = ops.layer_norm(x, None, weight, bias, 0, shift, -128, 127)
    real = functional.layer_norm(x.double(), (channels,), eps=0.0) * steps
    assert float(real.abs().max()) > (0.9 if channels > 2 else 0.7) * 100
    allowed = 0.5 + 2.0 * steps * 2.0**-fraction_bits
    assert float((codes - real).abs().max()) < allowed + 0.02


def test_layer_norm_uses_the_channel_shifts() -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(-128, 128, (9, 192), generator=generator).to(torch.int8)
    shift = torch.randint(0, 8, (192,), generator=generator).to(torch.uint8)
    wide = (x.to(torch.int16) << shift.to(torch.int16)).to(torch.int16)
    weight, bias = torch.full((192,), 9000, dtype=torch.int16), torch.zeros(192, dtype=torch.int32)
    shifted = ops.layer_norm(x, shift, weight, bias, 0, 19, -128, 127)
    assert torch.equal(shifted, ops.layer_norm(wide, None, weight, bias, 0, 19, -128, 127))


def test_log2_attention_values_are_exact_sums_of_shifted_values() -> None:
    generator = torch.Generator().manual_seed(3)
    p = torch.randint(0, 16, (1, 2, 3, 11), generator=generator).to(torch.uint8)
    v = torch.randint(-127, 128, (1, 11, 8), generator=generator).to(torch.int8)
    weight = torch.where(p < 15, torch.exp2(-p.double()), torch.zeros(1).double())
    real = torch.einsum("bhqk,bkhd->bqhd", weight, v.double().reshape(1, 11, 2, 4)).reshape(1, 3, 8)
    requantizer = make_requantizer(torch.full((8,), 2.0**-14).double(), 11 * 127 << 14, 6)
    actual = ops.attention_values(p, v, requantizer.multiplier, requantizer.shift, True, 0, 6, 0, -128, 127)
    assert float((actual - real.clamp(-128, 127)).abs().max()) <= 0.52


@pytest.mark.parametrize("name", [name for name in dir(ops) if not name.startswith("_") and name != "name"])
def test_fake_tensors_have_the_shape_and_type_of_real_ones(name: str) -> None:
    from conformance.cases import FAMILIES, Input, make_family

    if name not in FAMILIES:
        pytest.skip("a simulated quantiser, covered by the quantizer's tests")
    family = make_family(name)
    for case in family._cases[:4]:
        arguments = [a.tensor if isinstance(a, Input) else a for a in case]
        torch.library.opcheck(FAMILIES[name][0], tuple(arguments), test_utils=("test_schema", "test_faketensor"))
