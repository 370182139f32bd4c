"""Finds and loads the native backend."""

from __future__ import annotations

import ctypes
import functools
import itertools
from importlib import resources
from pathlib import Path

from ..arguments import checked
from ..errors import RuntimeLibraryError

LIBRARY_NAME = "libpackqvit_backend.so"
BACKEND_NAME = "PackQViTBackend"


def _installed(folder: str, name: str) -> Path | None:
    """A compiled file of the package; an editable install keeps it apart from the sources."""
    entry = resources.files("packqvit_delegate").joinpath(folder).joinpath(name)
    with resources.as_file(entry) as path:
        return path if path.is_file() else None


def library_path() -> Path:
    """The native library of this installation.

    Raises:
        RuntimeLibraryError: The package was not built.
    """
    path = _installed("lib", LIBRARY_NAME)
    if path is None:
        raise RuntimeLibraryError(f"{LIBRARY_NAME} is not in this installation; build it with `pip install .`")
    return path


@checked
def executable_path(name: str) -> Path:
    """A native program of this installation: `packqvit_runner` or `packqvit_conformance`.

    Raises:
        RuntimeLibraryError: The package was built without it.
    """
    path = _installed("bin", name)
    if path is None:
        raise RuntimeLibraryError(f"{name} is not in this installation; build it with `pip install .`")
    return path


def cmake_path() -> Path:
    """The folder that CMake's `packqvit_DIR` names: `find_package(packqvit)` then finds this installation.

    Raises:
        RuntimeLibraryError: The package was not built.
    """
    path = _installed("share/cmake/packqvit", "packqvit-config.cmake")
    if path is None:
        raise RuntimeLibraryError("packqvit-config.cmake is not in this installation; build it with `pip install .`")
    return path.parent


@functools.cache
def load_library() -> ctypes.CDLL:
    """Loads the native library once; that registers the backend with ExecuTorch's Python runtime.

    Raises:
        RuntimeLibraryError: It is missing, or does not fit the installed ExecuTorch.
    """
    # libexecutorch.so has to be in the process first: the library is linked to it by name.
    import executorch.extension.pybindings._C  # noqa: F401
    from executorch.runtime import Runtime

    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeLibraryError(
            f"{path.name} does not load beside the installed executorch: {error}; a build fits one minor release of "
            "ExecuTorch, so install this package again"
        ) from error
    if not Runtime.get().backend_registry.is_available(BACKEND_NAME):
        raise RuntimeLibraryError(f"{path.name} was loaded, but ExecuTorch did not register {BACKEND_NAME}")
    library.packqvit_selected_tier.restype = ctypes.c_char_p
    library.packqvit_supported_tier.restype = ctypes.c_char_p
    library.packqvit_version.restype = ctypes.c_char_p
    return library


def selected_tier() -> str | None:
    """The kernel tier of delegates loaded now; None when PACKQVIT_TIER names one that this CPU does not have."""
    name = load_library().packqvit_selected_tier()
    return None if name is None else name.decode()


def supported_tiers() -> list[str]:
    """The kernel tiers that this CPU supports, best first."""
    names = map(load_library().packqvit_supported_tier, itertools.count())
    return [name.decode() for name in itertools.takewhile(lambda name: name is not None, names)]
