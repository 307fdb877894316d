"""The endpoints of the API: one function each.

Everything else about an endpoint follows from its operation in the contract: method, path, credentials, parameters,
body, status, and the checks of request and response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import URL

from ._errors import ApiError
from ._session import Session
from ._transcript import transcript

if TYPE_CHECKING:
    from ._state import State

_ROOM_URL = "wss://room.mock.invalid"  # a name that never resolves
_EVENTS_URL = "wss://events.mock.invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request that has passed authentication and the contract.

    Attributes:
        url: the URL of the request.
        token_session_id: id of the session whose token was sent; None if the API key is the credential.
        body: the JSON body; what a missing body means, if there is none.
        parameters: the parameters of path and query, by name.
    """

    url: URL
    token_session_id: str | None
    body: dict[str, Any]
    parameters: Mapping[str, Any]

    @property
    def session_id(self) -> str:
        """The session that the call is about: that of the token, else the one that the body names.

        Raises:
            ApiError: the request names no session, or another one than its token.
        """
        named: str | None = self.body.get("session_id")
        if self.token_session_id is None:
            if named is None:
                violation = {"loc": ["body", "session_id"], "message": "is required with an API key"}
                raise ApiError(400, "A call with an API key needs the session_id.", [violation])
            return named
        if named is not None and named.lower() != self.token_session_id:
            raise ApiError(403, "The session token belongs to another session.")
        return self.token_session_id


Handler = Callable[["State", Call], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One endpoint: its short name, its operation in the contract, and the function that returns ``data``."""

    name: str
    operation_id: str
    handle: Handler


ENDPOINTS: list[Endpoint] = []


def endpoint(name: str, operation_id: str) -> Callable[[Handler], Handler]:
    """Register a function as the handler of an operation."""

    def register(handle: Handler) -> Handler:
        ENDPOINTS.append(Endpoint(name=name, operation_id=operation_id, handle=handle))
        return handle

    return register


@endpoint("token", "create_session_token")
def create_session_token(service: State, call: Call) -> Any:
    """Create a session and its token."""
    session = service.sessions.create(call.body)
    return {"session_id": session.id, "session_token": service.credentials.session_token(session)}


@endpoint("start", "start_session")
def start_session(service: State, call: Call) -> Any:
    """Start the session, and describe its room."""
    return _room(service, service.sessions.start(call.session_id))


@endpoint("stop", "stop_session")
def stop_session(service: State, call: Call) -> None:
    """Stop the session."""
    service.sessions.stop(call.session_id, call.body.get("reason", "UNKNOWN"))


@endpoint("keep-alive", "keep_session_alive")
def keep_session_alive(service: State, call: Call) -> None:
    """Reset the idle timer of the session."""
    service.sessions.keep_alive(call.session_id)


@endpoint("list", "list_sessions")
def list_sessions(service: State, call: Call) -> Any:
    """Return one page of sessions."""
    names = ("avatar_id", "context_id", "embed_id")
    filters = {name: call.parameters[name].lower() for name in names if call.parameters[name] is not None}

    def matches(session: Session) -> bool:
        return all(getattr(session, name, None) == value for name, value in filters.items())

    number, size = call.parameters["page"], call.parameters["page_size"]
    count, results = service.sessions.page(
        active=call.parameters["type"] == "active", number=number, size=size, matches=matches if filters else None
    )

    def link(page: int) -> str:
        return str(call.url.include_query_params(page=page))

    return {
        "count": count,
        "next": link(number + 1) if number * size < count else None,
        "previous": link(number - 1) if number > 1 else None,
        "results": results,
    }


@endpoint("get", "get_session")
def get_session(service: State, call: Call) -> Any:
    """Return the record of the session."""
    session, now = service.sessions.find(call.parameters["session_id"])
    return session.info(now)


@endpoint("transcript", "get_session_transcript")
def get_session_transcript(service: State, call: Call) -> Any:
    """Return a made-up transcript of the session."""
    session, now = service.sessions.find(call.parameters["session_id"])
    return transcript(session, now, call.parameters["start_timestamp"], call.parameters["end_timestamp"])


@endpoint("delete-events", "delete_session_events")
def delete_session_events(service: State, call: Call) -> None:
    """Delete what has been said in the session so far."""
    session, now = service.sessions.find(call.parameters["session_id"])
    session.events_deleted_at = now


def _room(service: State, session: Session) -> dict[str, Any]:
    def token(identity: str) -> str:
        return service.credentials.room_token(session.id, identity, session.max_duration)

    own = session.livekit_config
    return {
        "session_id": session.id,
        "livekit_url": own["livekit_url"] if own else _ROOM_URL,
        "livekit_client_token": own["livekit_client_token"] if own else token("client"),
        "livekit_agent_token": token("agent") if session.has_agent_token else None,
        "max_session_duration": session.max_duration,
        "ws_url": f"{_EVENTS_URL}/{session.id}?token={token('events')}" if session.has_event_socket else None,
    }
