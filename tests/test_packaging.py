"""The wheel: complete, usable away from the checkout, and with one module at the top level."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(*words, cwd, path=None):
    """Run this interpreter elsewhere, with the packages of this environment but without the editable install."""
    code = f"import sys; sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
    code += "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
    code += f"sys.path.insert(0, {str(path)!r})\n" if path else ""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code + "\n".join(words)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves a build folder beside its sources
    for name in ("sciml", "problems", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel):
    target = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_has_only_our_name_at_the_top(wheel):
    assert wheel.name.startswith("sciml_solvers-")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sciml"}


def test_the_wheel_is_complete(installed):
    def inside(folder):
        wanted = (p for end in ("py", "json", "h5", "yaml", "typed") for p in folder.rglob(f"*.{end}"))
        return {p.relative_to(folder).as_posix() for p in wanted}

    source = installed.parent / "source"
    mapped = {f"{name}/{file}" for name in ("problems", "data") for file in inside(source / name)}
    assert inside(installed / "sciml") == inside(source / "sciml") | mapped


def test_every_package_is_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "sciml").rglob("__init__.py")}
    assert folders | {"sciml.problems", "sciml.data"} == set(declared)


def test_the_installed_package_works_elsewhere(installed, tmp_path):
    found = python(
        "import sciml, sciml.problems, sciml.data, importlib.util",
        "print(sciml.__file__, sciml.problems.__file__, sciml.data.__file__, sep='\\n')",
        "assert [m for m in ('problems', 'data', 'tests') if importlib.util.find_spec(m)] == []",
        "assert 'torch' not in sys.modules",
        "assert sciml.Box([0], [1]).volume == 1 and 'torch' in sys.modules",
        cwd=tmp_path,
        path=installed,
    )
    assert [Path(line).is_relative_to(installed) for line in found.split()] == [True] * 3


def test_the_installed_command_lists_its_problems(installed, tmp_path):
    listed = python(
        "sys.argv[1:] = ['list', '--plain']",
        "import runpy",
        "runpy.run_module('sciml', run_name='__main__', alter_sys=True)",
        cwd=tmp_path,
        path=installed,
    )
    assert listed.split() == [p.stem for p in sorted((installed / "sciml" / "problems").glob("[a-z]*.py"))]


def test_every_public_name_resolves():
    import sciml

    for name in sciml.__all__:
        assert getattr(sciml, name).__name__ == name or name == "Field"
    assert set(sciml.__all__) <= set(dir(sciml))
    with pytest.raises(AttributeError, match="module 'sciml' has no attribute 'Bocks'; its names are PDE, Ball"):
        _ = sciml.Bocks


def test_the_lazy_names_are_those_that_type_checkers_see():
    import ast

    tree = ast.parse((ROOT / "sciml" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {f"{n.module}:{alias.name}" for n in block.body for alias in n.names}
    import sciml

    assert seen == {f"sciml.{room}:{name}" for room, names in sciml._ROOMS.items() for name in names}


def test_files_name_no_machine_and_no_registry():
    text = "".join((ROOT / name).read_text() for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"))
    for word in ("://", "find-links", "/root", "/tmp", "/home", "+cpu"):
        assert word not in text
