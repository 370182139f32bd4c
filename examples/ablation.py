"""Tells what each part of the quantisation is worth: one program with it, one without, on the same images.

    python examples/ablation.py --model deit_tiny --calibration photos --evaluate imagenet/val

Every row changes one thing of a preset: a choice of calibration, or a function that integers compute, exchanged for
another integer form or for the float function. ExecuTorch runs the programs; those with float functions inside, for
which it has only portable kernels, run as the eager integer graph, whose integer part gives the same bits. `won` and
`lost` are images that the row has right and the preset wrong, and the other way round: of two programs on the same
images only these tell which one is better.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from rich.table import Table
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig
from packqvit_delegate.api import finish
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.cli.console import command, console, errors, progress
from packqvit_delegate.config import PRESETS
from packqvit_delegate.data import ImageFolder
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.evaluation import Answers, divergence, open_labelled, predict_float, predict_program
from packqvit_delegate.files import check_writable
from packqvit_delegate.grids import AffineGrid
from packqvit_delegate.models import LoadedModel, load
from packqvit_delegate.passes import lower_to_integer
from packqvit_delegate.passes.graph import aten
from packqvit_delegate.passes.integer import attention_rules, norm_rules
from packqvit_delegate.passes.integer.context import RULES
from packqvit_delegate.passes.patterns import UNARY_FUNCTIONS
from packqvit_delegate.preparation import make_pair

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Patch = Callable[[], contextlib.AbstractContextManager[Any]]

FLOAT_FUNCTIONS = {"aten::_softmax", "aten::native_layer_norm", "aten::gelu"}

ONLY_HELP = "A part of the row's name; may be given several times. Default: all rows."


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        name: For people.
        config: Fields of QuantizationConfig that differ from the preset.
        method: Fields of CalibrationMethod that differ from the default.
        patch: Exchanges integer operators while the program is made.
        presets: Where the row says something.
    """

    name: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    method: dict[str, Any] = dataclasses.field(default_factory=dict)
    patch: Patch = contextlib.nullcontext
    presets: tuple[str, ...] = tuple(PRESETS)


@contextlib.contextmanager
def _without_rules(*operators: Any) -> Iterator[None]:
    """Leaves operators in float, between a dequantiser and a quantiser."""
    kept = {operator: rule for operator, rule in RULES.items() if operator not in operators}
    with mock.patch.dict(RULES, kept, clear=True):
        yield


@contextlib.contextmanager
def _plain_base_two() -> Iterator[None]:
    """Softmax with 2^x instead of e^x: PackQViT leaves the change of base to training."""
    exact = attention_rules.normalized_multiplier
    with mock.patch.object(attention_rules, "normalized_multiplier", lambda ratio: exact(ratio / math.log2(math.e))):
        yield


@contextlib.contextmanager
def _gelu_by(function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Tables of another function than GELU; what it differs by also where outlier channels make a GELU saturate."""
    exact = norm_rules.table_of

    def table_of(gelu: Callable[[Tensor], Tensor], x: AffineGrid, out: AffineGrid) -> Tensor:
        return exact(lambda values: gelu(values) + function(values) - functional.gelu(values), x, out)

    with mock.patch.object(norm_rules, "table_of", table_of):
        yield


def i_bert_gelu(x: Tensor) -> Tensor:
    """I-BERT's i-GELU: erf by a polynomial of the second degree (Kim et al., ICML 2021)."""
    z = (x / math.sqrt(2)).abs().clamp_max(1.769)
    return x * 0.5 * (1 + torch.sign(x) * (1 - 0.2888 * (z - 1.769).square()))


def sigmoid_gelu(x: Tensor) -> Tensor:
    """X sigmoid(1.702 x), what I-ViT's ShiftGELU computes with shifts (Li and Gu, ICCV 2023)."""
    return x * torch.sigmoid(1.702 * x)


VARIANTS = (
    Variant("as preset"),
    Variant("probabilities linear, 8 bits", {"probabilities": "linear"}, presets=("w4a4",)),
    Variant("probabilities log2, 4 bits", {"probabilities": "log2"}, presets=("w8a8", "w4a8")),
    Variant("no clipping", method={"clipping": False}),
    Variant("residual int8, outlier-aware shifts", {"residual": "int8"}),
    Variant("residual int8, no shifts", {"residual": "int8", "max_channel_shift": 0}),
    Variant("softmax in float", patch=lambda: _without_rules(aten.softmax.int)),
    Variant("softmax of plain 2^x", patch=_plain_base_two),
    Variant("LayerNorm in float", patch=lambda: _without_rules(aten.layer_norm.default)),
    Variant("GELU in float", patch=lambda: _without_rules(*UNARY_FUNCTIONS)),
    Variant("GELU by I-BERT's polynomial", patch=lambda: _gelu_by(i_bert_gelu)),
    Variant("GELU by x sigmoid(1.702 x)", patch=lambda: _gelu_by(sigmoid_gelu)),
    Variant("Hardswish for GELU, untrained", patch=lambda: _gelu_by(functional.hardswish)),
    Variant("outlier channels not split", method={"split_outliers": False}),
    Variant("not rotated", method={"rotation": False}, presets=("w4a4", "w4a8")),
    Variant("rotated", method={"rotation": True}, presets=("w8a8",)),
    Variant("weights to nearest", method={"rounding": "nearest"}),
    Variant("all tokens count alike", method={"token_importance": False}),
    Variant("no bias correction", method={"bias_correction": False}),
    Variant("errors before a layer not made up for", method={"compensation": False}, presets=("w4a4", "w4a8")),
)


@app.command()
@command
def main(
    calibration: Annotated[Path, typer.Option(help="Folder of images like those of the application.")],
    evaluate: Annotated[Path, typer.Option(help="Folder of images with labels.")],
    model: Annotated[str, typer.Option(help="As for export_deit.py.")] = "deit_tiny",
    weights: Annotated[str | None, typer.Option(help="A .safetensors or .pth file; default: from the hub.")] = None,
    preset: Annotated[list[str], typer.Option(help=f"Of {', '.join(PRESETS)}; several times.")] = list(PRESETS),  # noqa: B006
    only: Annotated[list[str], typer.Option(help=ONLY_HELP)] = [],  # noqa: B006
    calibration_images: Annotated[int, typer.Option(help="How many of them.", min=1)] = 128,
    evaluate_images: Annotated[int | None, typer.Option(help="How many of them; default: all.", min=1)] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write the rows here, as they come.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes to evaluate in.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Measures each part of the quantisation, on and off."""
    for name in preset:
        QuantizationConfig.preset(name)
    chosen = [variant for variant in VARIANTS if not only or any(part in variant.name for part in only)]
    if not chosen:
        raise PackQViTError(f"no row is called like {only[0]!r}; there are: {'; '.join(v.name for v in VARIANTS)}")
    check_writable(csv_file)
    folder = ImageFolder.open(calibration).sample(calibration_images, seed)
    testing = open_labelled(evaluate, None, evaluate_images, seed)
    labels = torch.tensor(testing.labels)

    errors.print(f"Loading {model}")
    loaded = load(model, weights, progress=progress)
    seen = progress(folder.batches(1, loaded.preprocessing), "reading images", len(folder))
    images = torch.cat([batch.images for batch in seen])
    truth = predict_float(loaded.module, testing, loaded.preprocessing, progress=progress)
    right = truth.classes == labels
    console.print(f"float: {_percent(right)} %, standard error {_standard_error(right):.1f}", highlight=False)
    rows: list[tuple[str, ...]] = [("preset", "row", "top1", "won", "lost", "p", "divergence", "outside")]
    for name in preset:
        table = Table("", "top-1", "won", "lost", "p", "nats", "in float", title=f"{loaded.name} {name.upper()}")
        reference: Tensor | None = None
        maker = Maker(loaded, images, name)
        variants = [v for v in chosen if name.lower() in v.presets and v is not VARIANTS[0]]
        for variant in (VARIANTS[0], *variants):
            errors.print(f"{name}: {variant.name}", highlight=False)
            answers, outside = _measure(maker, variant, testing, processes)
            found = answers.classes == labels
            nats = divergence(answers, truth)
            assert nats is not None  # programs without top_k give logits
            row = (variant.name, _percent(found), *_paired(found, reference), f"{nats:.4f}", ", ".join(outside))
            reference = found if reference is None else reference
            table.add_row(*row)
            rows.append((name, *row))
            if csv_file is not None:
                _write(csv_file, rows)
        console.print(table)


class Maker:
    """Makes the programs of one preset; rows that are calibrated alike share one calibration."""

    def __init__(self, loaded: LoadedModel, images: Tensor, preset: str) -> None:
        """`images`: float32 [n, 3, S, S], for calibration."""
        self.loaded = loaded
        self._images = images
        self._preset = QuantizationConfig.preset(preset)
        self._shared: GraphModule | None = None

    def make(self, variant: Variant) -> Program:
        """The program of a row."""
        preprocessing = self.loaded.preprocessing
        normalization = (tuple(preprocessing.mean), tuple(preprocessing.std))
        config = dataclasses.replace(self._preset, input_normalization=normalization, **variant.config)
        if variant.config or variant.method:
            prepared = self._calibrated(config, CalibrationMethod(**variant.method))
        else:
            self._shared = self._shared or self._calibrated(config, CalibrationMethod())
            prepared = copy.deepcopy(self._shared)
        with variant.patch():
            return finish(lower_to_integer(convert_pt2e(prepared)), (self._images[:1],), config)

    def _calibrated(self, config: QuantizationConfig, method: CalibrationMethod) -> GraphModule:
        example = (self._images[:1],)
        batches = Batches(self._images.split(16), example)
        return make_pair(self.loaded.module, example, batches, config, method, progress).prepared


def _measure(maker: Maker, variant: Variant, testing: ImageFolder, processes: int) -> tuple[Answers, list[str]]:
    """What the program of a variant says to all images, and the operators that it leaves in float."""
    preprocessing = maker.loaded.preprocessing
    program = maker.make(variant)
    outside = sorted({item.operator for item in program.report.outside} & FLOAT_FUNCTIONS)
    if outside:
        return predict_float(
            program.integer_module, testing, preprocessing, 1, "eager integer graph", progress
        ), outside
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "variant.pte"
        program.save(path)
        return predict_program(path, testing, preprocessing, processes, progress), outside


def _percent(right: Tensor) -> str:
    return f"{100 * float(right.float().mean()):.1f}"


def _standard_error(right: Tensor) -> float:
    share = float(right.float().mean())
    return 100 * math.sqrt(share * (1 - share) / len(right))


def _paired(right: Tensor, reference: Tensor | None) -> tuple[str, str, str]:
    if reference is None:
        return "", "", ""
    won, lost = int((right & ~reference).sum()), int((reference & ~right).sum())
    return str(won), str(lost), f"{sign_test(won, lost):.3f}"


def sign_test(won: int, lost: int) -> float:
    """Two-sided: how likely at least so unequal counts are where both programs are equally good."""
    n, most = won + lost, max(won, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n)


def _write(path: Path, rows: list[tuple[str, ...]]) -> None:
    try:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise PackQViTError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    app()
