"""The base URL and the API key: from options, then the environment, then the file `.env` of the working folder."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from dotenv import dotenv_values

from .._config import parse_base_url, parse_credential
from .._constants import API_KEY_VARIABLE, BASE_URL, BASE_URL_VARIABLE, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT
from .._proxies import is_loopback
from ..client import LiveAvatarApi
from ..errors import LiveAvatarError
from ..ledger import Ledger
from ._errors import ConfigurationError, SessionsRunningError

_OPTION, _FILE = "--base-url", ".env"


@attrs.frozen
class Settings:
    """What is set and where it was found. The key itself stays in the environment."""

    base_url: str | None
    """None for the default of the package."""
    url_from: str
    key_from: str | None
    """None if there is no key."""

    def stop_command(self, session_ids: Iterable[str]) -> str:
        """Return the shell command that stops sessions."""
        flag = ["--base-url", str(self.base_url)] if self.url_from == _OPTION else []
        return shlex.join(["liveavatar", "close", *flag, *session_ids])

    def check_key(self) -> None:
        """Check the API key.

        Raises:
            ValueError: It is not valid. The message names where it is set.
        """
        parse_credential(os.environ[API_KEY_VARIABLE], _variable(API_KEY_VARIABLE, self.key_from))

    def check_url(self) -> str:
        """Return the full base URL.

        Raises:
            ValueError: It is not valid. The message names where it is set.
        """
        name = _OPTION if self.url_from == _OPTION else _variable(BASE_URL_VARIABLE, self.url_from)
        return parse_base_url(BASE_URL if self.base_url is None else self.base_url, name)


def load(base_url: str | None = None) -> Settings:
    """Read the settings. What the environment lacks is taken from `.env`, for this process alone.

    Args:
        base_url: value of the option.

    Raises:
        ConfigurationError: `.env` cannot be read, or it would send an API key that it does not hold to another host.
    """
    file = _read(Path(_FILE))
    set_already = {name for name in file if os.environ.get(name, "").strip()}
    taken = {name: value for name, value in file.items() if name not in set_already}
    if (
        base_url is None
        and BASE_URL_VARIABLE in taken
        and API_KEY_VARIABLE not in taken
        and os.environ.get(API_KEY_VARIABLE)
    ):
        # The .env of a downloaded folder must not send the user's API key to another host.
        host = urlsplit(taken[BASE_URL_VARIABLE]).hostname or ""
        if not is_loopback(host) and host != urlsplit(BASE_URL).hostname:
            raise ConfigurationError(
                f"the file .env of this folder sets the base URL to {host}, but it does not hold the API key. "
                f"If you trust that host, set {BASE_URL_VARIABLE} in the environment, or add the key to .env."
            )
    os.environ.update(taken)
    key_set, url_set = (os.environ.get(name, "").strip() for name in (API_KEY_VARIABLE, BASE_URL_VARIABLE))
    return Settings(
        base_url=base_url if base_url is not None else url_set or None,
        url_from=_OPTION if base_url is not None else _origin(BASE_URL_VARIABLE, taken) if url_set else "default",
        key_from=_origin(API_KEY_VARIABLE, taken) if key_set else None,
    )


@contextlib.contextmanager
def open_client(
    settings: Settings,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    max_retries: int = DEFAULT_MAX_RETRIES,
    ledger: Ledger | None = None,
) -> Iterator[LiveAvatarApi]:
    """Yield a client, and stop on exit the sessions that it has opened.

    Raises:
        ConfigurationError: the API key is missing, or a setting is invalid.
        SessionsRunningError: a session could not be stopped.
    """
    if settings.key_from is None:
        raise ConfigurationError(
            f"there is no API key. Set {API_KEY_VARIABLE} in the environment or in the file .env of this folder. "
            "Without an account, run `liveavatar mock`: it prints the variables to set."
        )
    try:
        settings.check_key()
        settings.check_url()
        api = LiveAvatarApi(base_url=settings.base_url, timeout=timeout, max_retries=max_retries, ledger=ledger)
    except (LiveAvatarError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    try:
        with api:
            yield api
    except BaseException as error:
        if api.open_sessions:
            raise SessionsRunningError(api.open_sessions, settings.stop_command(api.open_sessions)) from error
        raise


def _read(path: Path) -> dict[str, str]:
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f".env cannot be read: {error}") from error
    return {
        name: value for name in (API_KEY_VARIABLE, BASE_URL_VARIABLE) if (value := (values.get(name) or "").strip())
    }


def _variable(name: str, origin: str | None) -> str:
    """Return the name of a variable and where it is set, for messages."""
    return f"{name} (in the file .env)" if origin == _FILE else name


def _origin(name: str, taken: dict[str, str]) -> str:
    return _FILE if name in taken else "environment"
