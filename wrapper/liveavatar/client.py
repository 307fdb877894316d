"""The blocking client."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

import httpx

from liveavatar_client.models import (
    LiveAvatarNewSessionRequest,
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    StopReason,
    StopSessionResponse,
)

from ._base import BaseApi, note, raise_first
from ._calls import Call, Flow, Step, Wait
from ._config import credential
from ._flows import RESCUE_TIME
from ._secrets import without_locals
from .errors import SessionTokenNotFoundError
from .models import StandardSessionResponse

T = TypeVar("T")


class LiveAvatarApi(BaseApi):
    """Opens and closes LiveAvatar sessions, blocking. One client may be shared by any number of threads.

    Args:
        api_key: the account's API key; without it the environment variable LIVEAVATAR_API_KEY.
        base_url: where the service is; without it LIVEAVATAR_BASE_URL, then `BASE_URL`.
        timeout: seconds one method call may take, retries and waits included.
        max_retries: how many more times a request that is safe to repeat is tried; 0 turns retries off.
        http_client: your own httpx.Client (proxies, CAs, instrumentation); it is never closed or changed here.

    Raises:
        LiveAvatarError: there is no API key.
        ValueError, TypeError: an argument cannot be used.

    Leaving `with LiveAvatarApi() as api:` stops the sessions it opened that are still open.
    """

    @without_locals
    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
        http_client: httpx.Client | None = None,
    ) -> None:
        if http_client is not None and not isinstance(http_client, httpx.Client):
            raise TypeError(f"http_client must be an httpx.Client, not {type(http_client).__name__}")
        self._http_client = http_client
        super().__init__(api_key, base_url, timeout, max_retries)

    def _begin(self) -> None:
        from ._blocking import BlockingTransport  # loaded when a client is made: importing us stays light

        super()._begin()
        self._transport = BlockingTransport(self._config.base_url, self._http_client)

    @without_locals
    def create_session_token(self, request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse:
        """Mint a session token, which costs nothing.

        Args:
            request_data: what the session is to be.

        Raises:
            LiveAvatarError: the service refused, or gave no answer.
            TypeError, ValueError: the request cannot be sent.

        Reference: https://docs.liveavatar.com/reference/create_session_token_v1_sessions_token_post
        """
        return self._run(self._flows.create_session_token(request_data))

    @without_locals
    def start_session(self, session_token: str) -> LiveAvatarSessionResponse:
        """Start the session of a token: from here it costs credits by the minute, until it is stopped.

        One request is sent and never repeated, and nothing is stopped when it fails: the token is yours.
        `error.session_may_be_running` says whether the session may run all the same.

        Args:
            session_token: from `create_session_token`.

        Raises:
            LiveAvatarError: the service refused, or gave no answer.
            ValueError, TypeError: the token cannot be one.

        Reference: https://docs.liveavatar.com/reference/start_session_v1_sessions_start_post
        """
        return self._run(self._flows.start_session(credential(session_token, "session_token")))

    @without_locals
    def stop_session(
        self, session_id: str, session_token: str | None = None, *, reason: StopReason | str | None = None
    ) -> StopSessionResponse:
        """Stop any session of the account, and report what the service says.

        Args:
            session_id: id of the session (UUID).
            session_token: the session's own token; without it the API key is the credential.
            reason: why, for the account's statistics: a `StopReason` or its value.

        Raises:
            LiveAvatarError: the service refused (NotFoundError: it does not know the session), or gave no answer.
            ValueError, TypeError: an argument cannot be used.

        Reference: https://docs.liveavatar.com/reference/stop_session_v1_sessions_stop_post
        """
        token = None if session_token is None else credential(session_token, "session_token")
        return self._run(self._flows.stop_session(session_id, token, reason))

    @without_locals
    def new_session(self, request_data: LiveAvatarNewSessionRequest) -> StandardSessionResponse:
        """Open a session: create its token, remember it, start it.

        If the session cannot be handed to you, it is stopped before this raises: `error.session_may_be_running`
        is True only if that could not be confirmed, and `close_session(error.session_id)` then tries again.

        Args:
            request_data: what the session is to be.

        Raises:
            LiveAvatarError: the service refused, or gave no answer.
            TypeError, ValueError: the request cannot be sent.
        """
        return self._run(self._flows.new_session(request_data))

    @without_locals
    def close_session(self, session_id: str) -> StopSessionResponse:
        """Stop a session that `new_session` opened. One that has ended by itself is no error.

        Args:
            session_id: the id that new_session gave.

        Raises:
            SessionTokenNotFoundError: this client did not open the session, or has closed it; a ValueError too.
            LiveAvatarError: the stop failed; the session is remembered, and this may be called again.
        """
        return self._run(self._flows.close_session(session_id))

    @contextlib.contextmanager
    def session(self, request_data: LiveAvatarNewSessionRequest) -> Iterator[StandardSessionResponse]:
        """A session that is closed when the `with` block ends, whatever happens inside.

        Args:
            request_data: what the session is to be.

        Raises:
            LiveAvatarError: as new_session and close_session; after an exception of the block, that exception
                is raised, with a note if the session could not be closed.
        """
        opened = self.new_session(request_data)
        try:
            yield opened
        except BaseException as error:
            try:
                self._close_if_open(opened.session_id)
            except Exception as failure:
                note(error, failure)
            raise
        self._close_if_open(opened.session_id)

    def close_all_sessions(self) -> None:
        """Stop every session this client opened that is still open; all are tried.

        Raises:
            LiveAvatarError: of the first that could not be stopped, with a note for each other.
        """
        failures: list[BaseException] = []
        for session_id in self.open_sessions:
            try:
                self._close_if_open(session_id)
            except BaseException as error:  # Ctrl-C too: the others are to be stopped all the same
                failures.append(error)
        raise_first(failures)

    def close(self) -> None:
        """Close the local connection pool. Open sessions go on; a ResourceWarning names them."""
        if not self._closed:
            self._warn_of_open_sessions()
            self._closed = True
            self._transport.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._closed:
                self.close_all_sessions()
        except Exception as failure:
            if error is None:
                raise
            note(error, failure)
        finally:
            self.close()

    def _close_if_open(self, session_id: str) -> None:
        with contextlib.suppress(SessionTokenNotFoundError):  # closed meanwhile, by the block or another thread
            self.close_session(session_id)

    def _run(self, flow: Flow[T]) -> T:
        self._check_open()
        return self._drive(flow)

    def _drive(self, flow: Flow[T]) -> T:
        proceed: Callable[[], Step] = functools.partial(next, flow)
        while True:
            # The inner loop is inside the try: an interrupt between two steps is the flow's to handle as well.
            try:
                step = proceed()
                while True:
                    step = flow.send(self._perform(step))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BaseException as error:
                if inspect.getgeneratorstate(flow) == inspect.GEN_CLOSED:  # it is the flow that ended with this
                    raise
                proceed = functools.partial(flow.throw, error)

    def _perform(self, step: Step) -> object:
        if isinstance(step, Call):
            return step.result(self._transport.send(step.request()))
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        if step.apart and threading.current_thread() is threading.main_thread():
            return self._drive_apart(step.flow)
        return self._drive(step.flow)

    def _drive_apart(self, flow: Flow[T]) -> T:
        """Perform a flow in a thread, for signals only reach the main one; an interrupt is raised after it."""
        results: list[T] = []
        failures: list[BaseException] = []
        claim, running = threading.Lock(), threading.Lock()  # C's, which an interrupt cannot leave half taken
        running.acquire()

        def work() -> None:
            if claim.acquire(blocking=False):  # once, should the thread's start be interrupted and repeated
                try:
                    results.append(self._drive(flow))
                except BaseException as error:
                    failures.append(error)
                running.release()

        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(work,), name="liveavatar-stop", daemon=True)
        interruption: BaseException | None = None
        unstartable = False
        until = time.monotonic() + RESCUE_TIME + 1.0  # the flow ends by itself before that
        while not (results or failures) and time.monotonic() < until:
            try:
                if unstartable:
                    work()
                elif thread.ident is None:
                    thread.start()
                running.acquire(timeout=max(0.0, until - time.monotonic()))
            except RuntimeError:
                unstartable = True  # the interpreter is shutting down, or out of threads
            except BaseException as error:
                interruption = error
        if interruption is not None:
            raise interruption
        if failures:
            raise failures[0]
        if not results:
            raise TimeoutError("the stop did not end in its time")
        return results[0]
