"""The operations that need one call: each method sends one request, and repeats it where that is safe."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from liveavatar_client.models import (
    LiveAvatarSessionResponse,
    SessionInfo,
    SessionPage,
    SessionTokenResponse,
    SessionTranscript,
    StopReason,
    StopSessionResponse,
)

from ._arguments import check_int, check_params, check_request, check_session_id, check_uuid
from ._calls import IO, Body, call
from ._config import Config
from ._constants import LEDGER_TIMEOUT
from ._endpoints import (
    CREATE_TOKEN,
    DELETE_EVENTS,
    GET,
    KEEP_ALIVE,
    LIST,
    START,
    STOP,
    TRANSCRIPT,
    Endpoint,
    custom,
    has_ended,
    is_error_of,
    is_unknown_path,
)
from ._log import log
from ._redaction import Secret, redact
from ._request_bodies import session_request, stop_request
from ._sessions import Session, Sessions
from .errors import AuthenticationError, LedgerError, LiveAvatarError, NotFoundError

if TYPE_CHECKING:
    from ._account_ledger import AccountLedger

T = TypeVar("T")


class Operations:
    """The operations of one client, and the sessions that it has opened."""

    def __init__(self, config: Config, io: IO, sessions: Sessions | None = None) -> None:
        self._config = config
        self.io = io
        self.sessions = Sessions() if sessions is None else sessions

    async def create_session_token(self, request: object) -> SessionTokenResponse:
        """Create a session token."""
        body = Secret(session_request(request))
        response = await self._call(CREATE_TOKEN, body=body)
        self.sessions.note_id(response.data.session_id)
        return response

    async def start_session(self, token: Secret[str]) -> LiveAvatarSessionResponse:
        """Start the session of a token, without retries: only the owner of the token knows whether one is right."""
        response = await self._call(START, token, max_retries=0)
        self.sessions.note_id(response.data.session_id)
        return response

    async def stop_session(
        self, session_id: str, token: Secret[str] | None, reason: StopReason | str | None
    ) -> StopSessionResponse:
        """Stop any session of the account."""
        body = Secret(stop_request(self._session_id(session_id, has_token=token is not None), reason))
        return await self._call(STOP, token, body, session_id=session_id)

    async def keep_session_alive(self, session_id: str) -> None:
        """Reset the idle timer of a session, with its token if this client has opened it."""
        session = self.sessions.find(self._session_id(session_id)) or Session(session_id, None)
        try:
            await self._keep_alive(session, self.deadline(), None)
        except LiveAvatarError as error:
            await self._note_end(session, error)
            raise

    async def keep_alive_once(self, session: Session, seconds: float) -> None:
        """Reset the idle timer of a session of this client, or discard it if the service says that it has ended."""
        try:
            await self._keep_alive(session, time.monotonic() + min(seconds, self._config.timeout), 0)
        except LiveAvatarError as error:
            if not await self._note_end(session, error):
                raise

    async def _keep_alive(self, session: Session, deadline: float, max_retries: int | None) -> None:
        body = Secret({"session_id": session.id})
        await self.call_for(session, KEEP_ALIVE, deadline, body, max_retries=max_retries)

    async def _note_end(self, session: Session, error: LiveAvatarError) -> bool:
        """Discard a session if an error says that it has ended; return whether it says so."""
        known = session.other_id is None and (session.opened or session not in self.sessions)
        known = known and is_error_of(error, KEEP_ALIVE, session.ids)
        ended = known and has_ended(error, start_known=session.start_settled) and not is_unknown_path(error)
        if ended and self.sessions.discard_ended(session):
            log(logging.INFO, "Session %s has ended: %s", session.id, message(error))
            await self._remove_from_ledger(session.id)
        return ended

    async def list_page(self, query: Mapping[str, Any]) -> SessionPage:
        """Return one page of the list of sessions."""
        page = (await self._call(LIST, query=query)).data
        for entry in page.results:
            self.sessions.note_id(entry.id)
        return page

    async def get_session(self, session_id: str) -> SessionInfo:
        """Return what the service records about a session."""
        response = await self._call(GET, session_id=self._session_id(session_id))
        if response.data is None:
            error = NotFoundError("200 The service has no such session.", 200, "")  # as the contract permits
            error.message = "The service has no such session."
            error.endpoint, error.attempts, error.session_id = GET.full_path, 1, session_id
            raise error
        return response.data

    async def get_session_transcript(self, session_id: str, start: int | None, end: int | None) -> SessionTranscript:
        """Return the transcript of a session."""
        checked = self._session_id(session_id)
        query = {
            name: check_int(value, name)
            for name, value in (("start_timestamp", start), ("end_timestamp", end))
            if value is not None
        }
        response = await self._call(TRANSCRIPT, query=query, session_id=checked)
        return response.data

    async def delete_session_events(self, session_id: str) -> None:
        """Delete the stored events of a session."""
        await self._call(DELETE_EVENTS, session_id=self._session_id(session_id))

    async def request(
        self, method: str, path: str, json: object, params: Mapping[str, Any] | None, idempotent: bool | None
    ) -> Any:
        """Call an endpoint that has no method."""
        method, path = check_request(method, path)
        endpoint = custom(method, path, idempotent=method == "GET" if idempotent is None else idempotent)
        body = None if json is None else Secret(json)
        return await self._call(endpoint, body=body, query=check_params(params))

    def _call(
        self, endpoint: Endpoint[T], token: Secret[str] | None = None, body: Body | None = None, **options: Any
    ) -> Coroutine[Any, Any, T]:
        """Call an endpoint within the client's timeout, unless the client is closed."""
        self.sessions.ensure_open()
        return call(self.io, self._config, endpoint, token, self.deadline(), body, **options)

    async def call_for(
        self, session: Session, endpoint: Endpoint[T], deadline: float, body: Body, **options: Any
    ) -> T:
        """Call an endpoint with the session's own token or, if that is no longer valid, with the API key."""
        options["session_id"] = session.id
        if session.token is not None and session.other_id is None:  # the token may be of either id
            with contextlib.suppress(AuthenticationError):
                return await call(self.io, self._config, endpoint, session.token, deadline, body, **options)
        return await call(self.io, self._config, endpoint, None, deadline, body, **options)

    def _session_id(self, session_id: object, *, has_token: bool = False) -> str:
        """Return the id of a session of the account, unless the client is closed.

        It must be a UUID, unless the service has been seen to give other ids, or the caller has the session's token:
        no session is left running because of this check.

        Raises:
            TypeError, ValueError: It is not an id.
        """
        self.sessions.ensure_open()
        checked = check_session_id(session_id)
        return checked if has_token or not self.sessions.only_uuids else check_uuid(checked, "session_id")

    async def _remove_from_ledger(self, session_id: str) -> None:
        if self.sessions.ledger is not None:
            try:
                await self.in_ledger(lambda ledger: ledger.remove(session_id), LEDGER_TIMEOUT)
            except LedgerError as error:
                log(logging.WARNING, "Session %s could not be removed from the ledger: %s", session_id, error)

    async def in_ledger(self, operation: Callable[[AccountLedger], T], seconds: float | None = None) -> T:
        """Perform an operation on the ledger. A cancellation does not leave it half done.

        Raises:
            LedgerError: The operation failed, or has taken longer than `seconds`.
        """
        ledger = self.sessions.ledger
        assert ledger is not None
        return await self.io.shield(lambda: self.io.call_ledger(lambda: operation(ledger), seconds))

    def deadline(self) -> float:
        """Return the time on `time.monotonic` at which a call that begins now must have ended."""
        return time.monotonic() + self._config.timeout


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, if its class allows it."""
    with contextlib.suppress(Exception):
        error.add_note(note)


def message(error: BaseException) -> str:
    """Return what an exception says, without secrets, or the name of its class."""
    return redact(str(error)) or type(error).__name__
