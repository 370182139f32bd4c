"""Reading weight files: safetensors or PyTorch checkpoints, with timm's or Hugging Face's key names."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from packqvit_delegate.arguments import checked
from packqvit_delegate.errors import PackQViTError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# Checkpoints of training scripts keep the weights under one of these.
WRAPPERS = ("model_ema", "model", "state_dict")

# Hugging Face's ViT, as stored by transformers up to 4 and as named in memory by transformers 5 -> timm.
HUGGING_FACE_KEYS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(?:vit|deit)\.embeddings\.cls_token", "cls_token"),
        (r"(?:vit|deit)\.embeddings\.position_embeddings", "pos_embed"),
        (r"(?:vit|deit)\.embeddings\.distillation_token", "dist_token"),
        (r"(?:vit|deit)\.embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
        (r"(?:vit|deit)\.layernorm\.(\w+)", r"norm.\1"),
        (r"(?:cls_)?classifier\.(\w+)", r"head.\1"),
        (r"distillation_classifier\.(\w+)", r"head_dist.\1"),
        (
            r"(?:vit|deit)\.(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?"
            r"(query|key|value|[qkv]_proj)\.(\w+)",
            r"blocks.\1.attn.\2.\3",
        ),
        (
            r"(?:vit|deit)\.(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(\w+)",
            r"blocks.\1.attn.proj.\2",
        ),
        (r"(?:vit|deit)\.(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
        (r"(?:vit|deit)\.(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
        (
            r"(?:vit|deit)\.(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(\w+)",
            r"blocks.\1.mlp.fc1.\2",
        ),
        (r"(?:vit|deit)\.(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    )
)


@checked
def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a weight file; no code in it is executed.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`, `.bin` as written by torch.save, with the state dict at the top or
            under `model`, `model_ema` or `state_dict`.

    Returns:
        Tensors by their names in the file.

    Raises:
        PackQViTError: missing file, unknown suffix, or not a file of weights.
    """
    path = Path(path)
    if not path.is_file():
        raise PackQViTError(f"there is no weight file {path}")
    if path.suffix not in SUFFIXES:
        raise PackQViTError(f"{path}: unknown kind of weight file; use one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = str(error).split("\n", 1)[0]
        raise PackQViTError(f"{path} is not a readable weight file: {reason}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise PackQViTError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise PackQViTError(f"{path} holds no tensors, neither at the top nor under {', '.join(WRAPPERS)}")
    return tensors


@checked
def to_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a Hugging Face ViT to timm's names and fuses query, key and value.

    Names that are already timm's stay.

    Raises:
        PackQViTError: a block has some but not all of query, key and value.
    """
    renamed: dict[str, Tensor] = {}
    separate: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        for pattern, replacement in HUGGING_FACE_KEYS:
            if match := pattern.fullmatch(name):
                name = match.expand(replacement)
                break
        if match := re.fullmatch(r"(blocks\.\d+\.attn)\.(q|k|v)(?:uery|ey|alue|_proj)\.(\w+)", name):
            separate.setdefault(f"{match[1]}.qkv.{match[3]}", {})[match[2]] = tensor
        else:
            renamed[name] = tensor
    for name, parts in separate.items():
        missing = [part for part in "qkv" if part not in parts]
        if missing:
            raise PackQViTError(f"the weights lack {', '.join(missing)} of {name}")
        renamed[name] = torch.cat([parts[part] for part in "qkv"])
    return renamed


@checked
def load_into(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies tensors into a model after checking every one of them.

    Args:
        model: the model to fill.
        tensors: by the names of the model's state dict; converted to its dtypes.
        source: where the tensors come from, for the messages.

    Raises:
        PackQViTError: a tensor is missing, is not part of the model, has another shape, or holds NaN or infinity.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise PackQViTError(f"{source} lacks {_some(missing)}: are these the weights of another model?")
    unexpected = [name for name in tensors if name not in expected]
    if unexpected:
        raise PackQViTError(
            f"{source} has {_some(unexpected)}, which this model does not have: load them into the model they belong to"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise PackQViTError(
                f"{source}: {name} has the shape {list(tensor.shape)}, the model needs {list(expected[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise PackQViTError(f"{source}: {name} holds NaN or infinity; the file is damaged or training diverged")
    model.load_state_dict(dict(tensors))


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
