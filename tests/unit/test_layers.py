"""Who may import whom: schemas <- runners <- consumer, and each foreign library in its one place."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
BELOW: Final = {
    "schemas": frozenset[str](),
    "runners": frozenset({"schemas"}),
    "consumer": frozenset({"schemas", "runners"}),
}
"""The packages that each package may import."""
MODULES: Final = [
    path.relative_to(ROOT).as_posix() for package in BELOW for path in sorted((ROOT / package).rglob("*.py"))
]


def imports(module: str) -> Iterator[ast.Import | ast.ImportFrom]:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"), filename=module)
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def imported_modules(module: str) -> set[str]:
    """Return the modules that a module imports absolutely, at its top or inside a function."""
    names: set[str] = set()
    for node in imports(module):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif node.level == 0:
            names.add(node.module or "")
    return names


def imported_packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported_modules(module)}


def importers_of(package: str) -> set[str]:
    return {module for module in MODULES if package in imported_packages(module)}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    """A module imports only from its own top-level package and those below it."""
    top = module.partition("/")[0]
    assert imported_packages(module) & BELOW.keys() <= BELOW[top] | {top}


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_relative_inside_a_package_and_absolute_across(module: str) -> None:
    """A neighbour is imported with one dot, everything else by its full name."""
    package = module.rpartition("/")[0].replace("/", ".")
    assert not any(f"{name}.".startswith(f"{package}.") for name in imported_modules(module))
    assert all(node.level <= 1 for node in imports(module) if isinstance(node, ast.ImportFrom))


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("schemas/")])
def test_schemas_need_only_msgspec_and_the_standard_library(module: str) -> None:
    """The schemas import nothing else, so that any program can use them."""
    assert imported_packages(module) <= {*sys.stdlib_module_names, "msgspec"}


def test_only_the_consumer_knows_nats() -> None:
    """Neither schemas nor runners import nats."""
    assert all(module.startswith("consumer/") for module in importers_of("nats"))


@pytest.mark.parametrize(
    ("package", "place"),
    [
        ("opentelemetry", "consumer/telemetry/"),
        ("docker", "runners/docker/sdk.py"),
        ("httpx", "runners/http/"),
        ("httpcore", "runners/http/"),
    ],
)
def test_a_foreign_library_is_imported_in_its_one_place(package: str, place: str) -> None:
    """Telemetry, Docker and HTTP each have one module, or one package, that knows the library."""
    assert all(module.startswith(place) for module in importers_of(package))


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("schemas", "anyio nats docker httpx opentelemetry"),
        ("runners", "nats docker httpx opentelemetry"),
        ("runners.registry", "nats docker httpx opentelemetry"),
        ("consumer", "docker httpx opentelemetry"),
    ],
)
def test_importing_a_package_loads_no_library_it_may_not_need(package: str, unwanted: str) -> None:
    """Docker and HTTP are loaded only when a task needs them, and nats only by the consumer."""
    program = f"import sys, {package}; print(*sorted(set({unwanted.split()}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == []
