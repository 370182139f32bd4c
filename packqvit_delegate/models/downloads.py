"""Downloads from the hub tell how far they are as all long loops do."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import math
import threading
from collections.abc import Generator, Iterator
from typing import Any

from packqvit_delegate.progress import Progress

_STEP = 2**20
"""Bytes of a step; files of less, such as configurations, are not shown."""
_DESCRIPTION = "downloading, MiB"


@contextlib.contextmanager
def downloads_shown(progress: Progress | None) -> Iterator[None]:
    """Leads the bars of huggingface_hub to a Progress meanwhile, whichever library downloads: it, timm, transformers.

    timm hands on no bar of its caller's, so that the class of which the hub makes its bars is exchanged.

    Args:
        progress: Its length is in MiB; None: the hub shows its own bars, on a terminal.
    """
    bars: Any = None
    with contextlib.suppress(ImportError):  # then nothing downloads
        bars = importlib.import_module("huggingface_hub.utils.tqdm")
    if progress is None or bars is None:
        yield
        return
    own = bars.tqdm
    bars.tqdm = _bar_class(own, progress)
    try:
        yield
    finally:
        bars.tqdm = own


def _bar_class(own: Any, progress: Progress) -> type:
    """A class of bars that draw nothing; one at a time, of parallel downloads, steps through a Progress."""
    lock = threading.RLock()  # the hub may update from threads of its own
    shown: list[Any] = []

    class Bar(own):
        monitor_interval = 0  # seconds; no thread that looks after bars that are not drawn

        def __init__(self, *args: Any, **options: Any) -> None:
            hidden = options.pop("disable", None) is True
            super().__init__(*args, **options, file=io.StringIO(), disable=hidden)
            self._steps: Iterator[Any] | None = None
            self._taken = 0
            is_large = self.total is None or self.total >= _STEP
            with lock:
                if is_large and not shown and not self.disable:
                    shown.append(self)
                    count = None if self.total is None else math.ceil(self.total / _STEP)
                    items = itertools.count() if count is None else range(count)
                    self._steps = iter(progress(items, _DESCRIPTION, count))
                    self._follow()

        def display(self, *args: Any, **options: Any) -> None:
            """Draws nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                drawn: bool | None = super().update(n)
                self._follow()
                return drawn

        def close(self) -> None:
            with lock:
                steps = getattr(self, "_steps", None)  # a bar that was never made is closed too
                if steps is not None:
                    self._end(steps)
                super().close()

        def _follow(self) -> None:
            """Takes a step more than are done: a loop is in the step that it has taken last."""
            while self._steps is not None and self._taken <= self.n // _STEP:
                self._taken += 1
                if next(self._steps, self) is self:
                    self._end(self._steps)

        def _end(self, steps: Iterator[Any]) -> None:
            self._steps = None
            shown.remove(self)
            if self.total is not None and self.n >= self.total:
                for _ in steps:  # the last one may be less than a MiB
                    pass
            elif isinstance(steps, Generator):  # broken off: what draws it stops
                steps.close()

    return Bar
