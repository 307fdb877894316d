"""What the documentation shows works: its examples run and type-check, its commands exist, its links resolve."""

from __future__ import annotations

import ast
import contextlib
import functools
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import liveavatar
import liveavatar.ledger
import liveavatar.mock
import pytest
import yaml
from liveavatar import _constants, _endpoints
from liveavatar.mock import mock_server
from liveavatar.mock.__main__ import _parser

from tests import processes
from tests.contract import CONTRACT
from tests.ledger.support import RedisServer
from tests.pages import DOCS, FENCE, README, ROOT, account, blocks, has_tests, missing_packages, run, run_tests

PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
CHECKED = {"python", "sh", "console", "yaml"}
NOT_RUN = {"diff", "text"}

PYTHON = {where: example for page in DOCS for where, example in blocks(page, "python").items()}
EXAMPLES = [where for where, example in PYTHON.items() if not has_tests(example)]
TESTS = [where for where, example in PYTHON.items() if has_tests(example)]
TYPED = PYTHON | blocks(README, "python")


def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the documentation site, which is built once per test run."""
    pytest.importorskip("sphinx", reason="the documentation needs the extra docs: make install")
    pytest.importorskip("furo", reason="the documentation needs the extra docs: make install")
    site = tmp_path_factory.getbasetemp() / "site"
    if not site.exists():
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", f"{site}.doctrees", "docs", site]
        made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert made.returncode == 0, made.stdout
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory)


# ---- Examples -------------------------------------------------------------------------------------------------------

CATALOG = {
    "/v1/avatars/public": {"count": 1, "results": [{"id": "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", "name": "Wayne"}]},
    "/v1/voices": {"count": 1, "results": [{"id": "a-voice", "name": "Ann", "language": "English"}]},
    "/v1/contexts": {"count": 1, "results": [{"id": "a-context", "name": "Front desk"}]},
    "/v1/users/credits": {"credits_left": "10"},
}


@contextlib.contextmanager
def catalog_server() -> Iterator[dict[str, str]]:
    """Serve the endpoints that the mock server does not have, in the published shape."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = CATALOG.get(urlsplit(self.path).path)
            body = json.dumps({"code": 1000, "data": data, "message": "OK"}).encode()
            self.send_response(404 if data is None or self.headers["X-API-KEY"] != "a-key" else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *message: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        base_url = f"http://127.0.0.1:{server.server_port}/v1"
        yield {"LIVEAVATAR_BASE_URL": base_url, "LIVEAVATAR_API_KEY": "a-key"}
        server.shutdown()
        thread.join()


REDIS_URL = "redis://localhost:6379/0"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a Redis server in place of the one that the examples name."""
    pytest.importorskip("redis", reason="RedisLedger needs the extra redis")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.mark.parametrize("where", EXAMPLES)
def test_example_runs(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """An example runs as it is, and leaves no session behind."""
    text = PYTHON[where]
    if missing := missing_packages(text):
        pytest.skip(f"{', '.join(missing)} is not installed")
    if REDIS_URL in text:
        text = text.replace(REDIS_URL, request.getfixturevalue("redis_url"))
    example = tmp_path / "example.py"
    example.write_text(text, "utf-8")
    variables = {"HOME": str(tmp_path), "ROOM_TOKEN_FOR_THE_AVATAR": "a-room-token"}  # the reader provides the token
    if "/avatars/public" in text:
        with catalog_server() as catalog:
            assert "Wayne" in run(example, folder=tmp_path, account=variables | catalog)
        return
    with mock_server() as server:
        run(example, folder=tmp_path, account=variables | account(server))
        assert server.running_sessions == []


@pytest.mark.parametrize("where", TESTS)
def test_example_test_passes(where: str, tmp_path: Path) -> None:
    """An example of a test passes; one with a cassette records it and then replays without a server."""
    if missing := missing_packages(PYTHON[where]):
        pytest.skip(f"{', '.join(missing)} is not installed")
    (tmp_path / "test_example.py").write_text(PYTHON[where], "utf-8")
    passed = f"{PYTHON[where].count('def test_')} passed"
    plugin = ["-p", "respx.plugin"] if "respx" in PYTHON[where] else []
    with mock_server() as server:
        assert passed in run_tests("--record-mode=once", *plugin, folder=tmp_path, account=account(server))
        assert server.running_sessions == []
    assert passed in run_tests("--record-mode=none", *plugin, folder=tmp_path)


def test_mock_server_prints_what_the_quickstart_shows() -> None:
    """The quickstart shows the lines that the mock server prints."""
    (block,) = blocks(ROOT / "docs" / "quickstart.md", "console").values()
    command, *shown = block.splitlines()
    assert command == "$ python -m liveavatar.mock"
    process = processes.Popen(
        [sys.executable, "-m", "liveavatar.mock", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        printed = [process.stdout.readline().rstrip() for _ in shown]
    finally:
        process.terminate()
        process.communicate()
    assert [re.sub(r":\d+/", ":8080/", line) for line in printed] == shown


@pytest.fixture(scope="module")
def typed_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write each example of README and the documentation into a module of its own."""
    folder = tmp_path_factory.mktemp("examples")
    for where, example in TYPED.items():
        if not missing_packages(example):
            (folder / f"{re.sub(r'[^a-z0-9]+', '_', where.lower())}.py").write_text(example, "utf-8")
    assert len(list(folder.iterdir())) > 15
    return folder


def check_types(*command: str | Path, folder: Path) -> None:
    check = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert check.returncode == 0, check.stdout


@pytest.mark.types
def test_examples_pass_mypy(typed_examples: Path, tmp_path: Path) -> None:
    """Mypy --strict finds no error in the examples."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = True\nfollow_imports = silent\nmypy_path = {ROOT / 'wrapper'}:{ROOT}\n")
    check_types("mypy", "--config-file", config, "--cache-dir", tmp_path / "cache", ".", folder=typed_examples)


@pytest.mark.types
def test_examples_pass_pyright(typed_examples: Path) -> None:
    """Pyright finds no error in the examples."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    config = typed_examples / "pyrightconfig.json"
    config.write_text(json.dumps({"include": ["."], "extraPaths": [str(ROOT / "wrapper"), str(ROOT)]}))
    check_types("pyright", "--project", config, "--pythonpath", sys.executable, folder=typed_examples)


def test_no_code_is_skipped() -> None:
    """Each code block is in a language that a test here reads."""
    for page in DOCS:
        text = page.read_text("utf-8")
        for fence, language in re.findall(r"^( *(?:```+|~~~+)) *([^\s`]*).*$", text, re.M)[::2]:
            assert fence == "```", f"{page.name}: a code block begins with ``` at the margin"
            assert language in CHECKED | NOT_RUN or language.startswith("{"), f"{page.name}: {language!r}"
    assert len(EXAMPLES) > 10
    assert len(TESTS) > 1


# ---- Names and numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Each make target, module and extra that a page names exists."""
    shell = "\n".join(blocks(page, "sh", "console").values())
    named = shell + "\n".join(re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:^|[$;&] *)make ([a-z-]+)", named, re.M)) <= targets
    modules = set(re.findall(r"python -m ([\w.]+)", named))
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = ",".join(re.findall(r"'(?:\.|liveavatar)\[([\w,-]+)\]'", named)).split(",")
    assert {extra for extra in asked if extra} <= set(extras)


@functools.cache
def command_line_options() -> dict[str, set[str]]:
    """Return the options of each command of `liveavatar`; the empty name stands for the program itself."""
    pytest.importorskip("click", reason="the command line needs the extra cli")
    from liveavatar.cli._app import app

    options = {
        name: {flag for option in command.params for flag in option.opts} for name, command in app.commands.items()
    }
    options["mock"] |= set(re.findall(r"--[a-z-]+", run("-m", "liveavatar.mock", "--help", folder=ROOT)))
    return options | {"": {flag for option in app.params for flag in option.opts}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_line_options_exist(page: Path) -> None:
    """Each command and option of `liveavatar` that a page names exists."""
    options = command_line_options()
    for line in re.findall(r"(?:^|[$(`] *)(liveavatar [a-z -]+)", page.read_text("utf-8"), re.M):
        _, name, *words = line.split()
        if name.startswith("--"):
            assert name in options[""], line
        else:
            known = options[""] | options[name] | {"--help"}
            assert {word for word in words if word.startswith("--")} <= known, line


TIMEOUT = f"{_constants.DEFAULT_TIMEOUT:g}"
RETRIES = f"{_constants.DEFAULT_MAX_RETRIES}"
CLEANUP = f"{_constants.CLEANUP_TIMEOUT:g}"
NUMBERS = [
    ("README.md", r"\| `timeout` \| +\| (\S+) seconds", TIMEOUT),
    ("README.md", r"\| `max_retries` \| +\| (\S+) retries", RETRIES),
    ("docs/guide.md", r"\| `timeout` \| +\| (\S+) seconds", TIMEOUT),
    ("docs/guide.md", r"\| `max_retries` \| +\| (\S+) retries", RETRIES),
    ("docs/guide.md", r"keep-alive request every (\S+) minutes", f"{_constants.KEEP_ALIVE_INTERVAL / 60:g}"),
    ("docs/guide.md", r"if it is longer, up to (\S+) seconds", f"{_constants.MAX_RETRY_AFTER:g}"),
    ("docs/guide.md", r"delays between (\S+) and \S+ seconds", f"{_constants.MIN_SLOT_DELAY:g}"),
    ("docs/guide.md", r"delays between \S+ and (\S+) seconds", f"{_constants.MAX_SLOT_DELAY:g}"),
    ("docs/production.md", r"each step takes up to (\S+) seconds", CLEANUP),
    ("docs/production.md", r"takes at most (\S+) seconds for all sessions", CLEANUP),
    ("docs/reliability.md", r"cannot be confirmed within (\S+) seconds", CLEANUP),
    ("docs/reliability.md", r"stopped within (\S+) seconds, with a WARNING", CLEANUP),
    ("docs/reliability.md", r"retried\*\*, (\S+) times by default", RETRIES),
    ("docs/reliability.md", r"delays of (\S+) s doubling", f"{_constants.MIN_RETRY_DELAY:g}"),
    ("docs/reliability.md", r"doubling up to (\S+) s", f"{_constants.MAX_RETRY_DELAY:g}"),
    ("docs/reliability.md", r"`Retry-After` of up to (\S+) s", f"{_constants.MAX_RETRY_AFTER:g}"),
    ("docs/reliability.md", r"`timeout` \((\S+) seconds by default\)", TIMEOUT),
    ("docs/reliability.md", r"larger than (\S+) MiB", f"{_constants.MAX_RESPONSE_BYTES / 2**20:g}"),
    ("docs/errors.md", r"at most (\S+) KiB", f"{_constants.MAX_ERROR_TEXT / 2**10:g}"),
]


@pytest.mark.parametrize(("page", "pattern", "number"), NUMBERS)
def test_numbers_are_those_of_the_code(page: str, pattern: str, number: str) -> None:
    """A timeout, delay or limit on a page is the value of its constant."""
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert re.findall(pattern, text) == [number]


RETRIED = {
    "create token": [_endpoints.CREATE_TOKEN],
    "start": [_endpoints.START],
    "stop, keep-alive": [_endpoints.STOP, _endpoints.KEEP_ALIVE],
    "list, get, transcript, delete events": [
        _endpoints.LIST,
        _endpoints.GET,
        _endpoints.TRANSCRIPT,
        _endpoints.DELETE_EVENTS,
    ],
    "`request()` with GET, or `idempotent=True`": [_endpoints.custom("GET", "/a", idempotent=True)],
    "`request()` otherwise": [_endpoints.custom("POST", "/a", idempotent=False)],
}


def test_retry_policy_is_that_of_the_code() -> None:
    """The retry policy on the page is that of the table of endpoints."""
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    rows = dict(re.findall(r"^   \| (.+?) \| (.+?) \|$", text.partition("| retried after |")[2], re.M))
    assert set(rows) - {"---"} == set(RETRIED)
    for name, endpoints in RETRIED.items():
        statuses = {int(status) for status in re.findall(r"\b\d{3}\b", rows[name])}
        statuses |= set(range(500, 600)) if "5xx" in rows[name] else set()
        for endpoint in endpoints:
            assert {status for status in range(400, 600) if endpoint.retry_statuses(status)} == statuses, name
            assert endpoint.retry_if_lost == ("lost connection" in rows[name]), name


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "guide.md"], ids=lambda page: page.name)
def test_base_url_is_that_of_the_code(page: Path) -> None:
    """The default of `base_url` on a page is the value of its constant."""
    assert f"| `base_url` | `LIVEAVATAR_BASE_URL` | `{_constants.BASE_URL}` |" in page.read_text("utf-8")


# ---- Links ----------------------------------------------------------------------------------------------------------

SERVICE_DOCS = re.compile(r"https://docs\.liveavatar\.com(/[^\s)>\"'`]*)?")


def test_links_to_the_service_have_one_form() -> None:
    """Links to the service's documentation use the paths of its site map."""
    sources = [*PAGES, ROOT / "openapi" / "liveavatar.yaml", *(ROOT / "wrapper").rglob("*.py")]
    found = 0
    for source in sources:
        for path in SERVICE_DOCS.findall(source.read_text("utf-8")):
            found += 1
            assert re.fullmatch(r"|/api-reference/[a-z-]+(/[a-z-]+)?|/docs/[a-z/-]+", path.rstrip(".")), (source, path)
    assert found > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve_in_the_source(page: Path) -> None:
    """A relative link leads to a file, and its fragment to a heading, where the source of a page is read."""
    text = FENCE.sub("", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        file = (page.parent / parts.path).resolve() if parts.path else page
        assert file.exists(), link
        if parts.fragment and not parts.fragment.startswith(("schema-", "operation-")):  # generated by the build
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text("utf-8")), re.M)
            assert parts.fragment in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, link


@pytest.mark.site
def test_links_resolve_in_the_site(site: Path) -> None:
    """A link leads to a page of the site, and its fragment to an element of that page."""
    pages = {page: Page(page) for page in site.rglob("*.html")}
    checked = 0
    for page, seen in pages.items():
        for link in seen.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "data"), f"{page.name}: {link}"
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{page.name}: {link}"
            checked += 1
    assert checked > 500


@pytest.mark.site
def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    """The site works offline."""
    for page in site.rglob("*.html"):
        assert [link for link in Page(page).loads if urlsplit(link).netloc] == []


# ---- Reference ------------------------------------------------------------------------------------------------------


@pytest.mark.site
def test_reference_has_every_public_name(site: Path) -> None:
    """Each public name, and each method of the clients, has an entry in the reference."""
    ids = set.union(*(Page(page).ids for page in (site / "reference").glob("*.html")))
    public = {f"liveavatar.{name}" for name in liveavatar.__all__ if name != "__version__"}
    public |= {f"liveavatar.mock.{name}" for name in liveavatar.mock.__all__}
    public |= {f"liveavatar.ledger.{name}" for name in liveavatar.ledger.__all__ if name not in liveavatar.__all__}
    assert public - ids == set()
    for client in ("LiveAvatarApi", "AsyncLiveAvatarApi"):
        names = {name for name in dir(getattr(liveavatar, client)) if not name.startswith("_")}
        assert {f"liveavatar.{client}.{name}" for name in names} - ids == set()


@pytest.mark.site
def test_models_show_types_and_meaning(site: Path) -> None:
    """Each field of a request has a type and a description, and `Unset` is not shown."""
    page = site / "reference" / "models.html"
    text = Page(page).text
    assert "Unset" not in text
    assert "max_session_duration: int" in " ".join(text.split())
    fields = re.findall(
        r'<dt class="sig[^>]*id="liveavatar\.(LiveAvatarNewSessionRequest\.\w+)">(.*?)</dt>\s*<dd>(.*?)</dd>',
        page.read_text("utf-8"),
        re.DOTALL,
    )
    assert len(fields) >= 14
    for name, signature, description in fields:
        assert ":" in re.sub(r"<[^>]+>", "", signature), name
        assert len(re.sub(r"<[^>]+>", "", description).strip()) > 15, name


@pytest.mark.site
def test_http_api_has_every_operation_schema_and_field(site: Path) -> None:
    """The page of the HTTP API shows the whole specification."""
    page = Page(site / "contract.html")
    for path, methods in CONTRACT["paths"].items():
        assert path in page.text
        operations = [operation for operation in methods.values() if "operationId" in operation]
        names = {operation["operationId"].replace("_", "-") for operation in operations}
        assert {f"operation-{name}" for name in names} <= page.ids
    for name, schema in CONTRACT["components"]["schemas"].items():
        assert f"schema-{name.lower()}" in page.ids
        for field in schema.get("properties", {}):
            assert field in page.text
    for example in CONTRACT["components"]["examples"].values():
        assert example["summary"] in page.text


class Page(HTMLParser):
    """A page of the site: its ids, its links, what it loads, and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if "id" in given:
            self.ids.add(given["id"])
        if "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loads.append(given["href"])
        if "href" in given:
            self.links.append(given["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


def test_compose_file() -> None:
    """The containers of the documentation run the mock server with options that exist, and use its URL and key."""
    (text,) = blocks(ROOT / "docs" / "testing.md", "yaml").values()
    services = yaml.safe_load(text)["services"]
    module, arguments = services["mock"]["command"].split(" -m ")[1].split(" ", 1)
    assert module == "liveavatar.mock"
    options = _parser("mock").parse_args(arguments.split())
    app = services["app"]
    assert app["network_mode"] == "service:mock"
    assert app["environment"][_constants.BASE_URL_VARIABLE] == f"http://127.0.0.1:{options.port}/v1"
    assert app["environment"][_constants.API_KEY_VARIABLE] == liveavatar.mock.Settings().api_keys[0]


# ---- Layout of the source -------------------------------------------------------------------------------------------

WRAPPER = ROOT / "wrapper" / "liveavatar"


def layout() -> dict[str, int]:
    """Return the row of CONTRIBUTING's table of modules that each module or package is in."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    table = text.partition("| modules of `wrapper/liveavatar/` |")[2].partition("\n\n")[0]
    names = [re.findall(r"`([\w/.]+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    return {name: row for row, in_row in enumerate(names) for name in in_row}


def part(module: Path) -> str:
    """Return the name that CONTRIBUTING's table has for a module: its own, or that of its package."""
    path = module.relative_to(WRAPPER)
    return path.name if len(path.parts) == 1 else f"{path.parts[0]}/"


def imported(module: Path) -> Iterator[Path]:
    """Yield the modules of the wrapper that a module imports when it runs."""
    tree = ast.parse(module.read_text("utf-8"))
    nodes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    not_run = {id(each) for node in nodes for statement in node.body for each in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in not_run:
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                target = module.parents[node.level - 1].joinpath(*name.split("."))
                yield target.with_suffix(".py") if target.with_suffix(".py").exists() else target / "__init__.py"


def test_contributing_names_every_module() -> None:
    """CONTRIBUTING's table names the modules and packages that there are, and no others."""
    parts = {part(module) for module in WRAPPER.rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(layout()) == parts


def test_imports_go_one_way() -> None:
    """A module imports only modules of its own row of CONTRIBUTING's table, and of the rows below it."""
    rows = layout()
    upward = [
        f"{module.relative_to(WRAPPER)} imports {target.relative_to(WRAPPER)}"
        for module in WRAPPER.rglob("*.py")
        if part(module) in rows
        for target in imported(module)
        if part(target) in rows and rows[part(target)] < rows[part(module)]
    ]
    assert upward == []
