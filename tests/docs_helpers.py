"""What the tests of README and docs read: pages, code blocks, links, headings."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
EXTENSIONS = DOCS / "_ext"
sys.path.insert(0, str(EXTENSIONS))

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "validation").glob("*.md")),
    *sorted(p for p in DOCS.rglob("*.md") if not {"_generated", "_build"} & set(p.parts)),
]
FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def page_name(page: Path) -> str:
    """Return a page's path in the project."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of these languages."""
    found = [Block(m[3].strip(), m[4]) for m in FENCE.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


def shell_commands(page: Path) -> list[str]:
    """Return the commands of a page: the lines of its console blocks that begin with "$ "."""
    lines = [line for block in blocks(page, "console") for line in block.text.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")]


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = FENCE.sub("", page.read_text())
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """Return the targets of all Markdown links and images, and of included images."""
    text = FENCE.sub("", page.read_text())
    directives = re.findall(r"^```\{image\} (\S+)", page.read_text(), flags=re.MULTILINE)
    return [*re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]*`", "`", text)), *directives]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.strip().lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def notebook_text(path: Path) -> str:
    """Return the Markdown cells of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
