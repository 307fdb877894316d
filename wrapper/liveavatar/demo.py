"""``python -m liveavatar.demo``: open and close sessions, and show each step as it happens.

Without an account it starts a mock server, opens one session with the blocking client, and then three at once with the
async client. With LIVEAVATAR_API_KEY set it opens one free trial session at the live service, or at
LIVEAVATAR_BASE_URL.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from ._constants import API_KEY_VARIABLE, BASE_URL_VARIABLE
from ._redaction import MASK
from .async_client import AsyncLiveAvatarApi
from .client import LiveAvatarApi
from .errors import LiveAvatarError
from .models import LiveAvatarNewSessionRequest, StandardSessionResponse

if TYPE_CHECKING:
    from .mock import MockServer

WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
"""The avatar of the free trial. Its sessions end after a minute and cost nothing, at the live service, too."""

_HEADING, _DETAIL, _GOOD, _BAD = "1", "2", "32", "31"


def main() -> int:
    """Run the demo.

    Returns:
        The exit code: 0; 1 if a step failed; 2 if the mock server is not installed; 130 after Ctrl-C.
    """
    logger, handler = logging.getLogger("liveavatar"), _Warnings(logging.WARNING)
    logger.addHandler(handler)
    try:
        return _use_live_service() if os.environ.get(API_KEY_VARIABLE, "").strip() else _use_mock_server()
    except ModuleNotFoundError as error:
        _print(str(error), _BAD, to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except (LiveAvatarError, ValueError, OSError) as error:
        _print(f"The demo failed: {error}", _BAD, to=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)


def _use_live_service() -> int:
    base_url = os.environ.get(BASE_URL_VARIABLE, "").strip() or LiveAvatarApi.BASE_URL
    _print(f"{API_KEY_VARIABLE} is set: one free trial session at {base_url}", _HEADING)
    with LiveAvatarApi() as api:
        _open_one(api)
        return _verdict("\nThe client reports:", len(api.open_sessions))


def _use_mock_server() -> int:
    from .mock import mock_server  # an extra, which the live service does not need

    with mock_server() as server:
        _print(f"A mock server, which needs no account, listens at {server.base_url}", _HEADING)

        _print("\nOne session, with the blocking client", _HEADING)
        with LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
            _open_one(api)

        _print("\nThree sessions at once, with the async client", _HEADING)
        asyncio.run(_open_three(server))

        reports = f"\nThe mock server reports: sessions opened {len(server.sessions)},"
        return _verdict(reports, len(server.running_sessions))


def _open_one(api: LiveAvatarApi) -> None:
    started = time.monotonic()
    with api.session(_request()) as session:
        _show(session, time.monotonic() - started)
        stopping = time.monotonic()
    _print(f"  stopped  {session.session_id} in {_milliseconds(time.monotonic() - stopping)}", _GOOD)


async def _open_three(server: MockServer) -> None:
    async with AsyncLiveAvatarApi(server.api_key, base_url=server.base_url) as api:

        async def open_one() -> None:
            started = time.monotonic()
            _show(await api.new_session(_request()), time.monotonic() - started)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(open_one())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        _print(f"  running  {len(server.running_sessions)} sessions; leaving the block stops them", _GOOD)
        stopping = time.monotonic()
    _print(f"  stopped  3 sessions in {_milliseconds(time.monotonic() - stopping)}", _GOOD)


def _request() -> LiveAvatarNewSessionRequest:
    return LiveAvatarNewSessionRequest(avatar_id=WAYNE, is_sandbox=True)


def _show(session: StandardSessionResponse, seconds: float) -> None:
    _print(f"  opened   {session.session_id} in {_milliseconds(seconds)}", _GOOD)
    _print(f"           room {session.livekit_url}, access token {MASK}", _DETAIL)
    _print(f"           ends after {session.max_session_duration} s", _DETAIL)


def _verdict(reports: str, running: int) -> int:
    _print(f"{reports} sessions running {running}", _BAD if running else _GOOD)
    return 1 if running else 0


class _Warnings(logging.Handler):
    """Prints the warnings of the client."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(f"  {record.getMessage()}", _BAD)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _print(line: str, style: str = "", *, to: TextIO | None = None) -> None:
    stream = sys.stdout if to is None else to
    if style and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        line = f"\x1b[{style}m{line}\x1b[0m"
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
