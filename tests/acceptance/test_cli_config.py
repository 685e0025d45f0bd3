"""`jetrunner config` as a process."""

import json
from pathlib import Path

from tests.acceptance.conftest import Server, Site


def test_values_and_their_origins(server: Server, tmp_path: Path) -> None:
    """Each key is shown with its value and where it came from; a password in a URL is not."""
    file = tmp_path / "my.toml"
    file.write_text('[worker]\ngrace = "5s"\n')
    site = Site(server, tmp_path)
    urls = {"JETRUNNER_NATS_URL": "nats://me:secret@host:4222,nats://other"}
    done = site.jetrunner("config", "--config", str(file), "-o", "json", **urls)
    assert (done.code, done.stderr) == (0, "")
    known = {each["key"]: each for each in json.loads(done.out)}
    assert known["worker.grace"] == {"key": "worker.grace", "value": 5.0, "from": str(file)}
    assert known["worker.keeper"] == {"key": "worker.keeper", "value": True, "from": "default"}
    assert known["nats.url"]["value"] == "nats://host:4222,nats://other"
    assert known["nats.url"]["from"] == "JETRUNNER_NATS_URL"
    table = site.jetrunner("config", "--config", str(file), **urls)
    assert "secret" not in table.out
    assert any(line.split() == ["worker.grace", "5", str(file)] for line in table.lines)


def test_a_wrong_file(server: Server, tmp_path: Path) -> None:
    """What is wrong is one sentence that names the file and the key."""
    file = tmp_path / "my.toml"
    file.write_text("[worker]\ngrase = 5\n")
    done = Site(server, tmp_path).jetrunner("config", "--config", str(file))
    assert (done.code, done.out) == (2, "")
    assert done.stderr == f"jetrunner: {file}: unknown key `worker.grase`; did you mean `worker.grace`?\n"
