"""The end-to-end accuracy of the project on real data that needs no download."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

import digits
from programs import digits_model

FLOAT_ACCURACY = 0.96
LARGEST_LOSS = {"W8A8": 0.01, "W4A8": 0.02, "W4A4": 0.05}


@pytest.fixture(scope="module", autouse=True)
def trained_once():
    """`experiment` trains the model that others of these tests need as well."""
    with mock.patch.object(digits, "train", lambda training: digits_model()):
        yield


@pytest.fixture(scope="module")
def results():
    return {result.name: result for result in digits.experiment()}


def test_float_model_is_trained(results):
    assert results["float"].accuracy >= FLOAT_ACCURACY


@pytest.mark.parametrize("name", digits.PRESETS)
def test_integer_accuracy(results, name):
    assert results[name].accuracy >= results["float"].accuracy - LARGEST_LOSS[name]


@pytest.mark.parametrize("name", digits.PRESETS)
def test_one_delegate_call_and_nothing_outside(results, name):
    report = results[name].program.report
    assert report.delegates == 1
    assert not report.outside


def test_tuning_works_on_them_too(results):
    _, tuned = digits.experiment(["W4A4"], tune=True)
    assert tuned.accuracy >= results["float"].accuracy - 0.03
    assert tuned.program.buffer != results["W4A4"].program.buffer


def test_four_bits_make_a_smaller_program(results):
    assert len(results["W4A8"].program.buffer) < 0.75 * len(results["W8A8"].program.buffer)


def test_split_is_fixed_and_inputs_are_bytes():
    training, test = digits.load_data()
    assert len(training.labels) == 1347 and len(test.labels) == 450
    again, _ = digits.load_data()
    assert torch.equal(training.images, again.images)
    codes = (test.images + 1) * 127.5
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert codes.min() >= 0 and codes.max() <= 255
