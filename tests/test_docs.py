"""What the documentation shows, works: its examples run as they are, its commands exist, its links hold."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import liveavatar
import liveavatar.mock
import pytest
import yaml
from liveavatar.mock import mock_server

from tests.test_readme import run

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INTERPRETED = {"python", "sh", "console"}
SHOWN = {"diff", "text"}  # nothing to run


def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the documentation site, which is made once in a run of the tests."""
    pytest.importorskip("sphinx", reason="the documentation is built with the extra docs: make install")
    pytest.importorskip("furo", reason="the documentation is built with the extra docs: make install")
    site = tmp_path_factory.getbasetemp() / "site"
    if not site.exists():
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", f"{site}.doctrees", "docs", site]
        made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert made.returncode == 0, made.stdout
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory)


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(where it is, text) of each code block."""
    text = page.read_text("utf-8")
    return [
        (f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 2}", block[2])
        for block in FENCE.finditer(text)
        if block[1] in languages
    ]


def lacking(example: str) -> set[str]:
    """The packages that an example imports and that are not installed here."""
    imported = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    return {name for name in imported if importlib.util.find_spec(name.partition(".")[0]) is None}


PYTHON = dict(block for page in DOCS for block in blocks(page, "python"))
EXAMPLES = {where: example for where, example in PYTHON.items() if "def test_" not in example}
TESTS = {where: example for where, example in PYTHON.items() if "def test_" in example}


@pytest.mark.parametrize("where", EXAMPLES)
def test_an_example_runs_as_it_is_and_leaves_no_session(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := lacking(EXAMPLES[where]):
        pytest.skip(f"{', '.join(missing)} is not installed")
    monkeypatch.setenv("ROOM_TOKEN_FOR_THE_AVATAR", "a-room-token")  # the one thing that a reader has to bring
    example = tmp_path / "example.py"
    example.write_text(EXAMPLES[where], "utf-8")
    with mock_server() as service:
        run(example, at=service, folder=tmp_path)
        assert service.running_sessions == []


@pytest.mark.parametrize("where", TESTS)
def test_an_example_of_a_test_passes_and_cassettes_replay(where: str, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(TESTS[where], "utf-8")
    passed = f"{TESTS[where].count('def test_')} passed"
    with mock_server() as service:
        assert passed in run("-m", "pytest", "--record-mode=once", at=service, folder=tmp_path)
        assert service.running_sessions == []
    assert passed in run("-m", "pytest", "--record-mode=none", at=None, folder=tmp_path)


def test_no_code_is_left_out() -> None:
    for page in DOCS:
        text = page.read_text("utf-8")
        for fence, language in re.findall(r"^( *(?:```+|~~~+)) *([^\s`]*).*$", text, re.M)[::2]:
            assert fence == "```", f"{page.name}: a code block begins with ``` at the margin"
            assert language in INTERPRETED | SHOWN or language.startswith("{"), f"{page.name}: {language!r}"
    assert len(EXAMPLES) > 10
    assert len(TESTS) > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_it_names_exist(page: Path) -> None:
    shell = "\n".join(text for _, text in blocks(page, "sh", "console"))
    named = shell + "\n".join(re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:^|[$;&] *)make ([a-z-]+)", named, re.M)) <= targets
    modules = set(re.findall(r"python -m ([\w.]+)", named))
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = ",".join(re.findall(r"'(?:\.|liveavatar)\[([\w,-]+)\]'", named)).split(",")
    assert {extra for extra in asked if extra} <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_lines_flags_that_it_names_exist(page: Path) -> None:
    typer = pytest.importorskip("typer", reason="the command line needs the extra cli")
    from liveavatar.cli._app import app

    group = typer.main.get_command(app)
    flags = {flag for option in group.params for flag in option.opts}
    for line in re.findall(r"(?:^|[$(`] *)(liveavatar [a-z -]+)", page.read_text("utf-8"), re.M):
        _, name, *words = line.split()
        if name in group.commands:
            known = flags | {flag for option in group.commands[name].params for flag in option.opts} | {"--help"}
            assert {word for word in words if word.startswith("--")} <= known, line
        else:
            assert name == "--version", line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_hold_where_its_source_is_read(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        file = (page.parent / parts.path).resolve() if parts.path else page
        assert file.exists(), link
        if parts.fragment:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text("utf-8")), re.M)
            assert parts.fragment in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, link


def test_the_links_and_anchors_of_the_site_hold(site: Path) -> None:
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


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert [link for link in Page(page).loads if urlsplit(link).netloc] == []


def test_the_reference_has_every_public_name(site: Path) -> None:
    ids = set.union(*(Page(page).ids for page in (site / "reference").glob("*.html")))
    public = {f"liveavatar.{name}" for name in liveavatar.__all__ if name != "__version__"}
    public |= {f"liveavatar.mock.{name}" for name in liveavatar.mock.__all__}
    assert public - ids == set()
    for client in ("LiveAvatarApi", "AsyncLiveAvatarApi"):
        names = {name for name in dir(getattr(liveavatar, client)) if not name.startswith("_")}
        assert {f"liveavatar.{client}.{name}" for name in names} - ids == set()


def test_the_contracts_page_has_every_operation_schema_and_field(site: Path) -> None:
    page = Page(site / "contract.html")
    spec = yaml.safe_load((ROOT / "openapi" / "liveavatar.yaml").read_text("utf-8"))
    for path, methods in spec["paths"].items():
        assert path in page.text
        names = {operation["operationId"].replace("_", "-") for operation in methods.values()}
        assert {f"operation-{name}" for name in names} <= page.ids
    for name, schema in spec["components"]["schemas"].items():
        assert f"schema-{name.lower()}" in page.ids
        for field in schema.get("properties", {}):
            assert field in page.text
    for example in spec["components"]["examples"].values():
        assert example["summary"] in page.text


class Page(HTMLParser):
    """What a page of the site has in it."""

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
