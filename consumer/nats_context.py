"""Where NATS is and who we are there: `NATS_*` variables and contexts, read as the `nats` command reads them.

Each setting comes from the first of these that has it (natscli's loadContext, jsm.go's natscontext):

1. `[nats] url`, as the command's `--server`; a login in a URL goes with it
2. the `NATS_*` variables
3. the context: `[nats] context`, else `NATS_CONTEXT`, else the selected one

So a server from the environment is met with the login of the selected context, if it has none of its own.
"""

import base64
import binascii
import re
import ssl
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct, structs
from nats.aio.client import RawCredentials

from schemas import Duration, SchemaError, decode

from .config import NatsConfig
from .connection import ConnectOptions
from .errors import ConfigError

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
"""Where the `nats` command goes when credentials or a context are given, but no server."""

_VARIABLES: Final = {
    "NATS_URL": "url",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CREDS": "creds",
    "NATS_NKEY": "nkey",
    "NATS_JWT": "user_jwt",
    "NATS_SEED": "user_seed",
    "NATS_CERT": "cert",
    "NATS_KEY": "key",
    "NATS_CA": "ca",
    "NATS_SOCKS_PROXY": "socks_proxy",
}
_NO_PROXY: Final = frozenset({"none", "NONE", "-"})
_UNSUPPORTED: Final = ("socks_proxy", "jetstream_domain", "jetstream_api_prefix", "nsc", "windows_cert_store")
_LOGINS: Final = ("user", "creds", "nkey", "user_jwt")
"""Ways to log in, in the order in which the `nats` command looks for them."""
_SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})
_REFERENCE: Final = re.compile(r"(file|env|data|op|nsc):(?://)?(.*)", re.IGNORECASE | re.DOTALL)
_PARAMETER: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)
_SEED: Final = re.compile(r"^\s*(S[UAO][A-Z2-7]{56})\s*$", re.MULTILINE)
_CREDS: Final = "-----BEGIN NATS USER JWT-----\n{}\n-----BEGIN USER NKEY SEED-----\n{}\n"


class _Setting(NamedTuple):
    value: str
    origin: str
    rank: int
    """1 to 3, as in the module's list, and 0 for a login in a URL."""


_Settings = dict[str, _Setting]


class _Context(Struct, frozen=True):
    """What matters in a context's file; an empty value is none."""

    url: str | None = None
    socks_proxy: str | None = None
    token: str | None = None
    user: str | None = None
    password: str | None = None
    creds: str | None = None
    nkey: str | None = None
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    nsc: str | None = None
    jetstream_domain: str | None = None
    jetstream_api_prefix: str | None = None
    inbox_prefix: str | None = None
    user_jwt: str | None = None
    user_seed: str | None = None
    tls_first: bool | None = None
    windows_cert_store: str | None = None


def resolve(config: NatsConfig, environ: Mapping[str, str]) -> ConnectOptions | None:
    """Return the configured server and login; None if neither is: the embedded server is meant.

    Files are read now, but a creds file is read again for each connection.

    Raises:
        ConfigError: a context, file or value is missing, wrong or not supported; the text says which.
    """
    settings = _settings(config, environ)
    if settings is None:
        return None
    servers, login = _servers(settings.get("url") or _Setting(DEFAULT_URL, "", 3))
    settings |= login
    credentials = {**_login(settings, environ), **_tls(settings, environ)}
    if inbox := settings.get("inbox_prefix"):
        credentials["inbox_prefix"] = inbox.value
    options = ConnectOptions(servers=servers, credentials=credentials)
    timeout = _timeout(environ)
    return options if timeout is None else structs.replace(options, timeout=timeout)


def _settings(config: NatsConfig, environ: Mapping[str, str]) -> _Settings | None:
    context = _context(config, environ)
    settings = {**(context or {}), **_variables(environ)}
    if config.url:
        settings["url"] = _Setting(config.url, "`nats.url`", 1)
    if "socks_proxy" in settings and settings["socks_proxy"].value in _NO_PROXY:
        del settings["socks_proxy"]
    for key in _UNSUPPORTED:
        if key in settings:
            raise ConfigError(f"{settings[key].origin} is set, which jetrunner does not support")
    return settings if settings or context is not None else None


def _variables(environ: Mapping[str, str]) -> _Settings:
    settings = {key: _Setting(value, name, 2) for name, key in _VARIABLES.items() if (value := environ.get(name))}
    if "user" in settings and "password" not in settings:
        settings["token"] = settings.pop("user")
    return settings


def _timeout(environ: Mapping[str, str]) -> float | None:
    text = environ.get("NATS_TIMEOUT")
    if not text:
        return None
    try:
        seconds = Duration.parse(text)
    except ValueError:
        seconds = Duration(0)
    if not seconds:
        raise ConfigError(f'NATS_TIMEOUT is {text!r}, but must be a duration such as "5s", more than 0')
    return float(seconds)


def config_dir(environ: Mapping[str, str]) -> Path:
    """Return where the `nats` command keeps its contexts, and people their credentials."""
    return Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/", ".config"), "nats")


def _context(config: NatsConfig, environ: Mapping[str, str]) -> _Settings | None:
    directory = config_dir(environ)
    selection = directory / "context.txt"
    for name, origin in (
        (config.context, "`nats.context`"),
        (environ.get("NATS_CONTEXT"), "NATS_CONTEXT"),
        (_selected(selection), str(selection)),
    ):
        if name:
            return _read_context(_find_context(name, directory / "context", origin))
    return None


def _selected(selection: Path) -> str | None:
    try:
        return selection.read_text().strip()
    except (OSError, ValueError):
        return None


def _find_context(name: str, directory: Path, origin: str) -> Path:
    if name.endswith(".json") and Path(name).is_file():
        return Path(name)
    path = directory / f"{name}.json"
    if "/" in name or ".." in name or not path.is_file():
        raise ConfigError(f"{origin}: there is no nats context {name!r} in {directory}")
    return path


def _read_context(path: Path) -> _Settings:
    try:
        context = decode(_Context, path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the nats context {path} cannot be read: {error.strerror}") from None
    except SchemaError as error:
        raise ConfigError(f"the nats context {path} is wrong: {error}") from None
    return {
        key: _Setting(str(value), f"`{key}` in {path}", 3) for key, value in structs.asdict(context).items() if value
    }


def _servers(setting: _Setting) -> tuple[tuple[str, ...], _Settings]:
    """Return the servers' URLs without their login, and the login."""
    urls = [_parse(text.strip(), setting.origin) for text in setting.value.split(",") if text.strip()]
    if not urls:
        raise ConfigError(f"{setting.origin} names no server")
    logins = {(url.username or "", url.password) for url in urls if "@" in url.netloc}
    if len(logins) > 1:
        raise ConfigError(f"{setting.origin} has more than one login, which jetrunner does not support")
    servers = tuple(url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() for url in urls)
    login: _Settings = {}
    for user, password in logins:
        parts = {"token": user} if password is None else {"user": user, "password": password}
        login = {key: _Setting(unquote(part), setting.origin, 0) for key, part in parts.items()}
    return servers, login


def _parse(text: str, origin: str) -> SplitResult:
    try:
        url = urlsplit(text if "://" in text else f"nats://{text}")
        if url.scheme in _SCHEMES and url.hostname and url.port != 0:
            return url
    except ValueError:
        pass
    shown = text.rpartition("@")[2]
    raise ConfigError(f"{origin}: {shown!r} is not the URL of a server, such as {DEFAULT_URL}")


def _login(settings: _Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what nats-py needs to log in; it sends a token or a user, but a token beside a signature."""
    way = min((key for key in _LOGINS if key in settings), key=lambda key: settings[key].rank, default="")
    token = settings.get("token")
    if token and (way != "user" or token.rank < settings["user"].rank):
        way = "" if way == "user" else way
        return {"token": _secret(token, environ), **_signed(way, settings, environ)}
    if way == "user":
        password = settings.get("password")
        return {"user": settings["user"].value, "password": _secret(password, environ) if password else ""}
    return _signed(way, settings, environ)


def _signed(way: str, settings: _Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    if not way:
        return {}
    setting = settings[way]
    if way == "user_jwt" and "user_seed" not in settings:
        jwt = _secret(setting, environ).encode()
        return {"user_jwt_cb": lambda: bytearray(jwt), "signature_cb": lambda _nonce: b""}  # a bearer token
    _need_nkeys(setting)
    if way == "user_jwt":
        seed = _seed(_secret(settings["user_seed"], environ), settings["user_seed"])
        return {"user_credentials": RawCredentials(_CREDS.format(_secret(setting, environ), seed))}
    if way == "nkey":
        return {"nkeys_seed_str": _seed(_document(setting, environ), setting)}
    return {"user_credentials": _creds(setting, environ)}


def _need_nkeys(setting: _Setting) -> None:
    try:
        import_module("nkeys")
    except ImportError:
        raise ConfigError(
            f"{setting.origin} needs the package nkeys, which is not installed: pip install 'jetrunner[nkeys]'"
        ) from None


def _seed(text: str, setting: _Setting) -> str:
    if found := _SEED.search(text):
        return found[1]
    raise ConfigError(f"{setting.origin} holds no nkey seed")


def _creds(setting: _Setting, environ: Mapping[str, str]) -> str | RawCredentials:
    text = _document(setting, environ)
    # nats-py reads on for ever where there is no JWT.
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise ConfigError(f"{setting.origin} holds no user JWT and seed")
    reference = _REFERENCE.fullmatch(setting.value)
    if reference is None or reference[1].lower() == "file":
        return str(_path(setting, environ))
    return RawCredentials(text)


def _secret(setting: _Setting, environ: Mapping[str, str]) -> str:
    """Return a value, or what it refers to."""
    if _REFERENCE.fullmatch(setting.value):
        return _document(setting, environ).rstrip("\r\n")
    return setting.value


def _document(setting: _Setting, environ: Mapping[str, str]) -> str:
    """Return the content of the file that a value names, or what it refers to."""
    reference = _REFERENCE.fullmatch(setting.value)
    scheme, rest = (reference[1].lower(), reference[2]) if reference else ("file", "")
    match scheme:
        case "file":
            return _read(_path(setting, environ), setting)
        case "env":
            if value := environ.get(rest):
                return value
            raise ConfigError(f"{setting.origin}: the variable {rest} is not set")
        case "data":
            return _decode(rest, setting)
    raise ConfigError(f"{setting.origin}: jetrunner does not support {scheme}:, but file:, env: and data:")


def _decode(data: str, setting: _Setting) -> str:
    header, _, payload = data.partition(",")
    try:
        if "base64" in header.split(";"):
            return base64.b64decode(payload, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        pass
    raise ConfigError(f"{setting.origin} is not a data URI such as data:;base64,AAAA")


def _path(setting: _Setting, environ: Mapping[str, str]) -> Path:
    text = _PARAMETER.sub(lambda match: environ.get(match[1] or match[2], ""), setting.value.removeprefix("file://"))
    home = environ.get("HOME")
    return Path(home + text[1:] if home and (text == "~" or text.startswith("~/")) else text)


def _read(path: Path, setting: _Setting) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{setting.origin}: {path} cannot be read: {reason}") from None


def _tls(settings: _Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    credentials: dict[str, Any] = {"tls_handshake_first": True} if "tls_first" in settings else {}
    paths: dict[str, Path] = {}
    for key in ("ca", "cert", "key"):
        if setting := settings.get(key):
            paths[key] = _path(setting, environ)
            _read(paths[key], setting)  # ssl would not say which file is missing
    if paths:
        credentials["tls"] = _tls_context(paths, settings)
    return credentials


def _tls_context(paths: Mapping[str, Path], settings: _Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=paths.get("ca"))
    except ssl.SSLError:
        raise ConfigError(f"{settings['ca'].origin}: {paths['ca']} holds no certificate") from None
    if "cert" in paths:
        _load_certificate(context, paths, settings)
    elif "key" in paths:
        raise ConfigError(f"{settings['key'].origin} is set, but no certificate for it")
    return context


def _load_certificate(context: ssl.SSLContext, paths: Mapping[str, Path], settings: _Settings) -> None:
    def no_password() -> str:  # else OpenSSL would ask for one on the terminal
        raise ConfigError(f"{settings['cert'].origin}: its private key is encrypted, which jetrunner does not support")

    try:
        context.load_cert_chain(paths["cert"], paths.get("key"), no_password)
    except ssl.SSLError:
        key = f"the key {paths['key']}" if "key" in paths else "a key in the same file"
        raise ConfigError(f"{settings['cert'].origin}: {paths['cert']} is no certificate for {key}") from None
