"""Contexts and NATS_* variables: what wins, what they become for nats-py, and errors that name the culprit."""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from consumer.config import NatsConfig
from consumer.connection import ConnectOptions
from consumer.errors import ConfigError
from consumer.nats_context import resolve

JWT: Final = "eyJ0eXAiOiJKV1QifQ.e30.c2ln"
SEED: Final = "SU" + "A" * 56
NKEY: Final = f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
CREDS: Final = f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n\n{NKEY}"

Save = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory without contexts."""
    return tmp_path


@pytest.fixture
def save(home: Path) -> Save:
    """Write a context as `nats context save` does, with every key it knows."""

    def save(name: str, *, select: bool = False, **values: object) -> Path:
        empty = dict.fromkeys(("description", "url", "socks_proxy", "token", "user", "password", "creds", "nkey"), "")
        path = home / ".config/nats/context" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(empty | {"tls_first": False, "windows_ca_certs_match": None} | values, indent=2))
        if select:
            (home / ".config/nats/context.txt").write_text(name)
        return path

    return save


@pytest.fixture
def nkeys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package `nkeys` be there."""
    monkeypatch.setitem(sys.modules, "nkeys", ModuleType("nkeys"))


def resolved(home: Path, config: NatsConfig | None = None, **environ: str) -> ConnectOptions:
    options = resolve(config or NatsConfig(), {"HOME": str(home), **environ})
    assert options is not None
    return options


def login(home: Path, **environ: str) -> dict[str, Any]:
    return resolved(home, None, **environ).credentials


def problem(home: Path, config: NatsConfig | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(config or NatsConfig(), {"HOME": str(home), **environ})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What wins


def test_nothing_configured_is_none(home: Path) -> None:
    """The embedded server is meant; a time-out or an empty variable names no server."""
    empty = {"NATS_URL": "", "NATS_CONTEXT": "", "NATS_TIMEOUT": "9s", "NATS_SOCKS_PROXY": "none"}
    for environ in ({}, {"HOME": ""}, {"HOME": str(home), **empty}):
        assert resolve(NatsConfig(url="", context=""), environ) is None


def test_the_configured_url_wins_over_variables_over_contexts(home: Path, save: Save) -> None:
    """Each place is asked only for what those before it do not say."""
    save("selected", select=True, url="nats://selected")
    save("named", url="nats://named")
    save("configured", url="nats://configured")
    assert resolved(home).servers == ("nats://selected",)
    assert resolved(home, NATS_CONTEXT="named").servers == ("nats://named",)
    config = NatsConfig(context="configured")
    assert resolved(home, config, NATS_CONTEXT="named").servers == ("nats://configured",)
    assert resolved(home, config, NATS_URL="nats://variable").servers == ("nats://variable",)
    config = NatsConfig(context="configured", url="nats://option")
    assert resolved(home, config, NATS_URL="nats://variable").servers == ("nats://option",)


def test_each_setting_is_looked_up_on_its_own(home: Path, save: Save) -> None:
    """As with the `nats` command, another server or password leaves the rest of the context in force."""
    save("a", select=True, url="nats://a", user="alice", password="old", inbox_prefix="_INBOX_alice")
    options = resolved(home, NATS_URL="nats://b", NATS_PASSWORD="new")
    assert options.servers == ("nats://b",)
    assert options.credentials == {"user": "alice", "password": "new", "inbox_prefix": "_INBOX_alice"}


def test_a_login_alone_means_the_usual_server(home: Path, save: Save) -> None:
    """The `nats` command's default, rather than an embedded server that knows no logins."""
    assert resolved(home, NATS_TOKEN="t").servers == ("nats://127.0.0.1:4222",)
    save("empty", select=True)
    assert resolved(home) == ConnectOptions(servers=("nats://127.0.0.1:4222",))


def test_contexts_are_in_the_xdg_directory(home: Path, save: Save) -> None:
    """`$XDG_CONFIG_HOME/nats` takes the place of `~/.config/nats`."""
    save("a", url="nats://a")
    assert resolved(Path("/none"), NATS_CONTEXT="a", XDG_CONFIG_HOME=str(home / ".config")).servers == ("nats://a",)


def test_a_context_may_be_a_file(home: Path, save: Save) -> None:
    """A name that ends in .json and exists is a path."""
    path = save("a", url="nats://a").rename(home / "elsewhere.json")
    assert resolved(home, NATS_CONTEXT=str(path)).servers == ("nats://a",)


# Logging in


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"NATS_USER": "u", "NATS_PASSWORD": "p"}, {"user": "u", "password": "p"}),
        ({"NATS_USER": "t"}, {"token": "t"}),
        ({"NATS_TOKEN": "t"}, {"token": "t"}),
        ({"NATS_USER": "u", "NATS_TOKEN": "t"}, {"token": "u"}),
        ({"NATS_TOKEN": "t", "NATS_USER": "u", "NATS_PASSWORD": "p"}, {"user": "u", "password": "p"}),
        ({"NATS_TOKEN": "env://T", "T": "t\n"}, {"token": "t"}),
        ({"NATS_USER": "u", "NATS_PASSWORD": "data:;base64,cMOk"}, {"user": "u", "password": "pä"}),
        ({"NATS_USER": "u", "NATS_PASSWORD": "p://x:y"}, {"user": "u", "password": "p://x:y"}),
        ({"NATS_PASSWORD": "p"}, {}),
        ({"NATS_SEED": SEED}, {}),
    ],
)
def test_a_login_of_variables(home: Path, environ: dict[str, str], expected: dict[str, str]) -> None:
    """A user without a password is a token; a secret may be elsewhere."""
    assert login(home, **environ) == expected


@pytest.mark.parametrize(
    ("context", "environ", "expected"),
    [
        ({"user": "u", "password": "p", "token": "t"}, {}, {"user": "u", "password": "p"}),
        ({"user": "u"}, {}, {"user": "u", "password": ""}),
        ({"token": "t"}, {}, {"token": "t"}),
        ({"token": "t"}, {"NATS_USER": "u", "NATS_PASSWORD": "p"}, {"user": "u", "password": "p"}),
        ({"user": "u", "password": "p"}, {"NATS_TOKEN": "t"}, {"token": "t"}),
        ({"user": "u", "password": "file://~/p"}, {}, {"user": "u", "password": "from file"}),
    ],
)
def test_a_login_of_a_context(
    home: Path, save: Save, context: dict[str, str], environ: dict[str, str], expected: dict[str, str]
) -> None:
    """A user goes before a token of the same place, and either before what is in a place behind."""
    (home / "p").write_text("from file\n")
    save("a", select=True, **context)
    assert login(home, **environ) == expected


@pytest.mark.parametrize(
    ("url", "servers", "credentials"),
    [
        ("nats://u:p%40ss@a:4222", ("nats://a:4222",), {"user": "u", "password": "p@ss"}),
        ("u:p@a", ("nats://a",), {"user": "u", "password": "p"}),
        ("nats://u:@a", ("nats://a",), {"user": "u", "password": ""}),
        ("nats://t@a, nats://t@b", ("nats://a", "nats://b"), {"token": "t"}),
        ("nats://u:p@a, b:4333", ("nats://a", "nats://b:4333"), {"user": "u", "password": "p"}),
        ("tls://a,,wss://[::1]:8443/p", ("tls://a", "wss://[::1]:8443/p"), {"user": "context", "password": "x"}),
    ],
)
def test_a_login_in_a_url_wins(
    home: Path, save: Save, url: str, servers: tuple[str, ...], credentials: dict[str, str]
) -> None:
    """It is decoded, and taken out of the URL, where it would show."""
    save("a", select=True, user="context", password="x")
    for options in (resolved(home, NATS_URL=url), resolved(home, NatsConfig(url=url))):
        assert options.servers == servers
        assert options.credentials == credentials


@pytest.mark.usefixtures("nkeys")
@pytest.mark.parametrize("value", ["{}/my.creds", "~/my.creds", "$HOME/my.creds", "file://${{HOME}}/my.creds"])
def test_a_creds_file_is_handed_on_by_its_path(home: Path, save: Save, value: str) -> None:
    """It may change while we run, so it is read again for each connection."""
    path = home / "my.creds"
    path.write_text(CREDS)
    value = value.format(home)
    save("a", select=True, creds=value)
    assert login(home) == {"user_credentials": str(path)}
    assert login(home, NATS_CREDS=value, NATS_CONTEXT="") == {"user_credentials": str(path)}


@pytest.mark.usefixtures("nkeys")
def test_creds_may_be_embedded(home: Path, save: Save) -> None:
    """`nats context save --embed` writes them as a data URI; env:// names a variable."""
    data = f"data:;base64,{base64.b64encode(CREDS.encode()).decode()}"
    save("a", select=True, creds=data)
    assert str(login(home)["user_credentials"]) == CREDS
    assert str(login(home, NATS_CREDS="env://C", C=CREDS)["user_credentials"]) == CREDS


@pytest.mark.usefixtures("nkeys")
@pytest.mark.parametrize("text", [SEED, NKEY, CREDS, f"  {SEED}\r\n"])
def test_an_nkey_is_found_in_its_file(home: Path, text: str) -> None:
    """Bare, decorated, or in a creds file."""
    (home / "nkey").write_bytes(text.encode())
    assert login(home, NATS_NKEY="~/nkey") == {"nkeys_seed_str": SEED}


@pytest.mark.usefixtures("nkeys")
def test_a_user_jwt_and_its_seed_become_creds(home: Path, save: Save) -> None:
    """What nats-py reads from a file it can also read from text."""
    save("a", select=True, user_jwt=JWT, user_seed=SEED)
    lines = str(login(home)["user_credentials"]).splitlines()
    assert lines[lines.index("-----BEGIN NATS USER JWT-----") + 1] == JWT
    assert lines[lines.index("-----BEGIN USER NKEY SEED-----") + 1] == SEED


def test_a_bearer_jwt_needs_no_signature(home: Path) -> None:
    """Without a seed, nothing is signed, and the package `nkeys` not needed."""
    credentials = login(home, NATS_JWT=JWT)
    assert credentials["user_jwt_cb"]() == JWT.encode()
    assert credentials["signature_cb"]("nonce") == b""


@pytest.mark.usefixtures("nkeys")
@pytest.mark.parametrize(
    ("context", "environ", "keys"),
    [
        ({"user": "u", "nkey": "~/nkey"}, {}, {"user", "password"}),
        ({"user": "u", "password": "p"}, {"NATS_NKEY": "~/nkey"}, {"nkeys_seed_str"}),
        ({"nkey": "~/nkey"}, {"NATS_USER": "u", "NATS_PASSWORD": "p"}, {"user", "password"}),
        ({"nkey": "~/nkey"}, {"NATS_TOKEN": "t"}, {"nkeys_seed_str", "token"}),
        ({"nkey": "~/nkey", "token": "t"}, {"NATS_CREDS": "~/nkey"}, {"user_credentials", "token"}),
    ],
)
def test_one_way_to_log_in_is_chosen(
    home: Path, save: Save, context: dict[str, str], environ: dict[str, str], keys: set[str]
) -> None:
    """The first place's; a token may go with a signature, for servers that ask someone else (auth callout)."""
    (home / "nkey").write_text(CREDS)
    save("a", select=True, **context)
    assert login(home, **environ).keys() == keys


# The rest


def test_a_context_may_want_tls_first(home: Path, save: Save) -> None:
    """For servers that say nothing before the handshake."""
    save("a", select=True, tls_first=True)
    assert login(home) == {"tls_handshake_first": True}


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400)])
def test_the_timeout_is_a_go_duration(home: Path, text: str, seconds: float) -> None:
    """NATS_TIMEOUT bounds connecting."""
    assert resolved(home, NATS_URL="a", NATS_TIMEOUT=text).timeout == seconds
    assert resolved(home, NATS_URL="a", NATS_TIMEOUT="").timeout == ConnectOptions(servers=()).timeout


def test_a_proxy_may_be_taken_back(home: Path, save: Save) -> None:
    """`none` in the variable undoes what the context says."""
    save("a", select=True, url="nats://a", socks_proxy="socks5://p")
    assert resolved(home, NATS_SOCKS_PROXY="none").servers == ("nats://a",)


def test_keys_of_another_version_do_not_matter(home: Path, save: Save) -> None:
    """The `nats` command ignores what it does not know, and so do we."""
    save("a", select=True, url="nats://a", color_scheme="green", nickname={"x": 1}, user=None)
    assert resolved(home) == ConnectOptions(servers=("nats://a",))


# Errors


@pytest.mark.parametrize("name", ["gone", "../a", "a/b", "..", "gone.json", "a\0b"])
def test_an_unknown_context_is_named(home: Path, save: Save, name: str) -> None:
    """Wherever its name came from; one that would leave the directory is no context."""
    save("a")
    what = f"there is no nats context {name!r} in {home}/.config/nats/context"
    assert problem(home, NATS_CONTEXT=name) == f"NATS_CONTEXT: {what}"
    assert problem(home, NatsConfig(context=name)) == f"`nats.context`: {what}"
    (home / ".config/nats/context.txt").write_text(f"{name}\n")
    assert problem(home, NATS_URL="nats://a") == f"{home}/.config/nats/context.txt: {what}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "the payload is empty"),
        (b"{", "the payload is not valid JSON: Input data was truncated"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"url": 1}', "`url`: expected `str | null`, got `int`"),
        (b'{"tls_first": "yes"}', "`tls_first`: expected `bool | null`, got `str`"),
    ],
)
def test_a_broken_context_is_named(home: Path, save: Save, text: bytes, reason: str) -> None:
    """File, and what is wrong in it."""
    path = save("a", select=True)
    path.write_bytes(text)
    assert problem(home) == f"the nats context {path} is wrong: {reason}"


@pytest.mark.parametrize(
    "key", ["socks_proxy", "jetstream_domain", "jetstream_api_prefix", "nsc", "windows_cert_store"]
)
def test_what_we_cannot_do_is_refused(home: Path, save: Save, key: str) -> None:
    """A key that would change where tasks go is not passed over."""
    path = save("a", select=True, url="nats://a", **{key: "x"})
    assert problem(home) == f"`{key}` in {path} is set, which jetrunner does not support"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (",", " names no server"),
        ("http://a", ": 'http://a' is not the URL of a server, such as nats://127.0.0.1:4222"),
        ("nats://", ": 'nats://' is not the URL of a server"),
        ("nats://a:x", ": 'nats://a:x' is not the URL of a server"),
        ("a:70000", ": 'a:70000' is not the URL of a server"),
        ("nats://u:secret@[a", ": '[a' is not the URL of a server"),
        ("nats://u:p@a,nats://v:p@b", " has more than one login, which jetrunner does not support"),
    ],
)
def test_a_wrong_url_is_shown_without_its_login(home: Path, save: Save, url: str, complaint: str) -> None:
    """The place it came from is named."""
    assert problem(home, NATS_URL=url).startswith(f"NATS_URL{complaint}")
    assert problem(home, NatsConfig(url=url)).startswith(f"`nats.url`{complaint}")
    path = save("a", select=True, url=url)
    assert problem(home).startswith(f"`url` in {path}{complaint}")


@pytest.mark.parametrize("text", ["5", "0s", "-1s", "soon"])
def test_a_wrong_timeout_is_shown(home: Path, text: str) -> None:
    """A Go duration needs a unit, and ours must be more than nothing."""
    expected = f'NATS_TIMEOUT is {text!r}, but must be a duration such as "5s", more than 0'
    assert problem(home, NATS_URL="a", NATS_TIMEOUT=text) == expected


@pytest.mark.parametrize("name", ["NATS_CREDS", "NATS_NKEY", "NATS_JWT"])
def test_without_nkeys_the_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Signing needs a package that is installed on demand."""
    monkeypatch.setitem(sys.modules, "nkeys", None)
    (home / "x").write_text(CREDS)
    assert problem(home, None, NATS_SEED=SEED, **{name: "~/x"}) == (
        f"{name} needs the package nkeys, which is not installed: pip install 'jetrunner[nkeys]'"
    )


@pytest.mark.usefixtures("nkeys")
@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"NATS_CREDS": "/gone"}, "NATS_CREDS: /gone cannot be read: No such file or directory"),
        ({"NATS_CREDS": "~"}, "NATS_CREDS: {home} cannot be read: Is a directory"),
        ({"NATS_CREDS": "~/binary"}, "NATS_CREDS: {home}/binary cannot be read: not a text file"),
        ({"NATS_CREDS": "~/seed"}, "NATS_CREDS holds no user JWT and seed"),
        ({"NATS_CREDS": "env://NONE"}, "NATS_CREDS: the variable NONE is not set"),
        ({"NATS_CREDS": "data:;base64,?"}, "NATS_CREDS is not a data URI such as data:;base64,AAAA"),
        ({"NATS_CREDS": "data:,text"}, "NATS_CREDS is not a data URI such as data:;base64,AAAA"),
        ({"NATS_CREDS": "op://a/b/c"}, "NATS_CREDS: jetrunner does not support op:, but file:, env: and data:"),
        ({"NATS_TOKEN": "op://a/b/c"}, "NATS_TOKEN: jetrunner does not support op:, but file:, env: and data:"),
        ({"NATS_NKEY": "nsc://a/b/c"}, "NATS_NKEY: jetrunner does not support nsc:, but file:, env: and data:"),
        ({"NATS_NKEY": "~/empty"}, "NATS_NKEY holds no nkey seed"),
        ({"NATS_JWT": JWT, "NATS_SEED": "x"}, "NATS_SEED holds no nkey seed"),
        ({"NATS_CA": "/gone"}, "NATS_CA: /gone cannot be read: No such file or directory"),
        ({"NATS_CA": "~/seed"}, "NATS_CA: {home}/seed holds no certificate"),
        ({"NATS_CERT": "/gone", "NATS_KEY": "/gone"}, "NATS_CERT: /gone cannot be read: No such file or directory"),
        ({"NATS_KEY": "~/seed"}, "NATS_KEY is set, but no certificate for it"),
        ({"NATS_CERT": "~/seed"}, "NATS_CERT: {home}/seed is no certificate for a key in the same file"),
        (
            {"NATS_CERT": "~/seed", "NATS_KEY": "~/empty"},
            "NATS_CERT: {home}/seed is no certificate for the key {home}/empty",
        ),
    ],
)
def test_a_wrong_credential_is_named(home: Path, environ: dict[str, str], complaint: str) -> None:
    """The variable, the file and the reason, but never the secret."""
    (home / "seed").write_text(SEED)
    (home / "empty").touch()
    (home / "binary").write_bytes(b"\xff\xfe")
    assert problem(home, None, **environ) == complaint.format(home=home)
