"""Compares our programs of a trained model with its peers': accuracy, time and size, one table and one picture.

python -m benchmarks.compare --model vit_tiny --weights vit_tiny.safetensors --calibration photos --images imagenet/val
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markdown import Markdown

from packqvit_delegate import CalibrationMethod, runtime
from packqvit_delegate.data import ImageFolder, read_class_names
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import ZOO, load
from packqvit_delegate.pictures import check_picture

from .answers import answers, float_answers
from .comparison import Comparison, Judgement, Row, replace_section
from .comparison_picture import draw
from .contestants import PRESETS, Contestant, Workshop
from .peers import PEERS, make_peers
from .report import cpu_name, versions
from .terminal import check_names, console, only_errors, progress
from .timing import measure

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ALL = [*PRESETS, *PEERS]
CONTESTANT_HELP = f"Any of {', '.join(ALL)}; can be repeated; default: all that can be made."
PUBLISH_HELP = "Folder of docs: the picture goes there as compare.png, the table into its compare.md and ../README.md."
KEEP_HELP = "Keep programs of an earlier run with the same weights and images, and what was said of their answers."
PICTURE, SECTION = "compare.png", "compare"
ALTERNATIVE = "Top-1 accuracy against milliseconds for each program; the area of a bubble is the size of its file"


@app.command()
def main(
    weights: Annotated[Path, typer.Option(help="Of the model: .safetensors or .pth.")],
    calibration: Annotated[Path, typer.Option(help="Folder of images to calibrate with.")],
    images: Annotated[Path, typer.Option(help="Folder of other images, with labels, to evaluate on.")],
    model: Annotated[str, typer.Option(help=f"Any of {', '.join(ZOO)}, or any name of timm's.")] = "vit_tiny",
    labels: Annotated[Path | None, typer.Option(help="Class names in label order, for class folders.")] = None,
    contestant: Annotated[list[str] | None, typer.Option(help=CONTESTANT_HELP)] = None,
    calibration_images: Annotated[int, typer.Option(help="How many.", min=1)] = 128,
    count: Annotated[int | None, typer.Option(help="Evaluate on so many images; default: all.", min=1)] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each program when they are timed.", min=1)] = 40,
    processes: Annotated[int, typer.Option(help="To evaluate in.", min=1)] = os.cpu_count() or 1,
    keep: Annotated[bool, typer.Option("--keep", help=KEEP_HELP)] = False,
    publish: Annotated[Path | None, typer.Option(help=PUBLISH_HELP)] = None,
    output: Annotated[Path, typer.Option(help="For programs, compare.md, .json and .png.")] = Path("build/compare"),
) -> None:
    """Makes all programs of a model, evaluates them, times them, and writes a table and a picture."""
    only_errors()
    names = contestant or ALL
    check_names(names, ALL, "--contestant")
    try:
        for name in contestant or ():
            if name in PEERS and PEERS[name].missing:
                raise PackQViTError(f"{name} needs {' '.join(PEERS[name].missing)}: .venv/bin/pip install them")
        if not weights.is_file():
            raise PackQViTError(f"there is no weight file {weights}")
        evaluated = ImageFolder.open(images, read_class_names(labels) if labels else None)
        evaluated = evaluated if count is None else evaluated.sample(count)
        calibrated = ImageFolder.open(calibration).sample(calibration_images)
        check_images(evaluated, calibrated)
        output.mkdir(parents=True, exist_ok=True)
        check_picture(output / PICTURE)
        if publish is not None:
            for page in (publish / "compare.md", publish.parent / "README.md"):
                if not page.is_file():
                    raise PackQViTError(f"--publish: there is no {page}")
        comparison = compare(model, weights, calibrated, evaluated, names, output, rounds, processes, keep)
        _write(comparison, output, publish)
    except PackQViTError as error:
        progress.print(f"error: {error}", style="bold red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from None


def check_images(evaluated: ImageFolder, calibrated: ImageFolder) -> None:
    """Refuses images without labels, and those that are in both folders.

    Raises:
        PackQViTError: With the folder, or the files.
    """
    if evaluated.labels is None:
        raise PackQViTError(
            f"{evaluated.root} has no labels: add a labels.csv (file,label) or put the images into class folders"
        )
    seen = {_digest(path): path for path in calibrated.files}
    for path in evaluated.files:
        if (digest := _digest(path)) in seen:
            raise PackQViTError(
                f"{path} is to be evaluated, but calibrated with as well ({seen[digest]}): give other images"
            )


def compare(
    model: str,
    weights: Path,
    calibrated: ImageFolder,
    evaluated: ImageFolder,
    names: list[str],
    output: Path,
    rounds: int,
    processes: int,
    keep: bool,
) -> Comparison:
    """Measures.

    Args:
        model: Name of the model.
        weights: Its weights.
        calibrated: The images that every program is calibrated with.
        evaluated: The images, with labels, that every program is evaluated on.
        names: Of the programs, `ALL` at most.
        output: Folder for the programs.
        rounds: Turns of each program when they are timed.
        processes: To evaluate in.
        keep: Programs, and judgements of the same bytes.

    Raises:
        PackQViTError: Model, weights and images do not go together, or no program can be made.
    """
    loaded = load(model, weights)
    preprocessing = loaded.preprocessing
    assert evaluated.labels is not None
    progress.print(f"reading {len(calibrated)} images of {calibrated.root}")
    images = torch.cat([batch.images for batch in calibrated.batches(16, preprocessing)])
    with torch.no_grad():
        evaluated.check_labels(loaded.module(images[:1]).shape[-1])
    method = CalibrationMethod()
    workshop = Workshop(model, output, fresh=not keep, loaded=loaded, images=images, method=method)
    contestants = [_ours(workshop, name, keep) for name in names if name in PRESETS]
    contestants += make_peers(workshop, [PEERS[name] for name in names if name in PEERS])
    if not contestants:
        raise PackQViTError("no program could be made")

    known = _Judgements(workshop.folder / "judgements.json", evaluated, keep)
    unknown = [each for each in contestants if each.files not in known]
    if unknown or [weights] not in known:
        progress.print(f"evaluating the float model on {len(evaluated)} images of {evaluated.root}")
        reference = float_answers(loaded.module, evaluated, preprocessing)
        known.add([weights], Judgement.of(reference, reference, evaluated.labels))
    for each in unknown:
        progress.print(f"evaluating {each.name}")
        try:
            logits = answers(each, evaluated, preprocessing, processes)
        except Exception as error:  # each engine raises its own kinds; some end their process
            progress.print(f"left out: {each.name} does not run: {type(error).__name__}", soft_wrap=True)
            contestants.remove(each)
            continue
        known.add(each.files, Judgement.of(logits, reference, evaluated.labels))
    if not contestants:
        raise PackQViTError("no program runs")
    progress.print("timing, on one thread: leave the machine alone")
    timings = {timing.name: timing for timing in measure(contestants, images[:1], 1, rounds)}
    return Comparison(
        model,
        known.of([weights]).top1,
        len(evaluated),
        len(calibrated),
        cpu_name(),
        runtime.selected_tier(),
        versions(),
        datetime.date.today().isoformat(),
        [Row(c.name, known.of(c.files), timings[c.name].median, timings[c.name].minimum, c.size) for c in contestants],
    )


def _ours(workshop: Workshop, preset: str, keep: bool) -> Contestant:
    kept = Contestant(preset, "executorch", workshop.program_path(preset))
    return kept if keep and kept.path.is_file() else workshop.ours(preset)


class _Judgements:
    """What was said of the answers of programs, by the bytes of their files and the images; kept in a file."""

    def __init__(self, path: Path, folder: ImageFolder, keep: bool) -> None:
        self._path = path
        self._images = hashlib.sha256("\n".join(map(str, (folder.files, folder.labels))).encode()).hexdigest()
        self._known: dict[str, dict[str, float]] = json.loads(path.read_text()) if keep and path.is_file() else {}

    def _key(self, files: list[Path]) -> str:
        return " ".join([self._images[:16], *(_digest(file)[:16] for file in files)])

    def __contains__(self, files: list[Path]) -> bool:
        return self._key(files) in self._known

    def add(self, files: list[Path], judgement: Judgement) -> None:
        self._known[self._key(files)] = vars(judgement)
        self._path.write_text(json.dumps(self._known, indent=2) + "\n")

    def of(self, files: list[Path]) -> Judgement:
        return Judgement(**self._known[self._key(files)])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(comparison: Comparison, output: Path, publish: Path | None) -> None:
    table = comparison.markdown()
    console.print(Markdown(table))
    comparison.write(output / "compare.json")
    (output / "compare.md").write_text(table)
    draw(comparison, output / PICTURE)
    progress.print(f"wrote {output}/compare.md, .json and .png")
    if publish is not None:
        draw(comparison, publish / PICTURE)
        for page in (publish / "compare.md", publish.parent / "README.md"):
            link = (publish / PICTURE).relative_to(page.parent).as_posix()
            replace_section(page, SECTION, f"![{ALTERNATIVE}]({link})\n\n{table}")
        progress.print(f"wrote the table and the picture into {publish} and {publish.parent}/README.md")


if __name__ == "__main__":
    app()
