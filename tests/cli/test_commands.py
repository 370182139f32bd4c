"""The way of a newcomer: export, run, evaluate, inspect, benchmark and doctor, with nothing but the program's file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cli.conftest import EXPORT, packqvit, picture
from model_loading.test_downloads import serve
from packqvit_delegate import runtime
from packqvit_delegate.cli import console, options
from packqvit_delegate.cli.app import app
from packqvit_delegate.models import RANDOM, ZOO
from packqvit_delegate.version import product_version

COMMANDS = ("export", "run", "evaluate", "benchmark", "inspect", "finetune", "sensitivity", "embeddings", "doctor")


def test_what_is_written_twice_for_speed_is_the_same() -> None:
    assert tuple(ZOO) == options.BUILT_IN and options.RANDOM == RANDOM


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.process_time(); from packqvit_delegate.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'executorch', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)\n"
        "assert time.process_time() - start < 1\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


def test_importing_the_package_is_cheap() -> None:
    code = "import time; start = time.process_time(); import packqvit_delegate; print(time.process_time() - start)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert "--log" in packqvit(f"{command} --help")


def test_version() -> None:
    assert packqvit("--version") == f"packqvit {product_version()}"


def test_pictures_of_every_format(program: Path, place: Path) -> None:
    for name, mode in (("a.jpg", "L"), ("b.png", "P"), ("c.webp", "RGB"), ("d.tif", "CMYK")):
        picture(5, mode).save(place / name)
    output = packqvit("run a.pte a.jpg b.png c.webp d.tif --top 2 --threads 1 --tier reference")
    assert output.count("probability") == 4
    best = runtime.load(program).predict(place / "c.webp")
    assert "c.webp" in output and best[0].name in ("cat", "dog", "fish", "bird")
    assert f"{best[0].index} {best[0].name} {100 * (best[0].probability or 0):.1f} %" in output


def test_a_picture_held_sideways(program: Path, place: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(5).save(place / "held.png", exif=exif)
    upright = Image.fromarray(np.rot90(np.asarray(picture(5)), -1))
    model = runtime.load(program)
    assert torch.equal(model.prepare(place / "held.png"), model.prepare(upright))


def test_evaluate_needs_nothing_but_the_file(program: Path) -> None:
    output = packqvit("evaluate a.pte labelled --processes 1 --weights w.safetensors")
    top1 = re.search(r"top-1 integer (\d+\.\d+ %)", output)
    options = "--evaluate labelled --labels names.txt --processes 1 --report report.html"
    again = packqvit(f"{EXPORT} --bits 8 {options} -o again.pte")
    assert top1 is not None and f"top-1 integer {top1[1]}" in again and "report.html tells all of it" in again
    page = program.with_name("report.html").read_text()
    for words in ("vit_tiny W8A8", "4 images of labelled", "Signal-to-noise", "Where time goes", "packqvit-delegate"):
        assert words in page


def test_inspect(program: Path) -> None:
    output = packqvit("inspect a.pte --layers")
    for fact in (
        "model vit_tiny",
        "widths W8A8",
        "float32 [1, 3, 32, 32]",
        "short side to 35 (bicubic), centre 32 x 32",
        "0.5, 0.5, 0.5; 0.5, 0.5, 0.5",
        "scores of classes",
        "4: cat, dog, fish, ...",
        "backends PackQViTBackend",
        "outside of them nothing",
        "reference",
        "Attention 1",
    ):
        assert fact in output, fact
    assert "8 bits 8 36.2 KiB" in output
    assert "linear_default 48 x 48 8 2304 int8 -127 to 127" in output


def test_weights_from_the_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar for the download, on a terminal, which no warning tears."""
    monkeypatch.setattr(console.errors, "_force_terminal", True)
    serve(place / "w.safetensors", monkeypatch)
    arguments = EXPORT.replace("--weights w.safetensors ", "")
    printed = CliRunner().invoke(app, f"{arguments} --bits 8 --no-compensation --rounding nearest -o hub.pte".split())
    assert printed.exit_code == 0, (printed.output, printed.exception)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.output))
    assert [line.split() for line in lines if "meanwhile" in line] == [["WARNING", "a", "word", "meanwhile"]] * 3
    assert any(re.match(r"downloading, MiB .* 3/3 ", line) for line in lines)


def test_several_numbers_of_images(place: Path) -> None:
    packqvit(f"{EXPORT} --bits 8 --batch-sizes 1,2 -o both.pte")
    assert runtime.load("both.pte", "forward_2").inputs()[0].shape == (2, 3, 32, 32)
    assert "methods forward, forward_2; the first one is shown" in packqvit("inspect both.pte")
    assert "top-1 integer" in packqvit("evaluate both.pte labelled")


def test_benchmark(program: Path) -> None:
    output = packqvit("benchmark a.pte --threads 1 --tier reference --iterations 3 --warmup 1 --operators")
    assert re.search(r"reference 1 \d+\.\d{3} \d+\.\d{3}", output)
    assert re.search(r"softmax 1 \d+\.\d{3} \d+\.\d %", output) and "in all" in output


def test_doctor() -> None:
    output = packqvit("doctor")
    assert "executorch 1.5.1" in output and "kernel tiers" in output and "All that is needed is here." in output


def test_doctor_names_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from packqvit_delegate.cli import doctor

    installed = {"executorch": "1.4.0", "torchao": None}
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, version(name)))
    output = packqvit("doctor", code=1)
    assert "executorch is 1.4.0, but ==1.5.1 is needed: pip install 'executorch==1.5.1'" in output
    assert "torchao is not installed: pip install 'torchao" in output


def test_the_same_in_ten_lines_of_python(place: Path) -> None:
    from packqvit_delegate import export
    from packqvit_delegate.data import ImageFolder
    from packqvit_delegate.models import load

    loaded = load("vit_tiny", "w.safetensors")
    batches = [batch.images for batch in ImageFolder.open("photos").batches(4, loaded.preprocessing)]
    program = export(loaded.module, (batches[0][:1],), batches, bits=8, metadata=loaded.metadata)
    program.save("python.pte")
    model = runtime.load("python.pte")
    guesses = model.predict("labelled/0.jpg")
    assert len(guesses) == 4 and model.info.model == "vit_tiny"


def test_nothing_of_the_libraries_tears_the_terminal(program: Path) -> None:
    """In a process of its own, whose standard error C++ and Python write to."""
    result = subprocess.run(
        [sys.executable, "-m", "packqvit_delegate", "run", "a.pte", "labelled/0.jpg"], capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stderr == "Starting ExecuTorch\n" and "probability" in result.stdout


def test_the_log_has_what_the_terminal_has_not(program: Path, place: Path) -> None:
    assert "kernel tier" not in packqvit("run a.pte labelled/0.jpg --log run.log")
    assert "kernel tier" in (place / "run.log").read_text()


def test_an_interrupt_leaves_the_old_file(place: Path) -> None:
    """Ctrl-C during an export that would replace a file: 130, the old file, and nothing beside it."""
    old = place / "kept" / "old.pte"
    old.parent.mkdir()
    old.write_bytes(b"old")
    command = [sys.executable, "-m", "packqvit_delegate", *EXPORT.replace("vit_tiny", "deit_tiny").split()]
    command[command.index("w.safetensors")] = "random"
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "-o", str(old)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's background job ignores it
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.strip() == "Starting PyTorch and ExecuTorch" and time.monotonic() - start < 30  # 3 s where it is quiet
    for line in process.stderr:
        if "Loading" in line:
            break
    process.send_signal(2)
    rest = process.stderr.read()
    assert process.wait() == 130, rest
    assert "interrupted: no file was changed" in " ".join(rest.split()) and "Traceback" not in rest
    assert old.read_bytes() == b"old" and list(old.parent.iterdir()) == [old]
