"""What people open in a browser, the documentation and the mock server's page, works in a real one.

The browser is driven over its own protocol, through the aiohttp that is there anyway.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarNewSessionRequest
from liveavatar.mock import mock_server

from tests.test_docs import build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]
DESKTOP, PHONE = (1280, 900), (390, 844)
REQUEST = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed to look at pages with (Debian: apt-get install chromium)"
)


class Tab:
    """One page of the browser, and what it complained of."""

    def __init__(self, browser: str, size: tuple[int, int]) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._browser = browser
        self._size = size
        self._number = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        async with self._http.put(f"{self._browser}/json/new?about:blank") as answer:
            self._target = await answer.json()
        self._socket = await self._http.ws_connect(self._target["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.ensure_future(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        width, height = self._size
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=self._size == PHONE,
        )
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        await self._socket.close()
        async with self._http.get(f"{self._browser}/json/close/{self._target['id']}"):
            pass
        await self._http.close()

    async def send(self, method: str, **arguments: Any) -> Any:
        number = next(self._number)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": arguments})
        return await asyncio.wait_for(self._answers[number], 30)

    async def open(self, address: str) -> None:
        self._loaded.clear()
        await self.send("Page.navigate", url=address)
        await asyncio.wait_for(self._loaded.wait(), 30)
        await self.see_within(30, "location.href !== 'about:blank' && document.readyState === 'complete'", True)

    async def see(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def see_within(self, seconds: float, script: str, wanted: Any) -> None:
        """Wait until an expression has a value."""
        until = time.monotonic() + seconds
        while (seen := await self.see(script)) != wanted and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert seen == wanted, script

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            what = said.get("params", {})
            match said.get("method"):
                case None:
                    answer = self._answers.pop(said["id"])
                    if "error" in said:
                        answer.set_exception(AssertionError(said["error"]))
                    else:
                        answer.set_result(said["result"])
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Network.requestWillBeSent":
                    self.requested.append(what["request"]["url"])
                case "Runtime.exceptionThrown":
                    self.complaints.append(str(what["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if what["type"] in ("error", "warning", "assert"):
                    self.complaints.append(str(what["args"]))
                case "Log.entryAdded" if what["entry"]["level"] in ("error", "warning"):
                    self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a browser takes orders."""
    profile = tmp_path_factory.mktemp("profile")
    port = profile / "DevToolsActivePort"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 30
            while not (port.is_file() and "\n" in port.read_text()):
                assert process.poll() is None, "the browser ended"
                assert time.monotonic() < until, "the browser does not take orders"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation's folder."""
    return build(tmp_path_factory)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The documentation, served."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *message: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, seconds))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_loads_without_a_complaint_fits_and_asks_no_other_host(
    browser: str, site: Path, address: str, size: tuple[int, int]
) -> None:
    async def look() -> None:
        pages = [str(page.relative_to(site)) for page in site.rglob("*.html")]
        pages[pages.index("search.html")] += "?q=token"  # without a question it is an empty page
        assert len(pages) > 10
        async with Tab(browser, size) as tab:
            for page in pages:
                await tab.open(f"{address}/{page}")
                await tab.see_within(15, "document.querySelector('article').innerText.length > 0", True)
                images = "[...document.querySelectorAll('article img')]"
                assert await tab.see(f"{images}.filter(image => !image.naturalWidth).map(i => i.src)") == [], page
                over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert await tab.see(over) == 0, f"{page} is wider than the screen"
                assert tab.complaints == [], page
        assert {url for url in tab.requested if not url.startswith((address, "data:"))} == set()

    within(100, look())


def test_the_documentation_can_be_read_from_the_disk(browser: str, site: Path) -> None:
    async def look() -> None:
        async with Tab(browser, DESKTOP) as tab:
            await tab.open((site / "guide.html").as_uri())
            assert await tab.see("document.querySelector('article img').naturalWidth") > 0
            assert tab.complaints == []

    within(60, look())


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("close_session", "reference/clients.html"),
        ("meeting page", "quickstart.html"),
        ("max_session_duration", "contract.html"),
    ],
)
def test_the_search_finds_what_is_there(browser: str, address: str, words: str, page: str) -> None:
    async def look() -> None:
        async with Tab(browser, DESKTOP) as tab:
            await tab.open(f"{address}/index.html")
            await tab.see("document.querySelector('.sidebar-search').focus()")
            await tab.send("Input.insertText", text=words)
            for kind in ("keyDown", "keyUp"):
                await tab.send("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")
            found = f"[...document.querySelectorAll('#search-results a')].some(a => a.href.includes('{page}'))"
            await tab.see_within(15, found, True)
            assert tab.complaints == []

    within(60, look())


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_mock_server_shows_sessions_as_they_open_and_end(browser: str, size: tuple[int, int]) -> None:
    async def look() -> None:
        with mock_server() as service:
            api = AsyncLiveAvatarApi(service.api_key, base_url=service.base_url)
            async with Tab(browser, size) as tab, api:
                running_now = "document.getElementById('running').textContent"
                states = "[...document.querySelectorAll('.state b')].map(state => state.textContent)"
                await tab.open(service.url)
                await tab.see_within(5, running_now, "0")
                await tab.see_within(5, "document.getElementById('empty').hidden", False)
                one, _ = [await api.new_session(REQUEST) for _ in range(2)]
                await tab.see_within(5, running_now, "2")
                await api.close_session(one.session_id)
                await tab.see_within(5, running_now, "1")
                await tab.see_within(5, states, ["running", "ended"])  # the newest first
                await api.close_all_sessions()
                await tab.see_within(5, states, ["ended", "ended"])
                assert await tab.see("document.documentElement.scrollWidth - innerWidth") <= 0
                assert await tab.see("document.getElementById('link').textContent") == "live"
                assert tab.complaints == []
                assert {url for url in tab.requested if not url.startswith((service.url, "data:"))} == set()

    within(60, look())
