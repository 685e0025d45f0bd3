"""The files that people start from: the example configuration, compose.yaml and the Dockerfile."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

import consumer
from consumer import config
from consumer.config import Config, RunnerConfig

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(consumer.__file__).with_name("example.toml")
OPTIONAL = re.compile(r"^# ([a-z_]+ = )", re.MULTILINE)
INSTALLED = ("pyproject.toml", "README.md", "LICENSE", "schemas", "runners", "consumer")


def keys(table: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, value in table.items():
        found |= keys(value, (*above, name)) if isinstance(value, dict) else {(*above, name)}
    return found


def test_the_example_says_every_default_as_it_is() -> None:
    """What it leaves as it is changes nothing."""
    loaded = config.load(EXAMPLE, {})
    assert loaded.runners == {"command": RunnerConfig()}
    assert structs.replace(loaded, runners={}) == Config()


def test_the_example_has_every_key_and_no_other(tmp_path: Path) -> None:
    """What has no default is commented out, with a value that is allowed."""
    full = tmp_path / "full.toml"
    full.write_text(OPTIONAL.sub(r"\1", EXAMPLE.read_text()))
    config.load(full, {})
    given = {tuple("<category>" if part == "command" else part for part in key) for key in keys(_read(full))}
    assert given == config._KEYS.keys()


def _read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text())


@pytest.fixture(scope="module")
def compose() -> str:
    """Have the text of compose.yaml."""
    return (ROOT / "compose.yaml").read_text()


def test_jaeger_s_settings_are_json_and_pin_the_tags_of_tasks(compose: str) -> None:
    """They stand in compose.yaml itself, as one indented block."""
    block = compose.partition("content: |\n")[2].partition("\nvolumes:")[0]
    settings = json.loads(block)
    assert settings["topTagPrefixes"][0] == "task."


def test_the_worker_s_variables_are_known(compose: str) -> None:
    """And it is given longer to stop than it takes to drain."""
    given = dict(re.findall(r"^      (JETRUNNER_\w+): \"?([^\"\n]+)", compose, re.MULTILINE))
    assert given
    loaded = config.load(EXAMPLE, given)
    grace = int(re.findall(r"stop_grace_period: (\d+)s", compose)[0])
    assert grace > loaded.worker.drain_timeout + loaded.worker.grace + loaded.worker.drain_window
    assert msgspec.to_builtins(loaded.health)["listen"] == "0.0.0.0:9090"


def test_the_image_is_made_of_what_is_installed() -> None:
    """What is copied is there, and not ignored."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name in INSTALLED:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", dockerfile, re.MULTILINE)
