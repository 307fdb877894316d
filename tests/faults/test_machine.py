"""H20. Calls, cancellations, signals, releases, closings and unusual bytes in any order, over one client."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import types
import unittest.mock
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from liveavatar import LiveAvatarError, SessionTokenNotFoundError

from tests.clients import FLAVOURS
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries
from tests.faults.odd_bytes import FORMS
from tests.faults.pools import started
from tests.faults.server import Exchange, FaultServer
from tests.faults.test_odd_bytes import sends
from tests.faults.test_random import FAULTS

pytestmark = [
    pytest.mark.row("H20"),
    pytest.mark.usefixtures("unclosed_connections"),  # an interrupt may tear one from the pool
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # one may come in a weakref callback
]

LONGEST = 20.0
"""Seconds after which a call is taken for hanging."""

endpoints = st.sampled_from(fault.ENDPOINTS)


class Interrupted(Exception):  # noqa: N818
    """What a signal handler or a debugger raises inside a blocking call."""


class Call:
    """A call in a thread or task of its own, which can be interrupted."""

    def __init__(self, driver: Any, method: str, *args: Any) -> None:
        self.future: Future[Any] = Future()
        self._ident = 0
        self._task: asyncio.Task[Any] | None = None
        self._driver = driver
        if hasattr(driver, "thread"):
            self.future = asyncio.run_coroutine_threadsafe(
                self._await(getattr(driver.api, method)(*args)), driver.thread.loop
            )
        else:
            thread = threading.Thread(target=self._run, args=(getattr(driver.api, method), *args), daemon=True)
            thread.start()

    async def _await(self, coroutine: Any) -> Any:
        self._task = asyncio.current_task()
        return await coroutine

    def _run(self, method: Any, *args: Any) -> None:
        self._ident = threading.get_ident()
        result: Any = None
        failure: BaseException | None = None
        try:
            try:
                result = method(*args)
            except BaseException as error:
                failure = error
        except Interrupted as late:
            failure = late
        finally:
            self._ident = 0
            if failure is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(failure)

    def interrupt(self) -> None:
        if self._task is not None:
            self._driver.thread.loop.call_soon_threadsafe(self._task.cancel)
        elif self._ident:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), ctypes.py_object(Interrupted))

    def ends(self) -> tuple[Any, BaseException | None]:
        try:
            return self.future.result(LONGEST), None
        except TimeoutError:
            assert self.future.done(), "the call hangs"
            raise
        except BaseException as error:
            return None, error


class Sessions(RuleBasedStateMachine):
    """One client, one service, and what happens to them."""

    flavour = "blocking"

    def __init__(self) -> None:
        super().__init__()
        uniform = FastRetries().uniform
        self.patch = unittest.mock.patch("liveavatar._calls.random", types.SimpleNamespace(uniform=uniform))
        self.patch.start()
        self.server = FaultServer()
        self.managers: list[Any] = []
        self.clients: list[Any] = []
        self.released: set[str] = set()
        self.calls: list[tuple[Call, threading.Event]] = []
        self.new_calls = 0
        self.make_client()

    def make_client(self) -> None:
        manager = started(f"{self.flavour} own", self.server.url, timeout=5.0)
        self.managers.append(manager)
        self.clients.append(manager.__enter__())

    @property
    def client(self) -> Any:
        return self.clients[-1]

    @property
    def known(self) -> set[str]:
        return {session_id for client in self.clients for session_id in client.open_sessions}

    def chosen(self, which: int) -> str:
        known = sorted(self.known) or ["11111111-0000-4000-8000-000000000000"]
        return known[which % len(known)]

    def judge(self, method: str, error: BaseException | None) -> None:
        """What any call may raise."""
        if error is not None:
            assert isinstance(error, LiveAvatarError | Interrupted | CancelledError | asyncio.CancelledError), (
                method,
                repr(error),
            )
            if getattr(error, "session_may_be_running", False):
                assert error.session_id in self.known | self.released  # type: ignore[union-attr]

    # -- what happens

    @rule(endpoint=endpoints, name=st.sampled_from(sorted(FAULTS)), times=st.integers(1, 3))
    def arm_a_fault(self, endpoint: str, name: str, times: int) -> None:
        self.server.on(endpoint, FAULTS[name], times)

    @rule(endpoint=endpoints, name=st.sampled_from(sorted(FORMS)))
    def arm_unusual_bytes(self, endpoint: str, name: str) -> None:
        self.server.on(endpoint, sends(FORMS[name]), 1)

    @rule()
    def heal(self) -> None:
        self.server.heal()

    @rule()
    def open_a_session(self) -> None:
        self.new_calls += 1
        session, error = Call(self.client, "new_session", session_request()).ends()
        self.judge("new_session", error)
        if session is not None:
            assert session.session_id in self.known

    @precondition(lambda self: len(self.calls) < 3)
    @rule(endpoint=st.sampled_from(["token", "start"]), interrupts=st.booleans())
    def open_a_session_slowly(self, endpoint: str, interrupts: bool) -> None:
        self.new_calls += 1
        gate, reached = threading.Event(), threading.Event()

        def waits(exchange: Exchange) -> None:
            reached.set()
            fault.waits_for(gate)(exchange)

        with self.server.lock:  # before the faults that are armed already
            self.server._queues[endpoint].insert(0, [waits, 1])
        call = Call(self.client, "new_session", session_request())
        self.calls.append((call, gate))
        if interrupts:
            call.interrupt()
        while not (reached.wait(0.002) or call.future.done()):
            pass
        if not reached.is_set():
            gate.set()

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 2))
    def interrupt_a_call(self, which: int) -> None:
        self.calls[which % len(self.calls)][0].interrupt()

    @precondition(lambda self: self.calls)
    @rule()
    def let_calls_end(self) -> None:
        self.end_calls()

    @rule(which=st.integers(0, 9))
    def close_a_session(self, which: int) -> None:
        chosen = self.chosen(which)
        owner = next((client for client in self.clients if chosen in client.open_sessions), self.client)
        if self.calls:
            self.end_calls()  # the stop may be behind a gate
        _, error = Call(owner, "close_session", chosen).ends()
        self.judge("close_session", error)
        if error is None:
            assert chosen not in owner.open_sessions

    @rule()
    def close_all_sessions(self) -> None:
        self.end_calls()
        self.judge("close_all_sessions", Call(self.client, "close_all_sessions").ends()[1])

    @rule(which=st.integers(0, 9))
    def release_a_session(self, which: int) -> None:
        chosen = self.chosen(which)
        try:
            token = self.client.api.release_session(chosen)
        except SessionTokenNotFoundError:
            return
        assert self.server.ledger.token_of[token] is not None
        self.released.add(chosen)

    @precondition(lambda self: len(self.clients) < 3)
    @rule(waits=st.booleans())
    def close_the_client(self, waits: bool) -> None:
        closing = Call(self.client, "aclose" if self.flavour == "async" else "close")
        if waits:
            closing.future.done() or threading.Event().wait(0.01)
        self.end_calls()
        self.judge("close", closing.ends()[1])
        self.make_client()

    # -- what holds

    def end_calls(self) -> None:
        for _, gate in self.calls:
            gate.set()
        for call, _ in self.calls:
            session, error = call.ends()
            self.judge("new_session", error)
            if session is not None:
                assert session.session_id in self.known | self.released | set(self.server.ledger.stops)
        self.calls.clear()

    @invariant()
    def nothing_runs_unknown(self) -> None:
        ledger = self.server.ledger
        assert len(set(ledger.starts)) == len(ledger.starts) <= self.new_calls
        if not self.calls:
            assert self.server.running <= self.known | self.released

    def teardown(self) -> None:
        try:
            self.end_calls()
            self.server.heal()
            for client in self.clients:
                _, error = Call(client, "close_all_sessions").ends()
                assert error is None, error
            assert self.known == set()
            assert self.server.running <= self.released
        finally:
            for manager in self.managers:
                manager.__exit__(None, None, None)
            self.server.__exit__()
            self.patch.stop()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_any_order_of_events(flavour: str) -> None:
    """What the service runs is known to the client, released, or named in an error; nothing hangs or starts twice."""
    machine = type("Machine", (Sessions,), {"flavour": flavour})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
