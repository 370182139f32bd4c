"""Models as people write them: each becomes the graph of the plain float32 model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from models import MICRO, images, plain_model, torchvision_model
from packqvit_delegate import PackQViTError, UnsupportedModelError
from packqvit_delegate.capture import capture
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.graph import signature
from packqvit_delegate.passes.patterns import attentions, layer_name

X = images(1)
HALVES = (torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return plain_model(projection="reshape")


@pytest.fixture(scope="module")
def expected(plain: nn.Module) -> GraphModule:
    return canonical(plain)


def canonical(model: nn.Module, x: Tensor = X) -> GraphModule:
    return canonicalize(capture(model, (x,)))


def assert_same(actual: GraphModule, expected: GraphModule, atol: float = 1e-5) -> None:
    """The same operators on float32, the same layers, and the same values."""
    assert [row[:2] for row in signature(actual)] == [row[:2] for row in signature(expected)]
    assert {layer_name(node) for node in actual.graph.nodes if "linear" in node.name} == {
        layer_name(node) for node in expected.graph.nodes if "linear" in node.name
    }
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in actual.parameters())
    assert [p.requires_grad for p in actual.parameters()] == [p.requires_grad for p in expected.parameters()]
    with torch.no_grad():
        torch.testing.assert_close(actual(X), expected(X), atol=atol, rtol=1e-3)


def state(model: nn.Module) -> list[object]:
    """What may not change: tensors, their types, strides, gradients and modes."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    found: list[object] = [(n, id(t), t.dtype, t.stride(), t.requires_grad, t._version) for n, t in tensors]
    return found + [(name, part.training, len(part._forward_hooks)) for name, part in model.named_modules()]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("example", [torch.float32, None], ids=["float32", "same"])
def test_other_precisions(plain: nn.Module, expected: GraphModule, dtype: torch.dtype, example: torch.dtype) -> None:
    model = copy.deepcopy(plain).to(dtype)
    before = state(model)
    actual = canonical(model, X.to(example or dtype))
    assert_same(actual, expected, atol=0.05)
    assert state(model) == before
    assert actual.get_parameter("head.weight").data_ptr() != model.head.weight.data_ptr()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_float32_model_with_an_example_of_another_type(
    plain: nn.Module, expected: GraphModule, dtype: torch.dtype
) -> None:
    assert_same(canonical(plain, X.to(dtype)), expected)


class Mixed(nn.Module):
    """The blocks in one type, what stands before and behind in another."""

    def __init__(self, vit: nn.Module, inner: torch.dtype, outer: torch.dtype) -> None:
        super().__init__()
        self.vit, self.inner = vit.to(inner), inner
        self.norm, self.head = vit.norm.to(outer), vit.head.to(outer)
        vit.norm, vit.head = nn.Identity(), nn.Identity()
        self.outer = outer

    def forward(self, x: Tensor) -> Tensor:
        x = self.vit(x.to(self.inner))
        return self.head(self.norm(x.to(self.outer))).float()


@pytest.mark.parametrize(("inner", "outer"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float64)])
def test_mixed_precision(plain: nn.Module, expected: GraphModule, inner: torch.dtype, outer: torch.dtype) -> None:
    actual = canonical(Mixed(copy.deepcopy(plain), inner, outer))
    assert all(p.dtype == torch.float32 for p in actual.parameters())
    assert len(list(attentions(actual))) == MICRO["depth"]
    torch.testing.assert_close(actual(X), expected(X), atol=0.05, rtol=1e-3)


class Region(nn.Module):
    """A model inside of autocast or torch.no_grad."""

    def __init__(self, vit: nn.Module, context: Callable[[], object]) -> None:
        super().__init__()
        self.vit, self.context = vit, context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():  # type: ignore[attr-defined]
            x = self.vit.patch(x)
            x = self.vit._embed(x)
            for block in self.vit.blocks:
                x = block(x)
        return self.vit.head(self.vit.norm(x.float())[:, 0])


@pytest.mark.parametrize(
    "context", [lambda: torch.autocast("cpu", torch.bfloat16), torch.no_grad], ids=["autocast", "no_grad"]
)
def test_regions_become_part_of_the_graph(
    plain: nn.Module, expected: GraphModule, context: Callable[[], object]
) -> None:
    assert_same_operators = canonical(Region(plain, context))
    assert len(list(attentions(assert_same_operators))) == MICRO["depth"]
    torch.testing.assert_close(assert_same_operators(X), expected(X), atol=1e-4, rtol=1e-3)


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1)[..., ::2]


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        strided,
        lambda x: x.as_strided(x.shape, (1, *x.stride()[1:])),
        lambda x: x.clone().requires_grad_(),
    ],
    ids=["channels_last", "permuted", "strided", "stride_of_one_image", "gradient"],
)
def test_layouts_of_the_example(plain: nn.Module, expected: GraphModule, layout: Callable[[Tensor], Tensor]) -> None:
    actual = canonical(plain, layout(X))
    assert_same(actual, expected)
    (image,) = (node for node in actual.graph.nodes if node.op == "placeholder")
    assert image.meta["val"].stride() == X.stride()


def test_a_model_in_channels_last(plain: nn.Module, expected: GraphModule) -> None:
    model = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    before = state(model)
    assert_same(canonical(model), expected)
    assert state(model) == before


def test_training_mode_is_kept(plain: nn.Module, expected: GraphModule) -> None:
    model = copy.deepcopy(plain).train()
    model.blocks[0].eval()
    model.patch.weight.requires_grad_(False)
    model.register_forward_hook(lambda module, args, output: output)
    before = state(model)
    actual = canonical(model)
    assert state(model) == before
    assert not actual.get_parameter("patch.weight").requires_grad
    torch.testing.assert_close(actual(X), expected(X))


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x) if x.sum() > 0 else x


def test_a_model_that_fails_is_kept_too() -> None:
    model = Broken().train().to(torch.bfloat16)
    before = state(model)
    with pytest.raises(UnsupportedModelError, match="torch.export cannot capture Broken"):
        capture(model, (X,))
    assert state(model) == before


class Merged(nn.Module):
    """An adapter that writes itself into the weights in evaluation mode, as LoRA's do."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        self.delta = nn.Parameter(torch.full_like(vit.head.weight, 0.1))
        self.train()

    def train(self, mode: bool = True) -> Merged:
        if mode != self.training:
            with torch.no_grad():
                self.vit.head.weight.add_(self.delta, alpha=-1 if mode else 1)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x) if not self.training else self.vit(x) + 0 * self.delta.sum()


def test_an_adapter_that_merges_itself(plain: nn.Module) -> None:
    model = Merged(copy.deepcopy(plain))
    weight = model.vit.head.weight.detach().clone()
    actual = capture(model, (X,))
    torch.testing.assert_close(model.vit.head.weight, weight)
    assert model.training
    torch.testing.assert_close(actual(X), model.eval()(X))


def exported(model: nn.Module, x: Tensor = X, **options: object) -> torch.export.ExportedProgram:
    return torch.export.export(model, (x,), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [True, False], ids=["module", "program"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_exported_programs(plain: nn.Module, expected: GraphModule, module: bool, dynamic: bool) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    program = exported(plain, images(2), dynamic_shapes={"x": {0: batch}}) if dynamic else exported(plain)
    actual = canonical(program.module() if module else program)  # type: ignore[arg-type]
    assert_same(actual, expected)
    assert actual.get_parameter("head.weight") is plain.head.weight  # no copies where none are needed


def test_an_exported_program_in_half_precision(plain: nn.Module, expected: GraphModule) -> None:
    program = exported(copy.deepcopy(plain).bfloat16(), X.bfloat16())
    assert_same(canonical(program), expected, atol=0.05)  # type: ignore[arg-type]


def test_a_program_exported_for_another_batch(plain: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match=r"exported for x of \(2, 3, 32, 32\).*\(1, 3, 32, 32\)"):
        capture(exported(plain, images(2)), (X,))


def test_a_program_exported_in_training_mode(plain: nn.Module) -> None:
    model = torchvision_dropout()
    program = exported(model.train())
    with pytest.raises(UnsupportedModelError, match=r"dropout is active in .*encoder.*exported while it trained"):
        capture(program, (X,))
    model.eval()
    program = exported(plain.train())  # no dropout with p > 0 outside attention's
    plain.eval()
    with pytest.raises(UnsupportedModelError, match=r"model.eval\(\)"):
        capture(program.module(), (X,))


def torchvision_dropout() -> nn.Module:
    model = torchvision_model()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
    return model


def test_inactive_dropout_is_no_fault() -> None:
    model = torchvision_model()  # p = 0
    assert len(list(attentions(canonical(exported(model.train()))))) == MICRO["depth"]  # type: ignore[arg-type]


class AlwaysDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.vit(x), 0.3)


def test_dropout_that_never_ends_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"dropout is active.*training=self.training"):
        capture(AlwaysDropout().eval(), (X,))


def test_compiled_and_parallel_models(plain: nn.Module, expected: GraphModule) -> None:
    assert_same(canonical(torch.compile(plain)), expected)  # type: ignore[arg-type]
    assert_same(canonical(nn.DataParallel(plain)), expected)
    inside = copy.deepcopy(plain)
    inside.blocks[0] = torch.compile(inside.blocks[0])  # type: ignore[assignment]
    torch.testing.assert_close(canonical(inside)(X), expected(X))


def test_torchscript_is_refused(plain: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        capture(torch.jit.trace(plain, X), (X,))


def test_weights_on_the_meta_device() -> None:
    with pytest.raises(PackQViTError, match="meta device"):
        capture(copy.deepcopy(plain_model()).to("meta"), (X,))


def test_masks_may_hold_minus_infinity_and_nothing_else_may(plain: nn.Module) -> None:
    masked = copy.deepcopy(plain)
    masked.register_buffer("mask", torch.zeros(4, 4).fill_diagonal_(-torch.inf))
    capture(masked, (X,))
    for value in (torch.inf, torch.nan):
        masked.mask[0, 0] = value
        with pytest.raises(PackQViTError, match="mask holds NaN or infinite values"):
            capture(masked, (X,))


class Jittered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x) + torch.rand(10)


def test_random_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"draws random numbers at run time \(aten.rand in rand\)"):
        capture(Jittered().eval(), (X,))
