"""Which version of this package runs."""

from __future__ import annotations

from importlib import metadata


def product_version() -> str:
    """The version of this package; "0+unknown" in a source tree that was never installed."""
    try:
        return metadata.version("packqvit-delegate")
    except metadata.PackageNotFoundError:
        return "0+unknown"
