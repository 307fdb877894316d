"""``python -m liveavatar.demo``: open and close sessions, and show each step as it happens.

Without an account it starts the mock server for itself, and opens one session with the blocking client, then three at
once with the async one. With LIVEAVATAR_API_KEY set it opens one session of the free sandbox avatar at the live
service, or wherever LIVEAVATAR_BASE_URL points.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

from ._constants import API_KEY_VARIABLE
from ._redaction import MASK
from .async_client import AsyncLiveAvatarApi
from .client import LiveAvatarApi
from .errors import LiveAvatarError
from .models import LiveAvatarNewSessionRequest, StandardSessionResponse

if TYPE_CHECKING:
    from .mock import MockServer

WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
"""The one avatar that the live service, too, gives away: its sessions end after a minute and cost nothing."""

_HEADING, _FAINT, _GOOD, _BAD = "1", "2", "32", "31"


def main() -> int:
    """Run the demo.

    Returns:
        The exit code: 0; 1 when a step failed; 2 when the mock server is not installed; 130 after Ctrl-C.
    """
    logger, handler = logging.getLogger("liveavatar"), _CallsShown()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        return _at_the_live_service() if os.environ.get(API_KEY_VARIABLE, "").strip() else _at_a_mock_server()
    except ModuleNotFoundError as missing:
        _say(str(missing), _BAD, to=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except (LiveAvatarError, ValueError, OSError) as failure:
        _say(f"The demo stopped: {failure}", _BAD, to=sys.stderr)
        return 1
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _at_the_live_service() -> int:
    with LiveAvatarApi() as api:
        _say(f"{API_KEY_VARIABLE} is set: one session of the free sandbox avatar, at {api._config.base_url}", _HEADING)
        with api.session(_request()) as session:
            _show(session)
        return _verdict("\nThe client says:", len(api.open_sessions))


def _at_a_mock_server() -> int:
    from .mock import mock_server  # an extra, which the live service does without

    with mock_server() as service:
        _say(f"The mock server, a LiveAvatar service on this machine, listens at {service.base_url}", _HEADING)

        _say("\nOne session, with the blocking client", _HEADING)
        with LiveAvatarApi(service.api_key, base_url=service.base_url) as api, api.session(_request()) as session:
            _show(session)

        _say("\nThree sessions at once, with the async client", _HEADING)
        asyncio.run(_three_at_once(service))

        return _verdict(f"\nThe service says: sessions opened {len(service.sessions)},", len(service.running_sessions))


async def _three_at_once(service: MockServer) -> None:
    async with AsyncLiveAvatarApi(service.api_key, base_url=service.base_url) as api:

        async def open_one() -> None:
            _show(await api.new_session(_request()))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(open_one())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        _say(
            f"  the service says: sessions running {len(service.running_sessions)}; leaving the block closes them",
            _GOOD,
        )


def _request() -> LiveAvatarNewSessionRequest:
    return LiveAvatarNewSessionRequest(avatar_id=WAYNE, is_sandbox=True)


def _show(session: StandardSessionResponse) -> None:
    _say(f"  open     session {session.session_id}", _GOOD)
    _say(f"           room {session.livekit_url}, access token {MASK}, ends after {session.max_session_duration} s")


def _verdict(who: str, running: int) -> int:
    _say(f"{who} sessions running {running}", _BAD if running else _GOOD)
    return 1 if running else 0


class _CallsShown(logging.Handler):
    """Shows each request as the client logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        call = vars(record)
        if record.levelno != logging.DEBUG or "endpoint" not in call:
            _say(f"  {record.getMessage()}", _BAD)
            return
        outcome = call["outcome"]
        good = isinstance(outcome, int) and outcome < 300
        about = f"  session {call['session_id']}" if call["session_id"] else ""
        line = f"  {call['milliseconds']:4.0f} ms  {call['method']} {call['endpoint']}  {outcome}{about}"
        _say(line, _FAINT if good else _BAD)


def _say(line: str, style: str = "", *, to: TextIO | None = None) -> None:
    stream = sys.stdout if to is None else to
    if style and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        line = f"\x1b[{style}m{line}\x1b[0m"
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
