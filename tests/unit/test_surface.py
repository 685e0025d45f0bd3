"""What each package offers: `__all__` is sorted, importable and complete."""

import ast
import importlib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for top in ("schemas", "runners", "consumer")
    for path in sorted((ROOT / top).rglob("__init__.py"))
]


def declared(package: str) -> list[str]:
    return list(getattr(importlib.import_module(package), "__all__", []))


def defined(package: str) -> set[str]:
    """Return the public names that a package's `__init__` imports from itself, defines or assigns."""
    source = ROOT.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.parse(source).body:
        match node:
            case ast.ImportFrom(names=aliases, level=level) if level > 0:
                names.update(alias.asname or alias.name for alias in aliases)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return {name for name in names if not name.startswith("_")}


def isort_order(name: str) -> tuple[int, str]:
    """Sort constants before classes before functions, as ruff does (RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_without_repetition(package: str) -> None:
    """`__all__` is in order, so that a name is found and added in one place."""
    assert declared(package) == sorted(set(declared(package)), key=isort_order)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_in_all_can_be_imported(package: str) -> None:
    """`from package import *` works."""
    module = importlib.import_module(package)
    assert [name for name in declared(package) if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_complete(package: str) -> None:
    """What `__init__` brings in is what the package offers: nothing is missing from `__all__`."""
    assert defined(package) <= set(declared(package))


def test_every_public_class_of_the_schemas_is_offered() -> None:
    """A message, or a part of one, is importable from `schemas` itself."""
    module = importlib.import_module("schemas")
    for name in ("task", "result", "event", "control"):
        part = importlib.import_module(f"schemas.{name}")
        classes = {key for key, value in vars(part).items() if getattr(value, "__module__", "") == part.__name__}
        classes = {key for key in classes if isinstance(vars(part)[key], type) and not key.startswith("_")}
        assert classes <= set(module.__all__)
