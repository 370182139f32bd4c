"""What all observers share: the interface of their fake-quant twin, a sample, and how they are converted."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import ObserverBase

from ...row_sample import RowSample

_SEVEN_BITS = 2**7


class CodeObserver(ObserverBase):
    """Watches a float tensor and decides its integer grid.

    Subclasses give `fake_quantize`; those whose grid `quantized_decomposed` cannot express also give `convert`, which
    torchao's convert_pt2e calls instead of inserting its own q/dq pair.
    """

    def __init__(self, dtype: torch.dtype = torch.int8, quant_min: int = -128, quant_max: int = 127, **_: Any) -> None:
        """Takes the fields of a QuantizationSpec; unused ones are ignored."""
        super().__init__(dtype=dtype, is_dynamic=False)
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.qscheme = torch.per_tensor_affine

    @property
    def narrow(self) -> bool:
        """Whether the codes have less than 8 bits; 8-bit grids may leave a few codes out."""
        return self.quant_max - self.quant_min < _SEVEN_BITS

    @abc.abstractmethod
    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to the grid that was decided: float32, x's shape."""

    def extra_repr(self) -> str:
        """The range of codes."""
        return f"qmin={self.quant_min}, qmax={self.quant_max}"


class SampledObserver(CodeObserver):
    """Keeps a bounded sample of what it saw."""

    def __init__(self, complete: bool = False, **kwargs: Any) -> None:
        """Starts with an empty sample.

        Args:
            complete: What is seen is all that there will be: a constant.
            **kwargs: Fields of the QuantizationSpec.
        """
        super().__init__(**kwargs)
        self.sample = RowSample(complete)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Records x [..., C] and returns it unchanged."""
        self.sample.add(x)
        return x


def replace_by_codes(
    model: GraphModule, observer: Node, quantize: Any, q_args: tuple, dequantize: Any, dq_args: tuple
) -> None:
    """Replaces an observer node by `dequantize(quantize(x, *q_args), *dq_args)`; tensors become buffers."""
    from torchao.quantization.pt2e.utils import create_getattr_from_value

    graph = model.graph
    made: dict[int, Node] = {}

    def argument(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in made:
            made[id(value)] = create_getattr_from_value(model, graph, f"{observer.name}_grid_", value)
        return made[id(value)]

    with graph.inserting_before(observer):
        x = observer.args[0]
        codes = graph.call_function(quantize, (x, *map(argument, q_args)))
        values = graph.call_function(dequantize, (codes, *map(argument, dq_args)))
    observer.replace_all_uses_with(values)
    graph.erase_node(observer)
