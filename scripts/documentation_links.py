"""Links of a page to files outside docs/: to the repository's web page where `repo_url` is set, else the path alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """MkDocs' event: the text of a page before it becomes HTML.

    Raises:
        FileNotFoundError: A link names a file that the repository does not have.
    """
    root = Path(config.docs_dir).parent
    folder = Path(page.file.abs_src_path).parent

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = (folder / target).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which is not there")
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{path.relative_to(root)}{anchor or ''})"
        return text

    return _LINK.sub(replaced, markdown)
