"""Options of several commands: their words, and what they mean. Nothing here takes long to import."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import MissingFileError, PackQViTError

if TYPE_CHECKING:
    from ..config import QuantizationConfig
    from ..data import Preprocessing
    from ..metadata import Metadata
    from ..models import LoadedModel

BUILT_IN = (
    "deit_tiny",
    "deit_small",
    "deit_base",
    "deit_tiny_distilled",
    "deit_small_distilled",
    "deit_base_distilled",
    "vit_tiny",
    "vit_small",
    "vit_base",
    "swin_tiny",
    "swin_small",
    "swin_base",
)
"""The names of models.ZOO, which takes seconds to import."""
RANDOM = "random"
"""models.RANDOM, likewise."""

MEAN_HELP = "Of R, G and B, of the pixels that the weights were trained on, e.g. 0.5,0.5,0.5; default: the model's own."
BATCHES_HELP = (
    "Numbers of images that the program takes: 1,4 makes the methods forward and forward_4, of the same weights."
)
SHIFT_HELP = "With --residual int8: the largest power of two by which channels differ."
STD_HELP = "And their standard deviation."
MODEL_HELP = f"{', '.join(BUILT_IN)}; or any name of timm's; or hf:<Hugging Face repository or folder>."
LABELS_HELP = "Class names in label order, one a line (synset_words.txt)."
OLD_MODEL_HELP = f"For programs that do not say how pictures are prepared: as for {', '.join(BUILT_IN)}."
OLD_MEAN_HELP = "For such programs, or: mean of R, G and B, e.g. 0.5,0.5,0.5."
CROP_HELP = "And the side of the centre crop over the resized short side; default: 0.9."
THREADS_HELP = "Of ExecuTorch's pool; default: its own choice."
TIER_HELP = "Of the kernels; default: the CPU's best (packqvit doctor lists them)."

Bits = Annotated[int, typer.Option(help="Of the weights, and of the activations too unless given: 4 or 8.")]
ActivationBits = Annotated[int | None, typer.Option(help="Of the activations: 4 or 8.")]
ModelName = Annotated[str, typer.Option(help=MODEL_HELP)]
Weights = Annotated[str | None, typer.Option(help=f"A .safetensors or .pth file; `{RANDOM}`; default: from the hub.")]
Mean = Annotated[str | None, typer.Option(help=MEAN_HELP)]
Std = Annotated[str | None, typer.Option(help=STD_HELP)]
Residual = Annotated[Literal["int8", "int16"] | None, typer.Option(help="Residual stream.")]
Probabilities = Annotated[Literal["log2", "linear"] | None, typer.Option(help="Attention probabilities.")]
ChannelShift = Annotated[int | None, typer.Option(help=SHIFT_HELP, min=0, max=7)]
BatchSizes = Annotated[str | None, typer.Option(help=BATCHES_HELP)]
Processes = Annotated[int, typer.Option(help="Processes to evaluate in.", min=1)]
CPUS = os.cpu_count() or 1


def check_weight_file(weights: str | Path | None) -> None:
    """Refuses a weight file that is not there.

    Raises:
        PackQViTError: It is not.
    """
    if weights not in (None, RANDOM) and not Path(str(weights)).is_file():
        raise PackQViTError(f"there is no weight file {weights}")


def check_program(program: Path) -> None:
    """Refuses a program that is not there.

    Raises:
        MissingFileError: It is not.
    """
    if not program.is_file():
        raise MissingFileError(f"there is no file {program}")


def one_folder(folder: Path | None, data: Path | None) -> Path:
    """The folder of images, given as an argument or as --data.

    Raises:
        PackQViTError: It is given twice, or not at all.
    """
    if (folder is None) == (data is None):
        raise PackQViTError("give one folder of images, behind the program or as --data")
    found = folder or data
    assert found is not None
    return found


def configuration(
    bits: int,
    activation_bits: int | None,
    residual: str | None = None,
    probabilities: str | None = None,
    max_channel_shift: int | None = None,
) -> QuantizationConfig:
    """The preset of the widths, with every choice that is not None.

    Raises:
        PackQViTError: There is no such preset, or channels are to be shifted that have no shifts.
    """
    from ..config import QuantizationConfig

    choices: dict[str, Any] = {
        "residual": residual,
        "probabilities": probabilities,
        "max_channel_shift": max_channel_shift,
    }
    config = QuantizationConfig.from_bits(bits, activation_bits)
    config = dataclasses.replace(config, **{name: value for name, value in choices.items() if value is not None})
    if max_channel_shift is not None and config.residual != "int8":
        raise PackQViTError("--max-channel-shift is of an int8 residual: add --residual int8")
    return config


def with_normalization(loaded: LoadedModel, mean: str | None, std: str | None) -> LoadedModel:
    """A model whose weights were trained on pixels of another normalisation than its published ones.

    Raises:
        PackQViTError: One of the two is missing, or is not three numbers.
    """
    if mean is None and std is None:
        return loaded
    if mean is None or std is None:
        raise PackQViTError("--mean and --std go together: give both, e.g. --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5")
    changed = dataclasses.replace(loaded.preprocessing, mean=numbers("--mean", mean), std=numbers("--std", std))
    return dataclasses.replace(loaded, preprocessing=changed)


def batch_sizes_of(text: str | None) -> tuple[int, ...] | None:
    """The numbers of images that an option lists; None: it is not given.

    Raises:
        PackQViTError: It is something else, or `forward` would not take one image, as the other commands want it to.
    """
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise PackQViTError(f"--batch-sizes {text!r} must be numbers with commas between, e.g. 1,4") from error
    if sizes[0] != 1 or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise PackQViTError(
            f"--batch-sizes {text!r} must begin with 1, for `forward`, and have each number once: e.g. 1,4"
        )
    return sizes


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """What an option of three numbers says.

    Raises:
        PackQViTError: It is something else.
    """
    try:
        return tuple(float(part) for part in (text or "").split(","))
    except ValueError as error:
        raise PackQViTError(f"{option} {text!r} must be three numbers with commas between, e.g. 0.5,0.5,0.5") from error


def class_names(path: Path | None, info: Metadata) -> tuple[str, ...]:
    """The names of a program's classes: its own, or those of a file for one that has none.

    Raises:
        PackQViTError: It has others than the file, or the file cannot be read.
    """
    from ..data import read_class_names

    if path is None:
        return tuple(info.class_names or ())
    names = tuple(entry.name for entry in read_class_names(path))
    if info.class_names is not None and tuple(info.class_names) != names:
        raise PackQViTError(f"--labels {path} contradicts the class names in the program: leave it out")
    return names


def preprocessing_of(
    program: Path,
    info: Metadata,
    published: Preprocessing | None,
    size: int,
    model: str | None,
    mean: str | None,
    std: str | None,
    crop: float | None,
) -> Preprocessing:
    """How pictures become the input of a program: as it says, or as options say of one that does not.

    Args:
        program: For messages.
        info: What it says of itself.
        published: That of --model.
        size: Of its images.
        model: --model.
        mean: --mean.
        std: --std.
        crop: --crop-fraction.

    Raises:
        PackQViTError: An option contradicts the program, or the program needs options that are missing.
    """
    from ..data import Preprocessing

    own = info.preprocessing
    if own is not None:
        if None not in (model, info.model) and model != info.model:
            raise PackQViTError(f"--model {model} contradicts {program}, which was made of {info.model}: leave it out")
        said: dict[str, tuple[object, object]] = {
            "--mean": (mean and numbers("--mean", mean), tuple(own.mean)),
            "--std": (std and numbers("--std", std), tuple(own.std)),
            "--crop-fraction": (crop, own.crop_fraction),
        }
        for option, (given, true) in said.items():
            if given is not None and given != true:
                raise PackQViTError(f"{option} {given} contradicts {program}, which says {true}: leave it out")
        return own
    if published is not None:
        return dataclasses.replace(published, size=size)
    return Preprocessing(size, 0.9 if crop is None else crop, numbers("--mean", mean), numbers("--std", std))


def published_preprocessing(
    program: Path, info: Metadata, model: str | None, mean: str | None, std: str | None
) -> Preprocessing | None:
    """That of a built-in model, for a program that does not say how pictures are prepared.

    Raises:
        PackQViTError: Such a program needs options that are missing, or the model is none of ours.
    """
    from ..models import ZOO

    if info.preprocessing is not None:
        return None
    if (model is None) == (mean is None or std is None):
        raise PackQViTError(
            f"{program} does not say how images are normalised: give either --model, or --mean and --std"
        )
    if model is not None and model not in ZOO:
        raise PackQViTError(f"{model} is none of {', '.join(ZOO)}: give --mean and --std instead")
    return None if model is None else ZOO[model].preprocessing
