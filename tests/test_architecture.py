"""The import contract and a few habits, checked on the syntax tree of every file.

Two columns, mathematics (processes -> oracles, objectives, samplers -> control) and machinery (networks,
parametrization, distributed, data, metrics), meet only in training and above: a sampler study runs without a network,
a width study without a process.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "gendyn"
FILES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"tree", "phi", "typing", "conditions", "files", "tables", "jaxprs"}
DYNAMICS = {"processes", "predictions"}
MATHEMATICS = GROUND | DYNAMICS | {"oracles", "objectives", "samplers", "control"}
MACHINERY = {"networks", "parametrization", "distributed", "data", "metrics"}

MAY_IMPORT = {
    "tree": set(),
    "typing": set(),
    "files": set(),
    "tables": {"files"},
    "phi": {"tree"},
    "jaxprs": set(),
    "conditions": set(),
    "processes": GROUND,
    "predictions": GROUND | {"processes"},
    "oracles": GROUND | DYNAMICS,
    "objectives": GROUND | DYNAMICS,
    "samplers": GROUND | DYNAMICS,
    "control": MATHEMATICS,
    "networks": {"tree", "jaxprs", "conditions", "parametrization.axes", "distributed"},
    "parametrization": {"tree", "files", "jaxprs"},
    "distributed": {"tree", "files"},
    "data": GROUND,
    "metrics": GROUND,
    "training": MATHEMATICS | MACHINERY,
    "plots": MATHEMATICS | MACHINERY | {"training"},
    "importing": MATHEMATICS | MACHINERY | {"training"},
    "cli": MATHEMATICS | MACHINERY | {"training", "plots", "importing", "__version__"},
    "__main__": {"cli"},
    "__init__": MATHEMATICS | MACHINERY | {"training", "plots", "importing"},
}
"""Room -> what it may import of gendyn, besides itself."""

ONLY_IN = {
    "flax": {"networks"},
    "optax": {"training", "parametrization"},
    "orbax": {"training"},
    "diffrax": {"samplers/adaptive.py", "samplers/likelihood.py"},
    "lineax": {"control", "samplers/adaptive.py"},
    "grain": {"data"},
    "array_record": {"data"},
    "ott": {"processes/couplings.py", "metrics", "data"},
    "sklearn": {"data", "metrics"},
    "pyarrow": {"data", "tables"},
    "PIL": {"data", "plots"},
    "matplotlib": {"plots"},
    "tyro": {"cli"},
    "rich": {"cli", "training"},
    "tensorboardX": {"training"},
    "wandb": {"training"},
    "pickle": set(),
    "pickletools": {"importing"},
    "safetensors": {"importing"},
    "torch": set(),
    "equinox": set(),
    "pandas": set(),
}
"""Dependency -> the rooms or files that may import it (lazily or not)."""


def room(file):
    """The first part of a file's path inside the package, without .py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file):
    """Absolute names of everything a file imports, wherever in the file; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def outside(name, allowed):
    """Whether a name of gendyn (without the package) is neither an allowed module nor inside one."""
    return not any(name == a or name.startswith(a + ".") for a in allowed)


@pytest.fixture(params=FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def file(request):
    return request.param


def test_rooms_import_downwards_only(file):
    allowed = MAY_IMPORT[room(file)] | {room(file)}
    used = {name.removeprefix("gendyn.") for name in imports(file) if name.startswith("gendyn.")}
    assert not {name for name in used if outside(name, allowed)}


def test_heavy_dependencies_stay_in_their_rooms(file):
    path = str(file.relative_to(PACKAGE))
    for name in imports(file):
        places = ONLY_IN.get(name.split(".")[0])
        assert places is None or room(file) in places or path in places, f"{path} imports {name}"


def test_rooms_do_not_reach_into_each_others_private_names(file):
    used = [name.split(".")[1:] for name in imports(file) if name.startswith("gendyn.")]
    foreign = [parts for parts in used if parts[0] != room(file) and parts != ["__version__"]]
    assert not [parts for parts in foreign if any(part.startswith("_") for part in parts)]


def test_names_of_arguments_say_which_end_is_data(file):
    """x0 and x1 mean opposite things in the two halves of the literature: neither is ever an argument."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            names = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            assert not names & {"x0", "x1", "x_0", "x_1"}


def test_every_file_opens_with_a_docstring(file):
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_files_are_no_drawers_and_touch_no_global_switch(file):
    assert file.stem not in {"utils", "util", "helpers", "misc", "common_utils"}
    assert "jax_enable_x64" not in file.read_text()


@pytest.mark.parametrize("front", [f for f in FILES if f.name == "__init__.py" and f.parent != PACKAGE], ids=room)
def test_rooms_list_their_public_names(front):
    """A room's front door holds its chapter, imports, lists and `__all__`; nothing is defined there."""
    body = ast.parse(front.read_text()).body
    imported = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assigned = [node for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]
    assert not [n for n in body if n not in imported + assigned and not isinstance(n, ast.Expr)]
    values = {(n.target if isinstance(n, ast.AnnAssign) else n.targets[0]).id: n.value for n in assigned}
    bound = {alias.asname or alias.name for node in imported for alias in node.names} | values.keys()
    assert set(ast.literal_eval(values["__all__"])) <= bound


def test_every_room_has_its_line_in_the_contract():
    assert {room(file) for file in FILES} <= MAY_IMPORT.keys()


def test_the_contract_can_be_broken(tmp_path):
    forbidden = tmp_path / "file.py"
    forbidden.write_text("def f():\n    from gendyn.networks import DiT\n")
    (name,) = imports(forbidden)
    assert outside(name.removeprefix("gendyn."), MAY_IMPORT["samplers"])
    assert outside("parametrization.table", MAY_IMPORT["networks"])
    assert not outside("parametrization.axes.role", MAY_IMPORT["networks"])
