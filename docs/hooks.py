"""Pages that exist once, elsewhere: the notebook and the files at the root of the repository."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADOPTED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "tpu.md": "TPU_SETUP.md"}


def notebook_page(path: pathlib.Path) -> str:
    """A notebook's cells as Markdown, code as Python blocks."""
    cells = json.loads(path.read_text())["cells"]
    text = [("".join(c["source"]), c["cell_type"]) for c in cells]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for source, kind in text)


def adopted_page(path: pathlib.Path) -> str:
    """A file of the root as a page: its links into docs/ become links between pages."""
    return re.sub(r"\]\(docs/", "](", path.read_text())


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = {name: adopted_page(ROOT / source) for name, source in ADOPTED.items()}
    pages["tutorials/quickstart.md"] = notebook_page(ROOT / "notebooks" / "quickstart.ipynb")
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files
