"""The documentation and the mock server's page work in a real browser.

The tests drive the browser over its DevTools protocol with aiohttp.
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
    """One tab of the browser, the URLs it requested, and the errors it logged."""

    def __init__(self, browser: str, size: tuple[int, int]) -> None:
        self.errors: list[str] = []
        self.requested: list[str] = []
        self._browser = browser
        self._size = size
        self._number = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        async with self._http.put(f"{self._browser}/json/new?about:blank") as reply:
            self._target = await reply.json()
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
        self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": arguments})
        return await asyncio.wait_for(self._replies[number], 30)

    async def open(self, address: str) -> None:
        self._loaded.clear()
        await self.send("Page.navigate", url=address)
        await asyncio.wait_for(self._loaded.wait(), 30)
        await self.see_within(30, "location.href !== 'about:blank' && document.readyState === 'complete'", True)

    async def see(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        reply = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    async def see_within(self, seconds: float, script: str, wanted: Any) -> None:
        """Wait until an expression has a value."""
        until = time.monotonic() + seconds
        while (seen := await self.see(script)) != wanted and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert seen == wanted, script

    async def _read(self) -> None:
        async for message in self._socket:
            event = message.json()
            params = event.get("params", {})
            match event.get("method"):
                case None:
                    reply = self._replies.pop(event["id"])
                    if "error" in event:
                        reply.set_exception(AssertionError(event["error"]))
                    else:
                        reply.set_result(event["result"])
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Network.requestWillBeSent":
                    self.requested.append(params["request"]["url"])
                case "Runtime.exceptionThrown":
                    self.errors.append(str(params["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                    self.errors.append(str(params["args"]))
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a browser, and return the URL of its DevTools."""
    profile = tmp_path_factory.mktemp("profile")
    port = profile / "DevToolsActivePort"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 30
            while not (port.is_file() and "\n" in port.read_text()):
                assert process.poll() is None, "the browser ended"
                assert time.monotonic() < until, "the browser does not start"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the documentation site."""
    return build(tmp_path_factory)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the documentation site, and return its URL."""

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


# Elements of the page's text that are wider than their place: cut off, sticking out of the text, or in a part that
# scrolls and does not show it by a scroll bar, a shadow at its edge, or a hint below it.
OVERFLOWS = """(() => {
    const article = document.querySelector('article'), found = [];
    const margin = 16;  // the theme draws headings and tables a little wider than the text
    const limit = Math.min(article.getBoundingClientRect().right + margin, document.documentElement.clientWidth) + 1;
    const scrolls = element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX);
    for (const element of article.querySelectorAll(':not(svg *)')) {
        const name = `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 40)}`;
        const style = getComputedStyle(element);
        if (element.matches('.headerlink, .copybtn, .copybtn *') || style.display === 'inline') continue;
        if (element.clientWidth && element.scrollWidth > element.clientWidth + 1) {
            const borders = parseFloat(style.borderTopWidth) + parseFloat(style.borderBottomWidth);
            const bar = element.offsetHeight - element.clientHeight - borders > 4;
            const shadow = style.backgroundImage.includes('gradient') && style.backgroundAttachment.includes('scroll');
            const hint = getComputedStyle(element, '::after').content.includes('Scroll');
            if (['hidden', 'clip'].includes(style.overflowX)) found.push(`cut: ${name}`);
            else if (scrolls(element) && !(bar || shadow || hint)) found.push(`no sign: ${name}`);
        }
        let parent = element.parentElement;
        while (parent !== article && !scrolls(parent)) parent = parent.parentElement;
        if (parent === article && element.getBoundingClientRect().right > limit) found.push(`sticks out: ${name}`);
    }
    return found;
})()"""
# Parts other than code that scroll at all: none on a wide screen.
SCROLLERS = """[...document.querySelectorAll('article :not(pre)')]
    .filter(element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX))
    .filter(element => element.scrollWidth > element.clientWidth + 1 && !element.closest('details'))
    .map(element => `${element.tagName} ${element.textContent.trim().slice(0, 60)}`)"""

# Links whose color has less contrast with the page than WCAG's level AA asks for, 4.5 to 1.
FAINT_LINKS = """(() => {
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const light = color => numbers(color).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
        for (let it = element; it; it = it.parentElement) {
            const color = getComputedStyle(it).backgroundColor;
            if ((numbers(color)[3] ?? 1) === 1) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const links = [...document.querySelectorAll('article a[href]:not(.headerlink)')];
    return links.filter(link => link.innerText).filter(link => {
        const [one, two] = [light(getComputedStyle(link).color), light(behind(link))];
        return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05) < 4.5;
    }).map(link => `${link.innerText} ${getComputedStyle(link).color}`);
})()"""


@pytest.mark.site
@pytest.mark.parametrize(("size", "theme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_documentation_pages(browser: str, site: Path, address: str, size: tuple[int, int], theme: str) -> None:
    """Each page loads without an error, fits the screen or visibly scrolls, and loads nothing from another host."""

    async def look() -> None:
        pages = [str(page.relative_to(site)) for page in site.rglob("*.html")]
        pages[pages.index("search.html")] += "?q=token"  # without a query it is an empty page
        assert len(pages) > 10
        async with Tab(browser, size) as tab:
            await tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            for page in pages:
                await tab.open(f"{address}/{page}")
                await tab.see_within(15, "document.querySelector('article').innerText.length > 0", True)
                images = "[...document.querySelectorAll('article img')]"
                assert await tab.see(f"{images}.filter(image => !image.naturalWidth).map(i => i.src)") == [], page
                over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert await tab.see(over) == 0, f"{page} is wider than the screen"
                assert await tab.see(OVERFLOWS) == [], page
                if size == DESKTOP:
                    assert await tab.see(SCROLLERS) == [], page
                assert await tab.see(FAINT_LINKS) == [], page
                assert tab.errors == [], page
        assert {url for url in tab.requested if not url.startswith((address, "data:"))} == set()

    within(100, look())


@pytest.mark.site
def test_overflow_is_seen(browser: str, address: str) -> None:
    """The check above finds what is cut off, sticks out, or scrolls without a scroll bar."""
    wide = "<div style='width:3000px;height:10px'>wide</div>"
    parts = {
        "cut": f"<div style='overflow:hidden'>{wide}</div>",
        "sticks out": wide,
        "no sign": f"<div style='overflow-x:auto;scrollbar-width:none'>{wide}</div>",
    }

    async def look() -> None:
        async with Tab(browser, PHONE) as tab:
            await tab.open(f"{address}/index.html")
            for kind, part in parts.items():
                await tab.see(f"document.querySelector('article').innerHTML = `{part}`")
                assert kind in [found.partition(":")[0] for found in await tab.see(OVERFLOWS)]
            await tab.see(f"document.querySelector('article').innerHTML = `<div class='table-wrapper'>{wide}</div>`")
            assert await tab.see(OVERFLOWS) == []
            await tab.see("document.querySelector('article').innerHTML = '<a style=\"color:#888\" href=x>faint</a>'")
            assert await tab.see(FAINT_LINKS) != []

    within(60, look())


@pytest.mark.site
def test_documentation_from_disk(browser: str, site: Path) -> None:
    """The documentation also works from a folder, without a server."""

    async def look() -> None:
        async with Tab(browser, DESKTOP) as tab:
            await tab.open((site / "guide.html").as_uri())
            assert await tab.see("document.querySelector('article img').naturalWidth") > 0
            assert tab.errors == []

    within(60, look())


@pytest.mark.site
@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("close_session", "reference/clients.html"),
        ("meeting page", "quickstart.html"),
        ("max_session_duration", "contract.html"),
    ],
)
@pytest.mark.site
def test_search(browser: str, address: str, words: str, page: str) -> None:
    """The search finds the page for a name or a phrase."""

    async def look() -> None:
        async with Tab(browser, DESKTOP) as tab:
            await tab.open(f"{address}/index.html")
            await tab.see("document.querySelector('.sidebar-search').focus()")
            await tab.send("Input.insertText", text=words)
            for kind in ("keyDown", "keyUp"):
                await tab.send("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")
            found = f"[...document.querySelectorAll('#search-results a')].some(a => a.href.includes('{page}'))"
            await tab.see_within(15, found, True)
            assert tab.errors == []

    within(60, look())


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_mock_server_page(browser: str, size: tuple[int, int]) -> None:
    """The mock server's page shows sessions as they open and end."""

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
                reasons = "[...document.querySelectorAll('.state small')].map(reason => reason.textContent)"
                await tab.see_within(5, reasons, ["", "closed by client"])
                assert "LIVEAVATAR_API_KEY=mock-key" in await tab.see("document.getElementById('exports').textContent")
                await api.close_all_sessions()
                await tab.see_within(5, states, ["ended", "ended"])
                assert await tab.see("document.documentElement.scrollWidth - innerWidth") <= 0
                assert await tab.see("document.getElementById('link').textContent") == "live"
                assert tab.errors == []
                assert {url for url in tab.requested if not url.startswith((service.url, "data:"))} == set()

    within(60, look())
