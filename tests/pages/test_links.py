"""Every link of the pages leads somewhere, and every message that a page quotes is one that the code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = ["packqvit_delegate", "passes"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(#([^)\s]*))?\)", page.read_text()):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name} links to {target}#{anchor}"


def test_quoted_messages_are_in_the_code() -> None:
    """Troubleshooting quotes messages; three dots stand for what differs."""
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    code = re.sub(r'"\s*(#[^\n]*)?\s*f?"', "", "".join(path.read_text() for path in files))
    page = " ".join((ROOT / "docs" / "troubleshooting.md").read_text().split())
    quotes = re.findall(r'\*\*"(.*?)"\*\*', page)
    assert len(quotes) >= 5
    for quote in quotes:
        for part in quote.split("..."):
            assert part.strip() in code, quote
