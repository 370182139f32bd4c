"""Runs the commands of a page in a shell whose `python` is this process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from packqvit_delegate.cli import app

SMALLER = {
    "export": ("--calibration-images 4 --tune-images 24 --tune-steps 2 --processes 1", ""),
    "evaluate": ("--processes 1", ""),
    "embeddings": ("--processes 1 --neighbours 1", ""),
    "finetune": (
        "--steps 2 --batch 4 --calibration-images 4 --check-images 4 --every 2 --processes 1 --device cpu",
        "--float-steps 2",
    ),
    "sensitivity": ("--calibration-images 4 --images 2", ""),
}
"""By command: what is put behind the options that a page gives, where the last one counts; and before them."""
SCRIPTS = {"export_deit": "export", "finetune_qat": "finetune"}
"""Scripts of examples/ with another name than their command."""
STUBS = ("python", "packqvit")


STUB = """#!{python} -SE
import json, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    connection.sendall(json.dumps([{name!r}, *sys.argv[1:]]).encode() + b"\\n")
    answer = json.load(connection.makefile())
sys.stdout.write(answer["output"])
sys.exit(answer["code"])
"""


def run_shell(script: str, place: Path, bin_folder: Path) -> tuple[int, str]:
    """Runs commands in bash; each `python` and `packqvit` in this process, which has imported everything already.

    Returns:
        The exit code, and what was printed.
    """
    address = str(bin_folder / "s")
    for name in STUBS:
        stub = bin_folder / name
        stub.write_text(STUB.format(python=sys.executable, address=address, name=name))
        stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = bin_folder / "log"
    with socket.socket(socket.AF_UNIX) as listener, log.open("w") as output:
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.1)
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-xc", script], cwd=place, env=environment, stdout=output, stderr=output
        )
        while process.poll() is None:
            with contextlib.suppress(TimeoutError):
                connection = listener.accept()[0]
                with connection:
                    program, *arguments = json.loads(connection.makefile().readline())
                    code, text = (_python if program == "python" else _packqvit)(arguments)
                    connection.sendall(json.dumps({"code": code, "output": text}).encode())
    return process.returncode, log.read_text()


def _python(arguments: list[str]) -> tuple[int, str]:
    """What `python` with these arguments does, for scripts of examples/ and code."""
    if arguments[0] == "-c":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(arguments[1], {})
        return 0, printed.getvalue()
    script = Path(arguments[0])
    assert script.parent == Path("examples") and script.is_file(), arguments
    application = importlib.import_module(script.stem).app
    return _invoke(application, [], SCRIPTS.get(script.stem, script.stem), arguments[1:])


def _packqvit(arguments: list[str]) -> tuple[int, str]:
    """What `packqvit` with these arguments does."""
    return _invoke(app.app, arguments[:1], arguments[0], arguments[1:])


def _invoke(application: typer.Typer, name: list[str], command: str, arguments: list[str]) -> tuple[int, str]:
    behind, before = SMALLER.get(command, ("", ""))
    result = CliRunner().invoke(application, [*name, *before.split(), *arguments, *behind.split()])
    return result.exit_code, result.output + (f"{result.exception!r}\n" if result.exception else "")
