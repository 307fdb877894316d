"""The methods of the async client that call one endpoint, for any session of the account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from liveavatar_client.models import (
    LiveAvatarNewSessionRequest,
    LiveAvatarSessionResponse,
    SessionInfo,
    SessionListType,
    SessionPage,
    SessionTokenResponse,
    SessionTranscript,
    StopReason,
    StopSessionResponse,
)

from ._base import BaseApi
from ._config import parse_credential
from ._pagination import MAX_PAGE_SIZE, Pages
from ._redaction import scrub_traceback

T = TypeVar("T")


class AsyncAccountApi(BaseApi):
    """Calls one endpoint at a time, for any session of the account, those of other programs included."""

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """Return a flow of the client."""
        raise NotImplementedError

    @scrub_traceback
    async def create_session_token(self, request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse:
        """Create a session token. It costs nothing.

        Args:
            request_data: The session's configuration.

        Returns:
            The response of the service; the token is `.data.session_token`.

        Raises:
            LiveAvatarError: The service responded with an error, or not at all.
            TypeError, ValueError: The request is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/create-session-token
        """
        return await self._run(lambda: self._flows.create_session_token(request_data))

    @scrub_traceback
    async def start_session(self, session_token: str) -> LiveAvatarSessionResponse:
        """Start the session of a token. It costs credits per minute until it is stopped.

        The request is sent once, and nothing is stopped if it fails, because the token is yours.
        `error.session_may_be_running` says whether the session may run all the same.

        Args:
            session_token: The token from `create_session_token`.

        Returns:
            The response of the service; `.data` has the room's URL and tokens.

        Raises:
            LiveAvatarError: The service responded with an error, or not at all.
            ValueError, TypeError: The value is not a token.

        Reference: https://docs.liveavatar.com/api-reference/sessions/start-session
        """
        token = parse_credential(session_token, "session_token")
        del session_token
        return await self._run(lambda: self._flows.start_session(token))

    @scrub_traceback
    async def stop_session(
        self, session_id: str, session_token: str | None = None, *, reason: StopReason | str | None = None
    ) -> StopSessionResponse:
        """Stop any session of the account, and report what the service says.

        Args:
            session_id: Id of the session (UUID).
            session_token: The session's own token. Default: the API key is the credential.
            reason: The reason for the account's statistics: a `StopReason` or its value.

        Returns:
            The response of the service.

        Raises:
            LiveAvatarError: The service responded with an error (NotFoundError: it does not know the session), or not
                at all.
            ValueError, TypeError: An argument is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/stop-session
        """
        token = None if session_token is None else parse_credential(session_token, "session_token")
        del session_token
        return await self._run(lambda: self._flows.stop_session(session_id, token, reason))

    @scrub_traceback
    async def keep_session_alive(self, session_id: str) -> None:
        """Reset the idle timer of a session, which otherwise ends after 5 quiet minutes. It goes on costing credits.

        The session's own token is the credential if this client has opened the session, else the API key.

        Args:
            session_id: Id of the session (UUID).

        Raises:
            LiveAvatarError: The service responded with an error (NotFoundError, ConflictError: the session has ended),
                or not at all.
            ValueError, TypeError: The id is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/keep-session-alive
        """
        await self._run(lambda: self._flows.keep_session_alive(session_id))

    def list_sessions(
        self,
        type: SessionListType | str = "active",  # noqa: A002  # the name of the parameter at the service
        *,
        avatar_id: str | None = None,
        context_id: str | None = None,
        page_size: int = MAX_PAGE_SIZE,
    ) -> AsyncIterator[SessionInfo]:
        """List the sessions of the account, those that other programs have opened included.

        The pages are fetched as they are needed. A session that runs all the time is listed once, although others
        start and end meanwhile. Those may be missing from the list, or have ended. The list ends even if the service
        repeats its pages or its count is wrong.

        Args:
            type: "active" for the sessions that run, "historic" for those that have ended.
            avatar_id: List only sessions with this avatar.
            context_id: List only sessions with this context.
            page_size: Sessions per request, 1 to 100.

        Returns:
            An async iterator of the sessions, without duplicates.

        Raises:
            LiveAvatarError: The service responded with an error, or not at all; raised while iterating.
            ValueError, TypeError: An argument is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/list-sessions
        """
        self._flows.sessions.ensure_open()
        return self._iterate(Pages(type, avatar_id, context_id, page_size))

    async def _iterate(self, pages: Pages) -> AsyncIterator[SessionInfo]:
        while not pages.done:
            for session in pages.add(await self._fetch_page(pages.next_query())):
                yield session

    @scrub_traceback
    async def _fetch_page(self, query: dict[str, Any]) -> SessionPage:
        return await self._run(lambda: self._flows.list_page(query))

    @scrub_traceback
    async def get_session(self, session_id: str) -> SessionInfo:
        """Return what the service records about a session: duration, credits, end reason.

        Args:
            session_id: Id of the session (UUID).

        Returns:
            The record. `end_at` and `end_reason` are set once the session has ended.

        Raises:
            LiveAvatarError: The service responded with an error (NotFoundError: it does not know the session), or not
                at all.
            ValueError, TypeError: The id is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/get-session
        """
        return await self._run(lambda: self._flows.get_session(session_id))

    @scrub_traceback
    async def get_session_transcript(
        self, session_id: str, *, start_timestamp: int | None = None, end_timestamp: int | None = None
    ) -> SessionTranscript:
        """Return the transcript of a FULL session.

        Args:
            session_id: Id of the session (UUID).
            start_timestamp: Return only lines from this time on. The service does not document the unit.
            end_timestamp: Return only lines up to this time.

        Returns:
            The transcript; the lines are in `transcript_data`. `next_timestamp` is where the next request continues.

        Raises:
            LiveAvatarError: The service responded with an error, or not at all.
            ValueError, TypeError: An argument is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/get-session-transcript
        """
        return await self._run(lambda: self._flows.get_session_transcript(session_id, start_timestamp, end_timestamp))

    @scrub_traceback
    async def delete_session_events(self, session_id: str) -> None:
        """Delete the stored events of a session, the transcript included, for good.

        Args:
            session_id: Id of the session (UUID).

        Raises:
            LiveAvatarError: The service responded with an error, or not at all.
            ValueError, TypeError: The id is not valid.

        Reference: https://docs.liveavatar.com/api-reference/sessions/delete-session-events
        """
        await self._run(lambda: self._flows.delete_session_events(session_id))

    @scrub_traceback
    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
    ) -> Any:
        """Call an endpoint that has no method here, with the API key and the same timeout, retries and errors.

        Args:
            method: The HTTP method.
            path: The path below the base URL, for example "/users/credits".
            json: The body, if any.
            params: Parameters of the query string, if any; those that are None are left out.
            idempotent: Whether the request may be sent again if its response is lost. Default: only GET may.

        Returns:
            `data` of the response's envelope; the whole body if it has no `data` envelope; None if there is no body.

        Raises:
            LiveAvatarError: The service responded with an error, or not at all.
            ValueError, TypeError: An argument is not valid.
        """
        return await self._run(lambda: self._flows.request(method, path, json, params, idempotent))
