"""The terminal of the benchmarks: tables on stdout, what is going on on stderr."""

from rich.console import Console

console = Console()
progress = Console(stderr=True, style="dim", highlight=False)
