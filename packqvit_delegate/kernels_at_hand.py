"""Whether ExecuTorch has a kernel for each operator that a program leaves to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from executorch.exir import ExecutorchProgramManager
from torch._export.verifier import SpecViolationError
from torch.fx import GraphModule

from .errors import UnsupportedModelError
from .outside import OutsideOperator
from .passes.reasons import module_path


def missing_kernels(manager: ExecutorchProgramManager) -> list[str]:
    """The ATen operators of a program, e.g. `aten::argsort.out`, for which the installed ExecuTorch has no kernel.

    Operators of other namespaces are the user's own, and so are their kernels.
    """
    from executorch.extension.pybindings import _C  # slow, and not needed to prepare or to calibrate

    plans = manager.executorch_program.execution_plan
    needed = {f"{o.name}.{o.overload}" if o.overload else o.name for plan in plans for o in plan.operators}
    return sorted(name for name in needed - set(_C._get_operator_names()) if name.startswith("aten::"))


def check_kernels(manager: ExecutorchProgramManager, outside: Sequence[OutsideOperator]) -> None:
    """Refuses a program that ExecuTorch could not load.

    Args:
        manager: Of the program.
        outside: The operators that it leaves to ExecuTorch's kernels.

    Raises:
        UnsupportedModelError: It has no kernel for one of them.
    """
    missing = missing_kernels(manager)
    if not missing:
        return
    plain = {name.partition(".")[0] for name in missing}
    told = [operator.render() for operator in outside if operator.operator.partition(".")[0] in plain]
    raise UnsupportedModelError(
        f"ExecuTorch has no kernel for {', '.join(missing)}, so that the program would not load: the model would have "
        f"to do without {'it' if len(missing) == 1 else 'them'}{': ' if told else ''}{'; '.join(told[:4])}"
    )


def without_operator(modules: Iterable[GraphModule], error: SpecViolationError) -> UnsupportedModelError:
    """What to say of graphs with an operator that to_edge does not take.

    Args:
        modules: The integer graphs.
        error: What to_edge said; it names the operator as `torch._ops.aten.lgamma.default`.
    """
    named = re.search(r"Operator torch\._ops\.(\S+)", str(error))
    name = named[1] if named else ""
    nodes = [node for module in modules for node in module.graph.nodes if str(node.target) == name]
    places = sorted({module_path(node) or node.name for node in nodes})
    return UnsupportedModelError(
        f"ExecuTorch has no operator {name.rpartition('.')[0] or str(error)}{' (in ' if places else ''}"
        f"{', '.join(places[:4])}{')' if places else ''}: the model would have to do without it, or it runs outside of "
        "the program"
    )
