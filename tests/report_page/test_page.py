"""What the page says: every fact of the program, every name as text, and nothing that asks the network."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from models import images, timm_swin
from packqvit_delegate import PackQViTError, Program, export, runtime
from packqvit_delegate.evaluation import Answers
from packqvit_delegate.grids import OffsetGrid, ProbabilityGrid, ResidualGrid
from packqvit_delegate.outside import OutsideOperator
from packqvit_delegate.passes.graph import find
from packqvit_delegate.report import DelegationReport, Fallback
from packqvit_delegate.report_page import Judgement, Timing, check_page
from packqvit_delegate.report_page.judgement import Change, Confusion
from packqvit_delegate.report_page.operators import _grid, operator_rows
from packqvit_delegate.report_page.page import render
from packqvit_delegate.runtime.description import describe
from packqvit_delegate.runtime.profile import OperatorTime, by_kind
from packqvit_delegate.sensitivity.roles import ROLES
from report_page.conftest import CHEAP, FOLDER, MODEL, NAMES, Made

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """The elements of a page, its text, and its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[" ".join(self._caption.split())] = [[" ".join(c.split()) for c in row] for row in self._rows]

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "caption" in self.open:
            self._caption += data
        if "td" in self.open or "th" in self.open:
            self._rows[-1][-1] += data

    def table(self, beginning: str) -> list[list[str]]:
        (found,) = (rows for caption, rows in self.tables.items() if beginning in caption)
        return found


def page_of(program: Program, **given: object) -> Page:
    report = program.report
    assert report.source is not None
    return Page(render(report, report.source, **given))


@pytest.fixture(scope="module")
def page(made: Made) -> Page:
    return page_of(made.program, judged=made.judged, timing=made.timing)


def test_names_are_text(page: Page) -> None:
    assert {tag for tag, _ in page.tags} & {"script", "b", "i"} <= {"b"}  # its own
    assert f"{MODEL} W4A4" in page.text
    assert page.text.count("<b>class</b>") > 10 and FOLDER in page.text
    assert any(attributes.get("alt", "").startswith("<i>") for tag, attributes in page.tags if tag == "img")


def test_nothing_asks_the_network(made: Made) -> None:
    html = render(made.program.report, made.program.report.source, made.judged, made.timing)  # type: ignore[arg-type]
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "a"}
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", html)
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all("href" not in attributes for _, attributes in page.tags)


def test_accuracy(page: Page, made: Made) -> None:
    judged, labels = made.judged, torch.arange(16) % 10
    assert judged.reference is not None and judged.reference.logits is not None
    rows = {row[0]: row[1:] for row in page.table("16 images")}
    right = [int((answers.classes == labels).sum()) for answers in (judged.reference, judged.integer)]
    assert rows["Top-1"] == [f"{100 * n / 16:.1f} % ({n} of 16)" for n in right]
    ranks = judged.reference.logits.argsort(1, descending=True)[:, :5]
    top5 = sum(int(label) in row for label, row in zip(labels, ranks.tolist(), strict=True))
    assert rows["Top-5"][0] == f"{100 * top5 / 16:.1f} % ({top5} of 16)"
    same = int((judged.reference.classes == judged.integer.classes).sum())
    assert rows["Same answer"][1] == f"{100 * same / 16:.1f} % ({same} of 16)" and same < 16
    assert float(rows["Divergence"][1].removesuffix(" nats")) > 0


def test_pictures_of_changed_answers(page: Page, made: Made) -> None:
    changed = made.judged.changes()
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(changed) > 0
    content = base64.b64decode((pictures[0]["src"] or "").partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (128, 128) and len(content) < 16_000
    assert pictures[0]["alt"] == made.judged.folder.files[changed[0].index].name
    assert f"float: {NAMES[changed[0].before]} program: {NAMES[changed[0].after]}" in page.text


def test_what_is_outside(page: Page) -> None:
    rows = page.table("outside of all delegates")
    assert rows[1][0] == "aten::cumsum" and "no integer operator" in rows[1][2]
    assert "1 operator outside" in page.text


def test_what_another_backend_takes(made: Made) -> None:
    def operators(*modules: str) -> tuple[OutsideOperator, ...]:
        return tuple(OutsideOperator("gelu", "aten::gelu", "<none>", module) for module in modules)

    taken = Fallback("XnnpackBackend", 2, operators("neck"))
    many = operators(*(f"blocks.{i}.mlp" for i in range(6)))
    report = dataclasses.replace(made.program.report, fallbacks=(taken,), outside=many)
    assert report.source is not None
    page = Page(render(report, report.source))
    assert page.table("In float in XnnpackBackend: 1 operator in 2 calls")[1] == ["aten::gelu", "neck", "<none>"]
    lines = page.table("6 outside of all delegates")
    assert lines[1:] == [["6 aten::gelu", "blocks.*.mlp (6 modules)", "<none>"]]
    assert "Nothing is outside" not in page.text


def test_where_time_goes(page: Page, made: Made) -> None:
    rows = page.table("profiled runs")[1:]
    counts = {row[0]: int(row[1]) for row in rows}
    assert counts["softmax"] == 2 and counts["patch_embedding"] == 1
    assert sum(float(row[3].removesuffix(" %")) for row in rows) == pytest.approx(100, abs=1)
    assert f"{made.timing.latency:.2f} ms" in page.text


def test_operators_and_grids(page: Page, made: Made) -> None:
    operators = page.table("In the order of execution")[1:]
    fc2 = next(row for row in operators if row[0] == "vit.blocks.1.fc2")
    assert fc2[1:6] == ["linear_add", "stream 2", "48 × 96", "4", "2.2 KiB"] and 0 < float(fc2[6]) < 60
    assert operators[0][1:3] == ["quantize", "image"] and operators[0][3:6] == ["", "", ""]
    assert page.table("Signal-to-noise")[1][0] == "0" and len(page.table("Signal-to-noise")) == 3
    grids = {(row[0], row[1]): row[2:] for row in page.table("value = scale")[1:]}
    grid = grids["vit.blocks.0.norm1", "norm 1"]
    assert grid[:2] == ["4", "int8, -8 to 7"] and float(grid[3]) > 0
    assert grids["vit.blocks.0.attention", "probabilities"][:2] == ["4", "uint8, 0 to 15"]
    assert grids["vit.blocks.1.fc2", "stream 2"][:3] == ["16", "int16, -32768 to 32767", "0"]


def test_weights_are_those_of_the_file(made: Made) -> None:
    found = [row.weights for row in operator_rows(made.program.integer_module) if row.weights]
    written = [(layer.shape, layer.weight_bits, layer.weight_bytes) for layer in describe(made.program.buffer).layers]
    assert [(weights.shape, weights.bits, weights.size) for weights in found] == written
    assert {weights.bits for weights in found} == {4, 8}


def test_grids_of_other_kinds() -> None:
    shifted = _grid(ResidualGrid(0.5, torch.tensor([0, 3], dtype=torch.uint8), torch.int8))
    assert shifted == {
        "codes": "int8, -128 to 127",
        "bits": 8,
        "scale": "0.5, times 1 to 8 by channel",
        "zero_point": 0,
    }
    assert _grid(ProbabilityGrid(log2=False))["codes"] == "uint8, 0 to 255"
    assert _grid(OffsetGrid(0.5, torch.tensor([1.0, 2.0])))["scale"] == "0.5, and 1, 2 for code 0"


def test_a_program_and_nothing_else(bare: Program) -> None:
    page = page_of(bare)
    assert (
        "A quantised model" in page.text and "Not evaluated." in page.text and "Nothing is outside of it." in page.text
    )
    assert "no operators outside" in page.text and "Input uint8 1 × 32 × 32 × 3" in page.text
    assert not any("Signal" in caption or "profiled" in caption for caption in page.tables)
    assert page.table("In the order of execution")[0][-1] == "Size"


def test_blocks_of_a_swin() -> None:
    """Attention in windows, behind which only a reshape stands for the float model's value, has its error too."""
    x = images(2)
    program = export(timm_swin(), (x[:1],), x, bits=8, method=CHEAP, compared=x[:1])
    roles, *blocks = page_of(program).table("Signal-to-noise ratio in dB")
    assert len(blocks) == 4
    for cells in blocks:
        assert 20 < float(cells[roles.index("attention")]) < 100
        assert all(cells[roles.index(role)] for role in ROLES if role in roles and role not in ("norm", "linear"))
    rows = {row.role: row for row in operator_rows(program.integer_module)}
    assert rows["attention"].codes and rows["pooling"].codes


def test_figures_of_embeddings(bare: Program) -> None:
    page = page_of(bare, figures=[("cosine to float", "0.9 <least>")])
    assert page.table("--evaluate") == [["cosine to float", "0.9 <least>"]] and "Not evaluated" not in page.text


def test_times_that_cannot_be_told(bare: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(model: runtime.Model) -> None:
        raise PackQViTError("2 calls <&>")

    monkeypatch.setattr(runtime.Model, "operator_times", several)
    bare.save(tmp_path / "a.pte")
    timing = Timing.of(tmp_path / "a.pte", runs=1)
    page = page_of(bare, timing=timing)
    assert f"One run takes {timing.latency:.2f} ms. There are no times of operators: 2 calls <&>." in page.text


def test_headings_and_tables_for_screen_readers(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(page.tables) and len(page.tables) >= 7
    assert sum(tag == "table" for tag, _ in page.tags) == len(page.tables)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def judgement(before: list[int], after: list[int], labels: list[int], made: Made) -> Judgement:
    def answers(classes: list[int]) -> Answers:
        return Answers(torch.tensor(classes), None)

    folder = dataclasses.replace(made.judged.folder.take(range(len(labels))), labels=tuple(labels))
    return Judgement(folder, made.judged.preprocessing, answers(after), answers(before))


def test_changes_and_confusions(made: Made) -> None:
    judged = judgement(before=[0, 0, 1, 2, 2], after=[0, 1, 0, 1, 1], labels=[0, 0, 0, 0, 2], made=made)
    assert judged.changes() == [
        Change(1, 0, 0, 1), Change(4, 2, 2, 1), Change(2, 0, 1, 0), Change(3, 0, 2, 1)
    ]  # fmt: skip
    assert [change.kind for change in judged.changes()] == ["lost", "lost", "won", "wrong before and after"]
    assert judged.confusions(9) == [Confusion(0, 1, 1, 2), Confusion(0, 2, 1, 0), Confusion(2, 1, 0, 1)]
    assert judged.confusions(1) == [Confusion(0, 1, 1, 2)]
    assert judged.top5(judged.integer) is None and judged.divergence() is None and judged.name(3) == "class 3"


def test_only_best_classes_are_known(made: Made) -> None:
    page = page_of(made.program, judged=judgement([0, 1], [0, 0], [0, 1], made))
    assert [row[0] for row in page.table("2 images")[1:]] == ["Top-1", "Same answer"]


def test_no_answer_changed(made: Made) -> None:
    page = page_of(made.program, judged=judgement([0, 1], [0, 1], [0, 0], made))
    assert "None: to each of the 2 images the program says what the float model says." in page.text


def test_the_float_model_was_not_asked(made: Made) -> None:
    judged = dataclasses.replace(made.judged, reference=None)
    page = page_of(made.program, judged=judged)
    assert page.table("16 images")[0] == ["", "This program"] and "Changed answers" not in page.text


def test_comparing_changes_no_bit(made: Made) -> None:
    x = images(8)
    alone = export(made.model, (x[:1],), x, bits=4, method=CHEAP, metadata=made.program.report.source.metadata)  # type: ignore[union-attr]
    assert alone.buffer == made.program.buffer
    assert alone.report == made.program.report and alone.report.source is not None and not alone.report.source.losses


def test_losses_name_their_operators(made: Made) -> None:
    source = made.program.report.source
    assert source is not None and source.losses is not None
    softmax = [n.name for n in find(source.integer_module, torch.ops.packqvit.softmax.default)]
    assert [loss.node for loss in source.losses.operators if loss.role == "probabilities"] == softmax


def test_saving(made: Made, tmp_path: Path) -> None:
    made.program.report.save(tmp_path / "a.HTML", made.judged, made.timing)
    assert Page((tmp_path / "a.HTML").read_text(encoding="utf-8")).table("profiled runs")


def test_bad_places(made: Made, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    for path, reason in (
        (tmp_path / "gone" / "a.html", "there is no folder .*gone for a.html"),
        (tmp_path / "a.txt", "a.txt is a web page: its name has to end in .html"),
        (tmp_path / "folder.html", "is a folder: give the name of a file"),
    ):
        for refuse in (check_page, made.program.report.save):
            with pytest.raises(PackQViTError, match=reason):
                refuse(path)
    with pytest.raises(PackQViTError, match="of an edge program alone"):
        DelegationReport(1, 2, ()).save(tmp_path / "a.html")


def test_kinds_of_operators_add_up() -> None:
    times = [
        OperatorTime(f"packqvit_{name}", 1, ms) for name, ms in (("a_default", 1), ("b_default", 5), ("a_default_1", 3))
    ]
    assert [(kind.kind, kind.count, kind.total) for kind in by_kind(times)] == [("b", 1, 5), ("a", 2, 4)]
