"""The modules of the user's model are told by every node of every graph, and reach ETRecord and the Inspector."""

from __future__ import annotations

import re
import subprocess
import warnings

import pytest
import torch
from executorch.devtools import Inspector
from executorch.exir import to_edge_transform_and_lower

from models import CASES, export, images
from packqvit_delegate import PackQViTPartitioner, quantize, runtime
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.config import QuantizationConfig
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.reasons import module_path

CHEAP = CalibrationMethod(rounding="nearest", bias_correction=False, compensation=False, token_importance=False)


@pytest.mark.parametrize(
    "name", ["timm_vit", "hf_vit", "torchvision_vit", "plain_bmm_interleaved", "plain_layer_scale", "plain_erf"]
)
def test_every_node_of_the_canonical_graph_tells_its_module(name: str) -> None:
    case = CASES[name]
    graph_module = canonicalize(export(case.build(), images(1, case.image)))
    calls = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    assert [node.name for node in calls if not node.meta.get("nn_module_stack")] == []
    attention = [node for node in calls if str(node.target) in ("aten.softmax.int", "aten.matmul.default")]
    assert attention and all(re.search("att", module_path(node)) for node in attention)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules of each operator inside the delegate, as Inspector gives them for a run of the native program."""
    folder, x = tmp_path_factory.mktemp("modules"), images(1)
    integer = quantize(CASES["plain"].build(), (x,), images(2), QuantizationConfig.preset("w8a8"), method=CHEAP)
    exported = torch.export.export(integer, (x,))
    edge = to_edge_transform_and_lower(exported, partitioner=[PackQViTPartitioner()], generate_etrecord=True)
    program = edge.to_executorch()
    program.get_etrecord().save(folder / "etrecord.bin")
    (folder / "model.pte").write_bytes(program.buffer)
    (folder / "image.bin").write_bytes(x.numpy().tobytes())
    files = ("--model", folder / "model.pte", "--batch-file", folder / "image.bin", "--etdump", folder / "dump.etdp")
    command = [str(runtime.executable_path("packqvit_runner")), *map(str, files)]
    subprocess.run(command, check=True, capture_output=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no debug buffer
        inspector = Inspector(etdump_path=str(folder / "dump.etdp"), etrecord=str(folder / "etrecord.bin"))
    found: dict[str, set[str]] = {}
    for block in inspector.event_blocks:
        for event in block.events:
            if event.is_delegated_op:
                for operator, stack in event.module_hierarchy.items():
                    found.setdefault(operator.split("_default")[0], set()).add(list(stack.values())[-1][0])
    return found


def test_inspector_shows_the_modules(modules: dict[str, set[str]]) -> None:
    assert modules["packqvit_patch_embedding"] == {"patch"}
    assert modules["packqvit_layer_norm"] == {"norm", *(f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2))}
    assert {"blocks.0.attention.q", "blocks.1.attention.v", "blocks.0.fc1"} <= modules["packqvit_linear"]
    assert modules["packqvit_linear_add"] == {
        f"blocks.{i}.{name}" for i in (0, 1) for name in ("attention.proj", "fc2")
    }
    assert modules["packqvit_softmax"] == {"blocks.0.attention", "blocks.1.attention"}
    assert modules["packqvit_linear_accumulate"] == {"head"}


def test_no_operator_is_without_a_module(modules: dict[str, set[str]]) -> None:
    assert modules and all(path for paths in modules.values() for path in paths)
