"""The house rules that a reader relies on: names, packages, and commands that answer before torch is loaded."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = SETTINGS["tool"]["setuptools"]["packages"]
TOP_PACKAGES = [package for package in PACKAGES if "." not in package]


def modules_of(package: str) -> list[str]:
    """Dotted names of a package's modules, without its subpackages' own."""
    folder = ROOT / package.replace(".", "/")
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


MODULES = [module for package in [*PACKAGES, "benchmarks"] for module in modules_of(package)]
COMMANDS = [name for name in MODULES if "\n    run_command(" in (ROOT / f"{name.replace('.', '/')}.py").read_text()]


def run_python(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_package_is_listed_for_installation():
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in TOP_PACKAGES for path in (ROOT / top).rglob("*.py")
    }
    assert found == set(PACKAGES)
    assert all((ROOT / package.replace(".", "/") / "__init__.py").is_file() for package in PACKAGES)


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_module_hides_one_of_the_standard_library_and_none_is_a_drawer():
    names = {module.rsplit(".", 1)[-1] for module in MODULES}
    assert not names & set(sys.stdlib_module_names)
    assert not names & {"utils", "util", "common", "misc", "helpers", "helper"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_a_module_even_when_every_module_is_imported(package):
    for name in MODULES:
        importlib.import_module(name)
    module = importlib.import_module(package)
    public = list(getattr(module, "__all__", []))
    assert len(set(public)) == len(public) and set(public) <= set(dir(module))
    offered_as_modules = set(getattr(module, "_MODULES", ()))
    assert offered_as_modules <= {name.rsplit(".", 1)[-1] for name in modules_of(package)}
    public = [name for name in public if name not in offered_as_modules]
    assert not set(public) & {name.rsplit(".", 1)[-1] for name in modules_of(package)}
    assert not [name for name in public if isinstance(getattr(module, name), ModuleType)]


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_of_a_package_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(package).no_such_name  # noqa: B018


def imports_of(module: str) -> set[str]:
    """Our modules that a module imports anywhere in it, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & {*MODULES} - {module}


def test_no_modules_import_each_other_also_by_way_of_others():
    below = {module: imports_of(module) for module in MODULES}
    while leaves := [module for module, names in below.items() if not names]:
        for leaf in leaves:
            del below[leaf]
        below = {module: names - {*leaves} for module, names in below.items()}
    assert below == {}, f"these import each other: {below}"


def test_importing_the_packages_imports_no_torch():
    code = f"import sys, {', '.join(PACKAGES)}; sys.exit('torch' in sys.modules)"
    assert run_python("-c", code).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_flag_without_importing_torch(command):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stopped: status = stopped.code\n"
        "sys.exit(status or ('torch' in sys.modules and 'imports torch'))"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Example: python -m " + command in done.stdout
    flags = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(flags) > 6 and all(re.search(r"\(needed|default: ", line) for line in flags)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_flag_is_refused_in_one_line(command):
    done = run_python("-m", command, "--devise", "cpu")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown flag --devise; did you mean --device?\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("words", "count"),
    [(("demo",), 8), (("demo", "SCALE=smoke", "DATA=ucf101", "ROOT=some where"), 8), (("bench", "SMOKE=1"), 1)],
)
def test_every_command_of_the_demo_and_the_benchmark_is_valid(words, count):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    ).stdout
    lines = re.findall(r"-m ((?:tokenizer|generator|eval|benchmarks)\.\w+ .*)", shown)
    assert len(lines) == count and ("SMOKE=1" not in words or lines[0].endswith("--smoke"))
    for line in lines:
        done = subprocess.run(
            f"{sys.executable} -m {line} --dry-run", shell=True, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_an_unknown_scale_is_refused_before_any_work():
    done = subprocess.run(["make", "demo", "SCALE=quik"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "SCALE=quik is not known; use smoke, quick or long" in done.stderr
