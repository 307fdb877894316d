"""The registry of the sessions that a client has opened."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import pytest
from liveavatar import LiveAvatarError, SessionTokenNotFoundError
from liveavatar._constants import MAX_ENDED_IDS
from liveavatar._redaction import Secret
from liveavatar._sessions import Session, Sessions, check_session_id


def opened(sessions: Sessions, session_id: str, token: str = "t") -> Session:
    """Add a session that new_session has returned."""
    session = sessions.add(session_id, Secret(token))
    sessions.mark_starting(session)
    sessions.mark_started(session, session_id)
    return session


def token_of(session: Session) -> str:
    assert session.token is not None
    return session.token.reveal()


def test_lifetime() -> None:
    """A session is tracked from before its start until it is known not to run."""
    sessions = Sessions()
    session = sessions.add("1", Secret("t"))
    seen = [(sessions.ids, sessions.latest_token, len(sessions))]
    sessions.mark_starting(session)
    assert session.start_sent
    seen.append((sessions.ids, sessions.latest_token, len(sessions)))
    sessions.mark_started(session, "1")
    assert session.start_known
    seen.append((sessions.ids, sessions.latest_token, len(sessions)))
    sessions.discard(session)
    assert session.ended
    seen.append((sessions.ids, sessions.latest_token, len(sessions)))
    assert seen == [(("1",), None, 1), (("1",), None, 1), (("1",), "t", 1), ((), None, 0)]
    assert sessions.all == ()


def test_id_of_start() -> None:
    """A session has the id that the response to its start gives it, and keeps that of its token beside it."""
    sessions = Sessions()
    session = sessions.add("created", Secret("t"))
    assert session.ids == ("created",)
    sessions.mark_started(session, "started")
    assert sessions.ids == ("started",)
    assert sessions.get("started") is session
    assert session.ids == ("started", "created")


def test_id_of_other_session() -> None:
    """A session keeps its own id if the response names another open session."""
    sessions = Sessions()
    first, second = opened(sessions, "1", "first"), sessions.add("2", Secret("second"))
    sessions.mark_started(second, "1")
    assert sessions.ids == ("1", "2")
    assert (sessions.get("1"), sessions.get("2")) == (first, second)


def test_no_session_at_exit() -> None:
    """A registry that is made during the exit takes no session."""
    sessions = Sessions()
    sessions.at_exit = True
    message = "The interpreter is exiting, so nothing would stop a session that is opened now."
    for add in (sessions.add, sessions.adopt):
        with pytest.raises(LiveAvatarError) as caught:
            add("1", None)
        assert str(caught.value) == message
    sessions.ensure_open()


def test_same_id_twice() -> None:
    """A session does not take the place of an open one with the same id."""
    sessions = Sessions()
    first = sessions.add("1", Secret("first"))
    with pytest.raises(LiveAvatarError, match="open already"):
        sessions.add("1", Secret("second"))
    assert first in sessions
    sessions.discard(first)
    assert sessions.add("1", Secret("third")) in sessions


def test_latest_token() -> None:
    """The latest token is that of the session that was opened last and is still open."""
    sessions = Sessions()
    first, second = opened(sessions, "1", "first"), opened(sessions, "2", "second")
    sessions.add("3", Secret("not yet"))
    assert sessions.latest_token == "second"
    sessions.discard(second)
    assert sessions.latest_token == "first"
    sessions.discard(first)
    assert sessions.latest_token is None


def test_ended_or_unknown() -> None:
    """A session that has ended is told from one that was never opened here."""
    sessions = Sessions()
    sessions.discard(sessions.add("1", Secret("t")))
    with pytest.raises(SessionTokenNotFoundError, match="closed already"):
        sessions.get("1")
    with pytest.raises(SessionTokenNotFoundError, match="did not open it") as caught:
        sessions.get("2")
    assert caught.value.session_id == "2"
    assert "stop_session(session_id)" in str(caught.value)
    sessions.close()
    with pytest.raises(SessionTokenNotFoundError, match="is closed and did not open it"):
        sessions.get("2")


def test_ended_ids_bounded() -> None:
    """Only the ids of the latest ended sessions are remembered, and of those that the service has ended."""
    sessions = Sessions()
    for number in range(MAX_ENDED_IDS + 1):
        sessions.discard_ended(sessions.add(str(number), Secret("t")))
    assert [sessions.take_ended(each) for each in ("0", "1", "1")] == [False, True, False]
    with pytest.raises(SessionTokenNotFoundError, match="did not open it"):
        sessions.get("0")
    for number in (1, MAX_ENDED_IDS):
        with pytest.raises(SessionTokenNotFoundError, match="closed already"):
            sessions.get(str(number))


def release(sessions: Sessions, session_id: str) -> Session:
    session = sessions.get_opened(session_id)
    sessions.release(session)
    return session


def test_release() -> None:
    """A token is handed over once, and is then no longer the client's."""
    sessions = Sessions()
    opened(sessions, "1", "its-token")
    assert token_of(release(sessions, "1")) == "its-token"
    assert sessions.ids == ()
    with pytest.raises(SessionTokenNotFoundError, match="did not open it"):
        release(sessions, "1")


def test_release_while_opening() -> None:
    """A session cannot be released before new_session has returned it, and is not lost by the attempt."""
    sessions = Sessions()
    session = sessions.add("1", Secret("its-token"))
    for mark in (lambda: None, lambda: sessions.mark_starting(session)):
        mark()
        with pytest.raises(SessionTokenNotFoundError, match="still being opened") as caught:
            release(sessions, "1")
        assert caught.value.session_id == "1"
        assert sessions.get("1") is session
    sessions.mark_started(session, "1")
    assert token_of(release(sessions, "1")) == "its-token"


def test_closed() -> None:
    """Once the registry is closed, no session is added, started or returned to the caller; open ones stay."""
    sessions = Sessions()
    waiting, starting = sessions.add("1", Secret("t")), sessions.add("2", Secret("t"))
    sessions.mark_starting(starting)
    sessions.ensure_open()
    sessions.close()
    for attempt in (
        sessions.ensure_open,
        lambda: sessions.add("3", Secret("t")),
        lambda: sessions.mark_starting(waiting),
        lambda: sessions.mark_started(starting, "2"),
    ):
        with pytest.raises(LiveAvatarError, match=r"(?i)client (is|was) closed"):
            attempt()
    assert (waiting.start_sent, starting.start_known, starting.opened) == (False, True, False)
    assert sessions.ids == ("1", "2")


def test_ended_while_opening() -> None:
    """A session that was stopped while it was being opened is neither started nor returned to the caller.

    If its start is carried out all the same, it is tracked again until it is stopped once more.
    """
    sessions = Sessions()
    session = sessions.add("1", Secret("t"))
    sessions.discard(session)
    with pytest.raises(LiveAvatarError, match="Session 1 was closed while"):
        sessions.mark_starting(session)
    assert sessions.ids == ()
    with pytest.raises(LiveAvatarError, match="Session 1 was closed while"):
        sessions.mark_started(session, "1")
    assert sessions.ids == ("1",)
    assert (session.ended, session.opened) == (False, False)


def test_reentrant_lock() -> None:
    """A signal handler may use the registry while its thread is inside it."""
    sessions = Sessions()
    opened(sessions, "1", "its-token")
    released: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        released.append(token_of(release(sessions, "1")))

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        with sessions._lock:
            signal.raise_signal(signal.SIGUSR1)
            assert released == ["its-token"]
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_threads() -> None:
    """Many threads may use one registry."""
    sessions = Sessions()
    tokens: list[str] = []

    def work(name: str) -> None:
        for number in range(100):
            opened(sessions, f"{name}-{number}", f"token-{name}-{number}")
        for number in range(100):
            tokens.append(token_of(release(sessions, f"{name}-{number}")))

    threads = [threading.Thread(target=work, args=(str(name),)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tokens) == sorted(f"token-{name}-{number}" for name in range(8) for number in range(100))
    assert len(sessions) == 0


def test_repr() -> None:
    """No token is in the repr of a session."""
    sessions = Sessions()
    assert "s3cret" not in f"{sessions!r} {sessions.add('1', Secret('s3cret'))!r}"


@pytest.mark.parametrize(
    ("given", "cls", "message"),
    [
        (None, ValueError, "session_id is None; it must be the id of a session (UUID)"),
        ("", ValueError, "session_id is empty; it must be the id of a session (UUID)"),
        (" ", ValueError, "session_id is empty; it must be the id of a session (UUID)"),
        (7, TypeError, "session_id must be a str, not int"),
    ],
)
def test_session_id(given: object, cls: type[Exception], message: str) -> None:
    """A value that cannot be a session's id is an error that names the argument."""
    sessions = Sessions()
    for check in (check_session_id, sessions.get, sessions.get_opened):
        with pytest.raises(cls) as caught:
            check(given)  # type: ignore[operator]
        assert str(caught.value) == message
    assert check_session_id("x") == "x"


def test_adopt() -> None:
    """A session that another client has opened is open here, with the token that it is given."""
    sessions = Sessions()
    session = sessions.adopt("1", Secret("t"))
    assert (session.id, session.opened, session.start_sent, session.start_known) == ("1", True, True, True)
    assert not session.to_recover
    assert session.start_settled
    assert (sessions.ids, sessions.latest_token) == (("1",), "t")
    assert sessions.adopt("1", None) is session
    assert sessions.latest_token == "t"
    assert sessions.adopt("1", Secret("newer")) is session
    assert sessions.latest_token == "newer"
    assert release(sessions, "1") is session


def test_adopt_without_token() -> None:
    """A session without a token is stopped with the API key."""
    sessions = Sessions()
    assert sessions.adopt("1", None).token is None
    assert sessions.latest_token is None


def test_adopt_claimed() -> None:
    """A session that was claimed from a dead process is not stopped any more once the client adopts it."""
    sessions = Sessions()
    session = sessions.claim("1", start_deadline=0.0)
    assert sessions.adopt("1", Secret("t")) is session
    assert not session.to_recover
    assert session.start_known


def test_adopt_closed() -> None:
    """A closed client takes no session over."""
    sessions = Sessions()
    sessions.close()
    with pytest.raises(LiveAvatarError, match="closed"):
        sessions.adopt("1", None)
    assert sessions.ids == ()


def test_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was claimed from a dead process may still be starting until a given time."""
    sessions = Sessions()
    now = 100.0
    monkeypatch.setattr("liveavatar._sessions.time.monotonic", lambda: now)
    session = sessions.claim("1", start_deadline=101.0)
    assert (session.id, session.token, session.start_sent, session.opened) == ("1", None, True, True)
    assert (session.in_ledger, session.to_recover, session.start_known) == (True, True, False)
    assert sessions.find("1") is session
    assert not session.start_settled
    now = 101.0
    assert session.start_settled


def test_only_uuids() -> None:
    """The registry notes whether the service gives ids that are no UUIDs."""
    uuid = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
    for note in (
        lambda sessions, given: sessions.note_id(given),
        lambda sessions, given: sessions.add(given, None),
        lambda sessions, given: sessions.adopt(given, None),
        lambda sessions, given: sessions.claim(given, 0.0),
        lambda sessions, given: sessions.mark_started(Session(uuid, None), given),
    ):
        sessions = Sessions()
        note(sessions, uuid)
        assert sessions.only_uuids
        note(sessions, "7")
        note(sessions, uuid.upper())
        assert not sessions.only_uuids


def test_release_still_opening() -> None:
    """The error for a session that is still being opened says so."""
    sessions = Sessions()
    sessions.add("1", Secret("t"))
    with pytest.raises(SessionTokenNotFoundError, match=r"No token for session '1': it is still being opened\.$"):
        release(sessions, "1")


def test_restore() -> None:
    """A session whose release was interrupted is open again, unless another has its id by now."""
    sessions = Sessions()
    session = opened(sessions, "1")
    release(sessions, "1")
    sessions.restore(session)
    assert sessions.find("1") is session
    release(sessions, "1")
    other = opened(sessions, "1")
    sessions.restore(session)
    assert sessions.find("1") is other


def test_restore_after_another_thread() -> None:
    """A thread whose release was interrupted does not bring back a session that another thread has released."""
    sessions = Sessions()
    session = opened(sessions, "1")
    thread = threading.Thread(target=release, args=(sessions, "1"))
    thread.start()
    thread.join()
    sessions.restore(session)
    assert sessions.ids == ()
    with pytest.raises(SessionTokenNotFoundError):
        sessions.release(session)
