"""Pages that are not written by hand: the reference, the notebooks, and the files at the root of the repository."""

from __future__ import annotations

import ast
import json
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = (
    "processes",
    "predictions",
    "oracles",
    "objectives",
    "samplers",
    "control",
    "networks",
    "parametrization",
    "distributed",
    "training",
    "importing",
    "data",
    "metrics",
    "plots",
    "cli",
    "tree",
)
ADOPTED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "tpu.md": "TPU_SETUP.md"}


def pages() -> dict[str, str]:
    """Address below docs/ -> Markdown."""
    made = {f"reference/{room}.md": reference_page(room) for room in ROOMS}
    made |= {address: adopted_page(ROOT / source) for address, source in ADOPTED.items()}
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return made | {f"tutorials/{path.stem}.md": notebook_page(path) for path in notebooks}


def reference_page(room: str) -> str:
    """A room's chapter and public names, then what the static reader would overlook.

    A function that bears its file's name, like `samplers.run`, hides behind the file; a public module, like
    `samplers.grids`, is a name without members of its own.
    """
    sections = [f"# gendyn.{room}", f"::: gendyn.{room}"]
    options = "    options: { heading_level: 3, show_root_heading: true }"
    for path in overlooked(room):
        sections += [f"## `{path.rsplit('.', 1)[-1]}`", f"::: {path}\n{options}"]
    return "\n\n".join(sections) + "\n"


def overlooked(room: str) -> list[str]:
    """Full paths of functions named like their file, and of public modules."""
    init = ROOT / "gendyn" / room / "__init__.py"
    if not init.exists():
        return []
    files = {path.stem for path in init.parent.glob("*.py")}
    paths = []
    for node in ast.walk(ast.parse(init.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"gendyn.{room}"):
            paths += [f"{node.module}.{alias.name}" for alias in node.names if alias.name in files]
    return paths


def notebook_page(path: pathlib.Path) -> str:
    """A notebook's cells as Markdown, code as Python blocks."""
    cells = json.loads(path.read_text())["cells"]
    text = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for source, kind in text)


def adopted_page(path: pathlib.Path) -> str:
    """A file of the root as a page: its links into docs/ become links between pages."""
    return re.sub(r"\]\(docs/", "](", path.read_text())


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for address, content in pages().items():
        files.append(File.generated(config, address, content=content))
    return files
