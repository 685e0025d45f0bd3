"""`jetrunner run http` and `jetrunner schema`, as a person uses them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.acceptance.conftest import Site


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked; /missing is not there, /moved is elsewhere."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        answer = f"{self.command} {self.path} {self.headers.get('X-One')} {body.decode()}\n".encode()
        self.send_response({"/missing": 404, "/moved": 302}.get(self.path, 200))
        self.send_header("Location", "/there")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the base class's name for it


@pytest.fixture
def url() -> Iterator[str]:
    """Have a web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_run_http_sends_what_its_options_say(site: Site, url: str) -> None:
    """The body of the response is the output."""
    options = ["--method", "POST", "--header", "X-One: 1", "--body", "-"]
    done = site.jetrunner("run", "http", f"{url}/x", *options, stdin=b"data")
    assert (done.code, done.out) == (0, "POST /x 1 data\n")
    assert f"started url {url}/x on worker" in done.stderr


def test_run_http_has_a_code_for_every_end(site: Site, url: str) -> None:
    """3 for a status that was not expected and for a URL that is none, 0 for what was expected."""
    calls = [["/missing"], ["/missing", "--expected-status", "404"], ["/moved"], ["/moved", "--follow-redirects"]]
    all_done = site.jetrunner_each(*(["run", "-q", "http", url + path, *more] for path, *more in calls))
    assert [done.code for done in all_done] == [3, 0, 3, 0]
    assert all_done[0].stderr == "jetrunner: the server answered 404 Not Found; expected was 200-299\n"
    assert all_done[3].out == "GET /there None \n"
    refused = site.jetrunner("run", "-q", "http", "example.org")
    assert (refused.code, refused.stderr) == (3, "jetrunner: `url` must begin with http:// or https://\n")


@pytest.mark.parametrize(
    ("name", "title", "field"),
    [
        ("task", "Task", "category"),
        ("result", "Result", "retry_after"),
        ("event", "Event", "task_id"),
        ("control", "Control", "reason"),
        ("command", "CommandParams", "args"),
        ("script", "ScriptParams", "interpreter"),
        ("http", "HttpParams", "expected_status"),
    ],
)
def test_schema(empty_site: Site, name: str, title: str, field: str) -> None:
    """Each message, and the parameters of each built-in category, has its JSON Schema."""
    done = empty_site.jetrunner("schema", name)
    schema = json.loads(done.out)
    assert (done.code, schema["$schema"]) == (0, "https://json-schema.org/draft/2020-12/schema")
    assert field in schema["$defs"][title]["properties"]
