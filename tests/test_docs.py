"""What the documentation shows is true: its Python blocks run, its links lead somewhere, its table is current."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "TPU_SETUP.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^\n]*) -->\n)?```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
LEADS_LATER = {"docs/images/digits.png"}
"""Pictures that a run makes."""


def name(path):
    return str(path.relative_to(ROOT))


def blocks(path):
    """The Python blocks of a page that are meant to run."""
    return [found["code"] for found in BLOCK.finditer(path.read_text()) if not found["why"]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder in which runs/digits is a real run, two steps long."""
    from gendyn.cli import main

    folder = tmp_path_factory.mktemp("docs")
    options = {"--steps": 2, "--width": 16, "--depth": 1, "--batch-size": 32, "--out": folder / "runs" / "digits"}
    assert main(["train", "digits_edm", *(str(part) for pair in options.items() for part in pair)]) == 0
    return folder


@pytest.mark.system
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name == "README.md" else [])
        for page in PAGES
        if blocks(page)
    ],
    ids=name,
)
def test_python_blocks_run(page, request, monkeypatch, tmp_path):
    """Blocks of one page run in order, in one namespace, in a folder of their own."""
    code = blocks(page)
    needs_run = any("runs/digits" in block for block in code)
    monkeypatch.chdir(request.getfixturevalue("runs") if needs_run else tmp_path)
    module = type(sys)("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for number, block in enumerate(code, start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    made = {ROOT / "docs" / address for address in load(ROOT / "docs" / "hooks.py").pages()}
    known = made | {ROOT / path for path in LEADS_LATER}
    targets = {link: page.parent.joinpath(link).resolve() for link in LINK.findall(page.read_text())}
    assert not [link for link, path in targets.items() if path not in known and not path.exists()]


def test_generated_table_is_current():
    matrix = load(ROOT / "docs" / "matrix.py")
    table = matrix.matrix()
    stale = [name(path) for path in matrix.FILES if matrix.replaced(path.read_text(), table) != path.read_text()]
    assert not stale, "run `make matrix`"


def test_every_room_has_a_page():
    rooms = {path.parent.name for path in (ROOT / "gendyn").glob("*/__init__.py")}
    assert rooms <= set(load(ROOT / "docs" / "hooks.py").ROOMS)


@pytest.mark.system
def test_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    reference = (tmp_path / "site" / "reference" / "samplers" / "index.html").read_text()
    for path in ("gendyn.samplers.SamplerPlan", "gendyn.samplers.run.run", "gendyn.samplers.grids.karras"):
        assert f'id="{path}"' in reference


def load(path):
    """A Python file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
