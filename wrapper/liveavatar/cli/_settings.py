"""Where the service is and who asks: flags, then the environment, then the file `.env` of the working folder."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from dotenv import dotenv_values

from .._constants import API_KEY_VARIABLE, BASE_URL, BASE_URL_VARIABLE
from .._proxies import is_loopback
from ..client import LiveAvatarApi
from ..errors import LiveAvatarError
from ._failures import Misconfigured, StillRunning

_FLAG = "--base-url"


@attrs.frozen
class Settings:
    """What was found, and where. The key itself stays in the environment."""

    base_url: str | None
    """None: the package's default."""
    url_from: str
    key_from: str | None
    """None: there is no key."""

    def stop_command(self, session_ids: Iterable[str]) -> str:
        """What stops sessions from a shell."""
        flag = ["--base-url", str(self.base_url)] if self.url_from == _FLAG else []
        return shlex.join(["liveavatar", "close", *flag, *session_ids])


def load(base_url: str | None = None) -> Settings:
    """Take what the environment lacks from `.env`, for this process alone.

    Args:
        base_url: the flag's value.

    Raises:
        Misconfigured: `.env` cannot be read, or would send a key elsewhere that is not its own.
    """
    file = _read(Path(".env"))
    set_already = {name for name in file if os.environ.get(name, "").strip()}
    taken = {name: value for name, value in file.items() if name not in set_already}
    if (
        base_url is None
        and BASE_URL_VARIABLE in taken
        and API_KEY_VARIABLE not in taken
        and os.environ.get(API_KEY_VARIABLE)
    ):
        # A folder got from somebody else is not to have the user's own key sent where it likes.
        host = urlsplit(taken[BASE_URL_VARIABLE]).hostname or ""
        if not is_loopback(host) and host != urlsplit(BASE_URL).hostname:
            raise Misconfigured(
                f"this folder's .env names the service {host}, and the API key is not from there. "
                f"If you trust it, set {BASE_URL_VARIABLE} in the environment, or put the key into .env too."
            )
    os.environ.update(taken)
    key_set, url_set = (os.environ.get(name, "").strip() for name in (API_KEY_VARIABLE, BASE_URL_VARIABLE))
    return Settings(
        base_url=base_url if base_url is not None else url_set or None,
        url_from=_FLAG if base_url is not None else _origin(BASE_URL_VARIABLE, taken) if url_set else "default",
        key_from=_origin(API_KEY_VARIABLE, taken) if key_set else None,
    )


@contextlib.contextmanager
def connected(settings: Settings, *, timeout: float = 60.0, max_retries: int = 2) -> Iterator[LiveAvatarApi]:
    """A client that stops on the way out what it has opened.

    Raises:
        Misconfigured: the settings make no client.
        StillRunning: a session could not be stopped.
    """
    if settings.key_from is None:
        raise Misconfigured(f"there is no API key. Set {API_KEY_VARIABLE} in the environment, or in a file .env here.")
    try:
        api = LiveAvatarApi(base_url=settings.base_url, timeout=timeout, max_retries=max_retries)
    except (LiveAvatarError, ValueError) as error:
        raise Misconfigured(in_flags(error)) from error
    try:
        with api:
            yield api
    except BaseException as error:
        if api.open_sessions:
            raise StillRunning(api.open_sessions, settings.stop_command(api.open_sessions)) from error
        raise


def in_flags(error: Exception) -> str:
    """What the client says of its arguments, in the names that the command line has for them."""
    return str(error).replace("api_key", API_KEY_VARIABLE).replace("base_url", f"{_FLAG} or {BASE_URL_VARIABLE}")


def _read(path: Path) -> dict[str, str]:
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, ValueError) as error:
        raise Misconfigured(f".env cannot be read: {error}") from error
    return {
        name: value for name in (API_KEY_VARIABLE, BASE_URL_VARIABLE) if (value := (values.get(name) or "").strip())
    }


def _origin(name: str, taken: dict[str, str]) -> str:
    return ".env" if name in taken else "environment"
