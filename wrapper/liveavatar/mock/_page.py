"""The page for people: the sessions of the mock server, live."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ._settings import Settings

if TYPE_CHECKING:
    from ._state import State

SHOWN = 100  # sessions
_WELL_KNOWN_KEYS = frozenset(Settings().api_keys)
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def page(request: Request) -> Response:
    """Serve the page."""
    text, policy = _page()
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, **_HEADERS})


async def sessions_json(service: State, request: Request) -> Response:
    """Serve what the page shows: the newest sessions, newest first, and totals.

    The API key is included if it is the default one, which everybody knows.
    """
    key = service.settings.api_keys[0]
    facts = {
        "sessions": [asdict(session) for session in service.sessions.snapshots(newest=SHOWN)],
        **service.sessions.totals(),
        "requests": dict(service.requests),
        "api_key": key if key in _WELL_KNOWN_KEYS else None,
    }
    return JSONResponse(facts, headers=_HEADERS)


@cache
def _page() -> tuple[str, str]:
    """Return the page, and the content security policy that allows its own style and script and nothing else."""
    text = (files("liveavatar.mock") / "_page.html").read_text(encoding="utf-8")

    def hash_of(tag: str) -> str:
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"

    policy = {
        "default-src": "'none'",
        "style-src": hash_of("style"),
        "script-src": hash_of("script"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{name} {value}" for name, value in policy.items())
