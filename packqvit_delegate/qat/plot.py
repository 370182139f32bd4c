"""A training as a picture."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from ..arguments import checked
from ..pictures import picture
from .history import History

_PARTS = 20
"""The mean of the loss is that of one part in so many of all steps: calm, however long the training was."""
_LEAST_HEIGHT = 0.05
"""Of the accuracies' axis, so that single images do not look like a trend."""


@checked
def plot(history: History, path: str | Path, title: str = "", float_accuracy: float | None = None) -> None:
    """Draws the loss over the steps, and beside it what `evaluate` found, which has to be an accuracy from 0 to 1.

    Args:
        history: What to draw.
        path: Of the picture; its ending names the format (png, svg, pdf).
        title: Above both.
        float_accuracy: The float model's, by the same `evaluate`.

    Raises:
        PackQViTError: matplotlib is not installed, it does not know the format, or the file cannot be written.
    """
    with picture(path, (1, 2), (10, 4)) as (figure, (left, right)):
        from matplotlib import ticker

        losses = history.losses
        left.plot(range(1, len(losses) + 1), losses, color="#b8bec4", linewidth=0.8, label="of a step")
        left.plot(*_means(losses), color="#1f6f54", label="mean")
        left.set(xlabel="step", ylabel="loss", yscale="log")
        left.legend(frameon=False)
        steps = [step for step, _ in history.checks]
        found = [value for _, value in history.checks]
        right.plot(steps, found, color="#1f6f54", marker="o", clip_on=False, label="integer grids")
        if float_accuracy is not None:
            right.axhline(float_accuracy, color="#b8bec4", linestyle="--", label="float")
        right.set(xlabel="step", ylabel="top-1 on validation images", xlim=(0, max(len(losses), 1)))
        bottom, top = right.get_ylim()
        top = min(top, 1.0)
        right.set_ylim(min(bottom, top - _LEAST_HEIGHT), top)
        right.yaxis.set_major_formatter(ticker.PercentFormatter(1))
        right.legend(frameon=False)
        figure.suptitle(title)


def _means(losses: list[float]) -> tuple[list[float], list[float]]:
    """The mean over neighbouring steps, and the middle of these."""
    width = max(1, len(losses) // _PARTS)
    sums = [0.0, *accumulate(losses)]
    starts = range(len(losses) - width + 1)
    return [i + (width + 1) / 2 for i in starts], [(sums[i + width] - sums[i]) / width for i in starts]
