"""`load`: a model by name, its weights from a file, from the hub, or random ones where they are asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from packqvit_delegate.arguments import checked
from packqvit_delegate.data.preprocessing import HALF, Interpolation, Preprocessing
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.metadata import Metadata, Task
from packqvit_delegate.models.downloads import downloads_shown
from packqvit_delegate.models.swin import SwinConfig
from packqvit_delegate.models.swin_weights import fit_swin, to_swin_names
from packqvit_delegate.models.vit import ViTConfig
from packqvit_delegate.models.weights import load_into, read_weights, to_timm_names
from packqvit_delegate.models.zoo import ZOO, Entry
from packqvit_delegate.progress import Progress

logger = logging.getLogger(__name__)

HUGGING_FACE_PREFIX = "hf:"

RANDOM = "random"
"""As `weights`: do not look for any."""


@dataclass(frozen=True)
class LoadedModel:
    """A float model in evaluation mode and what belongs to it."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    weights: str
    """Where the weights come from, for people to read."""
    random: bool = False
    """The weights are random: the model is good for measuring latency and for nothing else."""
    class_names: tuple[str, ...] | None = None
    """In the order of the classes, where the checkpoint names them."""
    task: Task | None = "classification"
    """What it gives: scores of classes, or features; None: something else, such as maps."""

    @property
    def metadata(self) -> Metadata:
        """What a program made of it can say of itself, for `packqvit_delegate.export`."""
        return Metadata(self.name, self.preprocessing, self.class_names, self.task)


@checked
def file_stem(name: str) -> str:
    """How files of a model are called: its name as `load` takes it; of `hf:` the last part."""
    return name.removeprefix(HUGGING_FACE_PREFIX).rstrip("/").split("/")[-1]


class Logits(nn.Module):
    """A Hugging Face model as a function from pixels to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """float32 [B, 3, S, S] -> float32 [B, classes], of a segmenter [B, classes, h, w]."""
        return self.model(pixel_values=pixel_values).logits


@checked
def load(name: str, weights: str | Path | None = None, *, progress: Progress | None = None) -> LoadedModel:
    """Loads a model.

    Args:
        name: one of `ZOO` (`deit_tiny`, `vit_small`, ...), which need nothing but torch; any other name is timm's;
            `hf:<repository or folder>` is a Hugging Face image classifier, or a semantic segmenter where its
            config.json names one.
        weights: a weight file (see `read_weights`), None for the hub, or `RANDOM`.
        progress: wraps a download from the hub, in MiB; None: the hub shows its own bar, on a terminal.

    Returns:
        The model, in evaluation mode. Image size and number of classes follow the weight file. A Hugging Face
        checkpoint without a classifier gives features, and a warning says so.

    Raises:
        PackQViTError: unknown model, weights that are unreadable, of another model, or not finite, or none: the hub
            cannot be reached.
    """
    with torch.random.fork_rng(devices=()), downloads_shown(progress):
        torch.manual_seed(0)  # random weights are the same ones every time
        try:
            if name in ZOO:
                loaded = _load_built_in(name, ZOO[name], weights)
            elif name.startswith(HUGGING_FACE_PREFIX):
                loaded = _load_hugging_face(name.removeprefix(HUGGING_FACE_PREFIX), weights)
            else:
                loaded = _load_timm(name, weights)
        except ImportError as error:
            raise PackQViTError(
                f"{name} is not a built-in model ({', '.join(ZOO)}), and what it needs cannot be imported: "
                f"{_first_line(error)}; install timm or transformers with the torchvision that belongs to your torch"
            ) from error
    if loaded.random:
        logger.warning("%s has RANDOM weights: good for measuring latency only, its predictions mean nothing", name)
    loaded.module.float().eval()  # checkpoints of the hub may be in half precision
    return loaded


def _load_built_in(name: str, entry: Entry, weights: str | Path | None) -> LoadedModel:
    if weights == RANDOM:
        return LoadedModel(name, entry.config.build(), entry.preprocessing, "random", random=True)
    if weights is None:
        source = entry.repository
        try:
            path = _download(entry.repository, "model.safetensors")
        except ConnectionError as error:
            raise _no_weights(name, error) from error
    else:
        source = path = str(weights)
    tensors: Mapping[str, Tensor] = read_weights(path)
    config: ViTConfig | SwinConfig
    if isinstance(entry.config, SwinConfig):
        tensors = to_swin_names(tensors)
        config = fit_swin(entry.config, tensors, source)
    else:
        tensors = to_timm_names(tensors)
        config = _fit(entry.config, tensors, source)
    module = config.build()
    load_into(module, tensors, source)
    return LoadedModel(name, module, replace(entry.preprocessing, size=config.image_size), source)


def _fit(config: ViTConfig, tensors: Mapping[str, Tensor], source: str) -> ViTConfig:
    """Takes image size and number of classes from the weights; everything else must match, and is checked later."""
    if "pos_embed" in tensors and tensors["pos_embed"].dim() == 3:
        patches = tensors["pos_embed"].shape[1] - (2 if "dist_token" in tensors else 1)
        side = math.isqrt(max(patches, 0))
        if side * side != patches or side == 0:
            raise PackQViTError(
                f"{source}: pos_embed {list(tensors['pos_embed'].shape)} does not belong to a square image and one "
                "class token"
            )
        config = replace(config, image_size=side * config.patch_size)
    if "head.weight" in tensors:
        config = replace(config, num_classes=tensors["head.weight"].shape[0])
    return config


def _load_timm(name: str, weights: str | Path | None) -> LoadedModel:
    try:
        import timm
    except RuntimeError as error:  # what a torchvision built for another torch raises
        raise ImportError(str(error)) from error
    if not timm.is_model(name):
        raise PackQViTError(f"{name} is neither a built-in model ({', '.join(ZOO)}) nor one of timm's")
    if weights is None:
        try:
            module = timm.create_model(name, pretrained=True)
            return LoadedModel(name, module, _timm_preprocessing(module), f"timm's {name}")
        except Exception as error:  # timm and the hub raise many kinds; each means that there are no weights
            raise _no_weights(name, error) from error
    if weights == RANDOM:
        module = timm.create_model(name, pretrained=False)
        return LoadedModel(name, module, _timm_preprocessing(module), "random", random=True)
    tensors = read_weights(weights)
    options: dict[str, Any] = {}
    for classifier in ("head.weight", "head.fc.weight"):
        if classifier in tensors:
            options["num_classes"] = tensors[classifier].shape[0]
    module = timm.create_model(name, pretrained=False, **options)
    load_into(module, tensors, str(weights))
    return LoadedModel(name, module, _timm_preprocessing(module), str(weights))


def _timm_preprocessing(module: nn.Module) -> Preprocessing:
    config: Mapping[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    return Preprocessing(
        config["input_size"][-1],
        config["crop_pct"],
        config["mean"],
        config["std"],
        config["interpolation"],
        "squash" if config.get("crop_mode") == "squash" else "center",
    )


def _load_hugging_face(repository: str, weights: str | Path | None) -> LoadedModel:
    import transformers

    if weights not in (None, RANDOM):
        raise PackQViTError(f"hf:{repository} brings its own weights: give no weights, or name a built-in model")
    try:
        config = transformers.AutoConfig.from_pretrained(repository)
    except (OSError, ValueError) as error:
        raise PackQViTError(f"cannot read the Hugging Face model {repository}: {_first_line(error)}") from error
    segments = (config.architectures or [""])[0].endswith("ForSemanticSegmentation")
    kind = transformers.AutoModelForSemanticSegmentation if segments else transformers.AutoModelForImageClassification
    processor = _hugging_face_processor(repository)
    preprocessing = _hugging_face_preprocessing(processor, _image_size(repository, config, processor))
    name = HUGGING_FACE_PREFIX + repository
    names, task = (None, None) if segments else (_names(config), LoadedModel.task)
    if weights == RANDOM:
        return LoadedModel(name, Logits(kind.from_config(config)), preprocessing, "random", True, names, task)
    try:
        model, report = kind.from_pretrained(repository, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise _no_weights(name, error) from error
    loaded = LoadedModel(name, Logits(model), preprocessing, repository, class_names=names, task=task)
    missing = sorted(report["missing_keys"])
    if not missing:
        return loaded
    if segments or any("classifier" not in key for key in missing):
        raise PackQViTError(f"{repository} lacks {missing[0]}, which its configuration asks for")
    from packqvit_delegate.models.features import without_classifier  # which imports this module

    logger.warning("%s has no classifier: the model gives the features that one would read", repository)
    return without_classifier(loaded)


_RESAMPLING: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers, which processors store."""


def _hugging_face_preprocessing(processor: Mapping[str, Any], size: int) -> Preprocessing:
    """What a processor does to a picture: short side and centre crop, or all of it resized to the very size."""
    resized = processor.get("size", {})
    if isinstance(resized, int):  # as older versions wrote it
        resized = {"shortest_edge": resized} if processor.get("do_center_crop") else {}
    short = resized.get("shortest_edge")
    fraction = 1.0 if short is None else min(1.0, size / short)
    if short is not None and int(size / fraction) < short:
        fraction = math.nextafter(fraction, 0.0)  # the division back must give the short side again
    return Preprocessing(
        size=size,
        crop_fraction=fraction,
        mean=processor.get("image_mean", HALF),
        std=processor.get("image_std", HALF),
        interpolation=_RESAMPLING.get(processor.get("resample", 2), "bilinear"),
        crop="squash" if short is None else "center",
    )


def _names(config: Any) -> tuple[str, ...] | None:
    """The names of a checkpoint's classes; None where nobody named them."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    return None if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def _image_size(repository: str, config: Any, processor: Mapping[str, Any]) -> int:
    """The model's own, else that of its processor: models without position embeddings have none."""
    size = getattr(config, "image_size", None) or processor.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    if not isinstance(size, int):
        raise PackQViTError(
            f"hf:{repository} says no image size: neither `image_size` in its config.json nor `size` in its "
            "preprocessor_config.json"
        )
    return size


def _hugging_face_processor(repository: str) -> Mapping[str, Any]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(repository)[0]
    except OSError as error:
        logger.warning("%s has no preprocessor_config.json (%s): mean = std = 0.5", repository, _first_line(error))
        return {}


def _no_weights(name: str, error: Exception) -> PackQViTError:
    return PackQViTError(
        f"no weights for {name} from the hub: {_first_line(error)}; name a file with them (--weights FILE), or ask for "
        f"random ones by name (--weights {RANDOM}), which are good for measuring latency and for nothing else"
    )


def _download(repository: str, file: str) -> str:
    """Fetches a file of the hub, or finds it in the local cache; ConnectionError says why not."""
    try:
        import huggingface_hub

        logger.info("fetching %s of %s", file, repository)
        return huggingface_hub.hf_hub_download(repository, file)
    except Exception as error:  # the hub's client raises many kinds; each means that there is no file
        raise ConnectionError(f"{repository}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
