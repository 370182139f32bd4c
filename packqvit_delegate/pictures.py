"""Pictures by matplotlib, which need not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import PackQViTError
from .files import check_writable, replacing


def check_picture(path: str | Path) -> None:
    """Says before any work whether a picture can be written.

    Args:
        path: Of the picture; its ending names the format (png, svg, pdf).

    Raises:
        PackQViTError: matplotlib is not installed or does not know the format, or the file cannot be written.
    """
    path = Path(path)
    _pyplot()
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise PackQViTError(f"cannot write the plot {path}: its name has to end in one of {', '.join(sorted(known))}")
    check_writable(path)


@contextmanager
def picture(
    path: str | Path, shape: tuple[int, int], size: tuple[float, float], **options: Any
) -> Iterator[tuple[Any, Any]]:
    """A figure to draw into, written when the block ends.

    Args:
        path: As for `check_picture`.
        shape: Rows and columns of axes.
        size: Width and height in inches.
        options: Of pyplot.subplots.

    Yields:
        The figure and its axes.

    Raises:
        PackQViTError: As for `check_picture`, or the file cannot be written.
    """
    check_picture(path)
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(*shape, figsize=size, layout="constrained", **options)
    try:
        yield figure, axes
        with replacing(path) as partial:
            figure.savefig(partial, dpi=150)
    finally:
        pyplot.close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise PackQViTError("a plot needs matplotlib: pip install packqvit-delegate[plots]") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
