"""`load`: a model by name, its weights from a file, from the hub, or (loudly) random."""

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
from packqvit_delegate.data.preprocessing import HALF, Preprocessing
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models.swin import SwinConfig
from packqvit_delegate.models.swin_weights import fit_swin, to_swin_names
from packqvit_delegate.models.vit import ViTConfig
from packqvit_delegate.models.weights import load_into, read_weights, to_timm_names
from packqvit_delegate.models.zoo import ZOO, Entry

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
def load(name: str, weights: str | Path | None = None) -> LoadedModel:
    """Loads a model.

    Args:
        name: one of `ZOO` (`deit_tiny`, `vit_small`, ...), which need nothing but torch; any other name is timm's;
            `hf:<repository or folder>` is a Hugging Face image classifier, or a semantic segmenter where its
            config.json names one.
        weights: a weight file (see `read_weights`), None for the hub, or `RANDOM`. Without a file and with the hub
            out of reach the weights are random, and a warning says so.

    Returns:
        The model, in evaluation mode. Image size and number of classes follow the weight file.

    Raises:
        PackQViTError: unknown model, or weights that are unreadable, of another model, or not finite.
    """
    with torch.random.fork_rng(devices=()):
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
            logger.warning("no weights from the hub: %s", error)
            return _load_built_in(name, entry, RANDOM)
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
            logger.warning("no weights from the hub: %s", _first_line(error))
            return _load_timm(name, RANDOM)
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
    return Preprocessing(config["input_size"][-1], config["crop_pct"], config["mean"], config["std"])


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
    source, random = repository, weights == RANDOM
    if not random:
        try:
            model = kind.from_pretrained(repository)
        except (OSError, ValueError) as error:
            logger.warning("no weights from the hub: %s", _first_line(error))
            random = True
    if random:
        source, model = "random", kind.from_config(config)
    processor = _hugging_face_processor(repository)
    preprocessing = Preprocessing(
        size=_image_size(repository, config, processor),
        # Hugging Face's processors resize to the very size; the centre crop then takes all of the short side.
        crop_fraction=1.0,
        mean=processor.get("image_mean", HALF),
        std=processor.get("image_std", HALF),
    )
    return LoadedModel(HUGGING_FACE_PREFIX + repository, Logits(model), preprocessing, source, random)


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
