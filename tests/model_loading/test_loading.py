from __future__ import annotations

import dataclasses
import functools
import logging

import pytest
import torch
from safetensors.torch import save_file

from packqvit_delegate import models
from packqvit_delegate.data import Preprocessing
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import VisionTransformer, ViTConfig, loading
from packqvit_delegate.models.weights import read_weights, to_timm_names

TINY = ViTConfig(image_size=32, dim=192, depth=12, heads=3, num_classes=7)


@functools.cache
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return VisionTransformer(TINY).state_dict()


def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in weights().items()}


def hugging_face_names(tensors: dict[str, torch.Tensor], version: int) -> dict[str, torch.Tensor]:
    """timm's names to those of transformers 4 (what the hub's files have) or transformers 5 (what it has in memory)."""
    layer, attention = {
        4: ("vit.encoder.layer", ("attention.attention.query", "attention.attention.key", "attention.attention.value")),
        5: ("vit.layers", ("attention.q_proj", "attention.k_proj", "attention.v_proj")),
    }[version]
    parts = {
        4: {"attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"},
        5: {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    }[version]
    parts |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    tops = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    renamed = {}
    for name, tensor in tensors.items():
        if name in tops:
            renamed[tops[name]] = tensor
            continue
        stem, kind = name.rsplit(".", 1)
        if not stem.startswith("blocks."):
            renamed[f"{tops[stem]}.{kind}"] = tensor
            continue
        _, index, part = stem.split(".", 2)
        if part == "attn.qkv":
            for target, piece in zip(attention, tensor.chunk(3), strict=True):
                renamed[f"{layer}.{index}.{target}.{kind}"] = piece.clone()
        else:
            renamed[f"{layer}.{index}.{parts[part]}.{kind}"] = tensor
    return renamed


@pytest.fixture
def offline(monkeypatch):
    def unreachable(repository: str, file: str) -> str:
        raise ConnectionError(f"{repository}/{file}: no route")

    monkeypatch.setattr(loading, "_download", unreachable)


@pytest.mark.parametrize(
    ("suffix", "wrapper"), [(".safetensors", None), (".pth", None), (".pth", "model"), (".pt", "state_dict")]
)
def test_weight_files_of_every_kind(tmp_path, suffix, wrapper):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save({wrapper: state(), "epoch": 3} if wrapper else state(), path)
    loaded = models.load("deit_tiny", path)
    assert not loaded.random and not loaded.module.training
    assert loaded.preprocessing.size == 32, "the image size follows the position embedding"
    assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)
    for name, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, state()[name]), name
    assert loaded.module(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("version", [4, 5])
def test_hugging_face_names_are_understood(version):
    converted = to_timm_names(hugging_face_names(state(), version))
    assert converted.keys() == state().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in state().items())


def test_incomplete_attention_is_named():
    tensors = hugging_face_names(state(), 4)
    del tensors["vit.encoder.layer.3.attention.attention.key.bias"]
    with pytest.raises(PackQViTError, match=r"lack k of blocks\.3\.attn\.qkv\.bias"):
        to_timm_names(tensors)


def test_half_precision_weights_are_widened(tmp_path):
    torch.save({name: tensor.half() for name, tensor in state().items()}, tmp_path / "half.pt")
    assert models.load("vit_tiny", tmp_path / "half.pt").module.head.weight.dtype == torch.float32


def broken(change) -> dict[str, torch.Tensor]:
    tensors = state()
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["blocks.5.mlp.fc1.weight"].fill_(float("nan")), r"blocks\.5\.mlp\.fc1\.weight holds NaN or inf"),
        (lambda t: t["norm.bias"][3:4].fill_(float("inf")), r"norm\.bias holds NaN or infinity"),
        (lambda t: t.update({"norm.weight": torch.ones(5)}), r"norm\.weight has the shape \[5\], .* needs \[192\]"),
        (lambda t: t.pop("blocks.0.norm1.bias"), r"lacks blocks\.0\.norm1\.bias"),
        (lambda t: t.update({"dist_token": torch.zeros(1, 1, 192)}), "pos_embed .* square image"),
        (lambda t: t.update({"pos_embed": torch.zeros(1, 7, 192)}), "pos_embed .* square image"),
        (lambda t: t.update({"blocks.0.ls1.gamma": torch.zeros(192)}), r"has blocks\.0\.ls1\.gamma, which this model"),
        (lambda t: t.pop("head.weight"), r"lacks head\.weight"),
    ],
)
def test_unusable_weights_name_the_tensor(tmp_path, change, reason):
    path = tmp_path / "weights.pt"
    torch.save(broken(change), path)
    with pytest.raises(PackQViTError, match=reason):
        models.load("deit_tiny", path)


def test_weights_of_another_size(tmp_path):
    torch.save(state(), tmp_path / "tiny.pt")
    with pytest.raises(PackQViTError, match=r"has the shape \[1, 1, 192\], the model needs \[1, 1, 384\]"):
        models.load("deit_small", tmp_path / "tiny.pt")


class Payload:
    """Unpickling this would run code."""

    def __reduce__(self):
        return print, ("never",)


def test_files_that_hold_no_weights(tmp_path, capsys):
    with pytest.raises(PackQViTError, match="there is no weight file"):
        models.load("deit_tiny", tmp_path / "gone.pt")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(PackQViTError, match="unknown kind of weight file"):
        read_weights(tmp_path / "weights.onnx")
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"garbage{suffix}"
        for content in (b"", b"garbage that is neither", bytes(64)):
            path.write_bytes(content)
            with pytest.raises(PackQViTError, match="is not a readable weight file"):
                read_weights(path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(PackQViTError, match="holds a list"):
        read_weights(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(PackQViTError, match="holds no tensors"):
        read_weights(tmp_path / "none.pt")
    torch.save(Payload(), tmp_path / "code.pt")
    with pytest.raises(PackQViTError, match="is not a readable weight file"):
        read_weights(tmp_path / "code.pt")
    assert "never" not in capsys.readouterr().out


def test_random_weights_are_announced_and_reproducible(caplog):
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        loaded = models.load("deit_tiny", models.RANDOM)
    assert loaded.random and "RANDOM weights" in caplog.text
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random state is left alone"
    again = models.load("deit_tiny", models.RANDOM)
    assert torch.equal(loaded.module.head.weight, again.module.head.weight)


def test_no_weights_are_invented(offline, monkeypatch):
    """Without the hub and without a file: of our models, and of timm's."""
    import torchvision_stub  # noqa: F401

    timm = pytest.importorskip("timm")

    def unreachable(name: str, pretrained: bool, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", unreachable)
    for name in ("deit_tiny", "swin_tiny", "vit_tiny_patch16_384"):
        with pytest.raises(PackQViTError, match=f"no weights for {name} from the hub: .*no route.*--weights random"):
            models.load(name)


@pytest.mark.parametrize("name", ["no_such_model", "deit_tinny"])
def test_unknown_model(name):
    with pytest.raises(PackQViTError, match=f"{name} is .*built-in model.*deit_tiny"):
        models.load(name)


def test_hugging_face_model_without_files(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(PackQViTError, match="brings its own weights"):
        models.load("hf:some/model", tmp_path / "weights.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackQViTError, match="cannot read the Hugging Face model"):
        models.load(f"hf:{tmp_path / 'empty'}")


def test_hugging_face_folder_equals_the_built_in_model(tmp_path):
    import torchvision_stub  # noqa: F401  transformers' ViT does not import beside a torchvision that does not

    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32,
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        num_labels=7,
        layer_norm_eps=1e-6,
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}'
    )
    loaded = models.load(f"hf:{tmp_path}")
    assert loaded.preprocessing == Preprocessing(32, 1.0, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "squash")
    assert loaded.class_names is None, "LABEL_3 is no name"
    built_in = models.load("vit_tiny", tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images), built_in.module(images), atol=1e-5, rtol=1e-4)


def test_hugging_face_segmenter(tmp_path):
    """Its config.json names its kind and no image size; the processor does."""
    import torchvision_stub  # noqa: F401

    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8
    )
    config.architectures, config.num_labels = ["SegformerForSemanticSegmentation"], 5
    config.save_pretrained(tmp_path)
    with pytest.raises(PackQViTError, match="says no image size: neither .*config.json nor .*preprocessor_config.json"):
        models.load(f"hf:{tmp_path}", models.RANDOM)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 64, "width": 64}}')
    loaded = models.load(f"hf:{tmp_path}", models.RANDOM)
    assert loaded.random and loaded.preprocessing.size == 64
    with torch.no_grad():
        assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 16, 16)


@pytest.mark.parametrize(
    ("name", "stem"), [("deit_tiny", "deit_tiny"), ("hf:google/vit-base", "vit-base"), ("hf:models/b0/", "b0")]
)
def test_file_stems(name, stem):
    assert models.file_stem(name) == stem


def test_a_hugging_face_backbone_gets_no_classifier(tmp_path, caplog):
    import torchvision_stub  # noqa: F401

    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32, hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=96
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    loaded = models.load(f"hf:{tmp_path}")
    assert loaded.task == "features" and "has no classifier" in caplog.text
    assert loaded.module(torch.zeros(1, 3, 32, 32)).shape == (1, 48)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": {"height": 224, "width": 224}, "resample": 3}, (1.0, "bicubic", "squash")),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "resample": 2}, (224 / 256, "bilinear", "center")),
        ({"size": 224, "do_center_crop": True, "resample": 3}, (1.0, "bicubic", "center")),
        ({"size": 224, "resample": 3}, (1.0, "bicubic", "squash")),
    ],
)
def test_hugging_face_preprocessing(processor, expected):
    found = loading._hugging_face_preprocessing(processor, 224)
    assert (found.crop_fraction, found.interpolation, found.crop) == expected


def test_the_short_side_comes_back():
    for short in range(224, 600):
        found = loading._hugging_face_preprocessing({"size": {"shortest_edge": short}}, 224)
        assert int(found.size / found.crop_fraction) == short


@pytest.mark.parametrize("name", ["deit_tiny", "deit_small", "deit_tiny_distilled", "vit_tiny", "vit_base"])
def test_built_in_model_equals_timm(name):
    import torchvision_stub  # noqa: F401  timm does not import without torchvision

    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"{name}_patch16_224", num_classes=5).eval()
    entry = models.ZOO[name]
    config = theirs.pretrained_cfg
    assert entry.repository == config["hf_hub_id"]
    assert tuple(entry.preprocessing.mean) == config["mean"] and tuple(entry.preprocessing.std) == config["std"]
    assert entry.preprocessing.crop_fraction == config["crop_pct"]
    assert entry.preprocessing.interpolation == config["interpolation"]
    ours = dataclasses.replace(entry.config, num_classes=5).build().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)


@pytest.mark.data
def test_real_weights_classify(data_root):
    from packqvit_delegate.data import ImageFolder

    loaded = models.load("vit_tiny", data_root / "vit_tiny_patch16_224.in1k.safetensors")
    batch = next(ImageFolder.open(data_root / "ilsvrc_val_500").batches(40, loaded.preprocessing))
    with torch.no_grad():
        correct = (loaded.module(batch.images).argmax(1) == batch.labels).float().mean()
    assert correct >= 0.7
