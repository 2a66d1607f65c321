"""What the site does differently from the files: links that leave docs/ lead to the repository, or are plain text.

MkDocs calls the functions here by their names; `mkdocs.yml` names this file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page's text with links that a site can follow; of changes.md the changelog's."""
    if page.file.src_uri == "changes.md":
        markdown = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), target))
        if not path.startswith("../"):
            return match[0]
        return f"[{text}]({config.repo_url}/blob/main/{path[3:]}{anchor})" if config.repo_url else text

    return _LINK.sub(linked, markdown)
