"""The direction of imports, read from the syntax trees: who may know whom, and who never imports what."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room may import the rooms named beside it (and itself). The order is that of the design: what stands lower knows
# nothing of what stands higher.
GROUND = {"domain", "calculus", "transforms", "files", "parallel", "progress"}
ROOMS = {
    **{room: set() for room in GROUND},
    "results": {"files"},
    "conditions": {"calculus", "domain"},
    "unknown": {"calculus"},
    "bounded": {"domain", "conditions"},
    "problem": {"bounded", "calculus", "domain", "conditions", "unknown"},
    "activations": {"calculus"},
    "initialisations": {"activations"},
    "laplacian": {"activations"},
    "propagation": {"calculus", "activations", "laplacian"},
    "networks": {"calculus", "activations", "initialisations", "propagation"},
    "hard": {"calculus", "domain", "networks"},
    "theory": {"calculus", "domain", "networks", "results", "files"},
    "solution": {"networks", "hard", "results", "files"},
}
ROOMS["objective"] = {"problem", *ROOMS["problem"]}
ROOMS["stages"] = {"objective", *ROOMS["objective"]}
ROOMS["training"] = {"stages", "objective", "results", "files", "progress"}
ROOMS["optimizers"] = {"stages", "objective", "networks", "activations", *ROOMS["objective"]}
ROOMS["expert"] = {"activations", "networks"}
ROOMS["flowmap"] = {"expert", "transforms", "networks", "activations", "training", "optimizers", "files", "results"}
ROOMS["ensemble"] = {"training", *ROOMS["training"]}
ROOMS["archive"] = {"files"}
ROOMS["search"] = {"parallel", "archive"}
ROOMS["proposers"] = {"archive", "ensemble", "search"}
ROOMS["kriging"] = set()
ROOMS["integer"] = {"archive", "kriging", "search"}
BELOW_SOLVERS = set(ROOMS)
ROOMS["solvers"] = BELOW_SOLVERS
ROOMS["chemistry"] = BELOW_SOLVERS - {"problem", "bounded", "conditions", "unknown", "objective", "domain"}
ROOMS["options"] = set()
ROOMS["report"] = {"results", "solution"}
ROOMS["own"] = {"problem", "report", "results", "solution", "solvers"}
ROOMS["catalogue"] = {"options", "own"}
ROOMS["experiments"] = {"catalogue", "files", "options", "results", "solution"}
ROOMS["commands"] = {"chemistry", "options", "progress"}
ROOMS["__main__"] = {"catalogue", "commands", "experiments", "files", "options", "results"}
ROOMS["__init__"] = set(ROOMS)  # under TYPE_CHECKING; at run time it imports nothing


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(tree, package):
    """(full dotted name, whether at module level) of every import that happens at run time.

    `package` is the dotted name of the package that the file lies in, for relative imports.
    """
    found = []

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                for other in child.orelse:
                    visit(ast.Module([other], []), top)
            elif isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - child.level + 1]) if child.level else ""
                module = ".".join(p for p in (base, child.module) if p)
                found.extend((f"{module}.{alias.name}", top) for alias in child.names)
            else:
                visit(child, top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(tree, True)
    return found


def calls(tree):
    """Dotted names of everything that is called."""
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def violations(source, path):
    """What a file of the package does against the rules; `path` is its path below the checkout."""
    tree, parts = ast.parse(source), Path(path).with_suffix("").parts
    room = parts[1] if parts[0] == "sciml" else parts[0]
    found = []
    for name, top in imports(tree, ".".join(parts[:-1])):
        where = f"{path} imports {name}"
        outer, _, rest = name.partition(".")
        if outer == "sciml":
            target = rest.split(".")[0]
            public = (ROOT / "sciml" / f"{target}.py").exists() or (ROOT / "sciml" / target).is_dir() or target in ROOMS
            if room == "problems":
                if public and rest.count(".") and rest.split(".")[-1].startswith("_"):
                    found.append(f"{where}, a private name")
            elif not public:
                found.append(f"{where}, through the front door: a room names the room it needs")
            elif target != room and target not in ROOMS.get(room, set()):
                found.append(f"{where}, against the direction of imports")
        if outer == "cantera" and path != "sciml/chemistry/mechanism.py":
            found.append(f"{where}, but only chemistry/mechanism.py knows cantera")
        if outer == "matplotlib" and top:
            found.append(f"{where} at module level")
        if (
            outer == "torch"
            and top
            and room in {"__main__", "catalogue", "commands", "experiments", "options", "__init__"}
        ):
            found.append(f"{where} at module level, so the command would be slow to answer")
        if outer in {"pickle", "dill", "joblib", "shelve", "marshal"}:
            found.append(f"{where}: files hold arrays and JSON, never code")
    for name, _ in calls(tree):
        if name in {
            "eval",
            "exec",
            "compile",
            "__import__",
            "torch.load",
            "torch.save",
            "builtins.eval",
            "builtins.exec",
        }:
            found.append(f"{path} calls {name}")
        lazy = Path(path).stem == "__init__" or room in {"solution", "catalogue"}
        if name.split(".")[-1] == "import_module" and not lazy:
            found.append(f"{path} imports by string")
    if any(isinstance(n, ast.keyword) and n.arg == "allow_pickle" for n in ast.walk(tree)):
        found.append(f"{path} allows pickle")
    return found


def files():
    return sorted(p for folder in ("sciml", "problems", "data") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_keeps_the_direction(path):
    assert violations(path.read_text(), path.relative_to(ROOT).as_posix()) == []


def test_every_room_has_a_place():
    rooms = {p.stem for p in (ROOT / "sciml").glob("*.py")} | {p.parent.name for p in (ROOT / "sciml").glob("*/*.py")}
    assert rooms <= set(ROOMS), "give the new room its place in the table above"


def test_the_table_has_no_circle():
    done: set[str] = set()
    rooms = set(ROOMS) - {"__init__"}
    while rooms - done:
        ready = {room for room in rooms - done if ROOMS[room] <= done}
        assert ready, f"these know each other in a circle: {rooms - done}"
        done |= ready


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("sciml/problem.py", "from sciml.training import fit", "against the direction"),
        ("sciml/domain/sets.py", "from ..problem import PDE", "against the direction"),
        ("sciml/calculus.py", "def f():\n    import sciml.networks", "against the direction"),
        ("sciml/chemistry/surrogate.py", "from sciml.solvers.mscale import MscaleSolver", "against the direction"),
        ("sciml/solvers/mscale.py", "from sciml import chemistry", "against the direction"),
        ("sciml/theory/rank.py", "from sciml.training import fit", "against the direction"),
        ("sciml/solvers/mscale.py", "from sciml import Box", "front door"),
        ("sciml/chemistry/sampling.py", "import cantera as ct", "only chemistry/mechanism.py"),
        ("problems/poisson.py", "import cantera", "only chemistry/mechanism.py"),
        ("problems/poisson.py", "from sciml.solution import _FIELDS", "private name"),
        ("problems/poisson.py", "import matplotlib.pyplot as plt", "module level"),
        ("sciml/theory/rank.py", "class A:\n    from matplotlib import cm", "module level"),
        ("sciml/__main__.py", "import torch", "slow to answer"),
        ("sciml/networks.py", "import pickle", "never code"),
        ("sciml/networks.py", "import torch\ntorch.load('f')", "calls torch.load"),
        ("sciml/networks.py", "eval('1')", "calls eval"),
        ("sciml/networks.py", "import numpy\nnumpy.load('f', allow_pickle=True)", "allows pickle"),
        ("sciml/networks.py", "import importlib\nimportlib.import_module('x')", "by string"),
    ],
)
def test_the_rules_catch(path, source, complaint):
    found = violations(source, path)
    assert len(found) == 1 and complaint in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sciml/problem.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sciml.training import fit"),
        ("sciml/solvers/mscale.py", "from sciml.solvers.features import f\nfrom .features import g\nmodel.eval()"),
        (
            "problems/poisson.py",
            "from sciml import Box\nfrom sciml.training import Adam\ndef f():\n    import matplotlib",
        ),
        ("sciml/chemistry/mechanism.py", "import cantera"),
    ],
)
def test_the_rules_allow(path, source):
    assert violations(source, path) == []
