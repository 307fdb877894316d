"""Programs that end with sessions open: `python -m tests.faults.endings NAME URL`."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from liveavatar import LiveAvatarApi, LiveAvatarError, LiveAvatarNewSessionRequest

if TYPE_CHECKING:  # many of these programs are started: each imports only what it needs
    from liveavatar import AsyncLiveAvatarApi

KEY = "CANARY-api-key"

kept: list[Any] = []
"""What lives until the interpreter ends."""


def session_request() -> LiveAvatarNewSessionRequest:
    return LiveAvatarNewSessionRequest(avatar_id="7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742")


def blocking(url: str, **settings: Any) -> LiveAvatarApi:
    return LiveAvatarApi(KEY, base_url=url, **{"timeout": 20} | settings)


def coming(url: str, *args: Any, **settings: Any) -> AsyncLiveAvatarApi:
    from liveavatar import AsyncLiveAvatarApi

    return AsyncLiveAvatarApi(KEY, *args, base_url=url, **{"timeout": 20} | settings)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # a signal handler may say something too, which a print would not let it


# ---------------------------------------------------------------------------------------------------------------
# The end of the interpreter, blocking.


def end_of_script(url: str) -> None:
    kept.append(blocking(url))
    kept[0].new_session(session_request())


def local_client(url: str) -> None:
    blocking(url).new_session(session_request())


def collected_client(url: str) -> None:
    """Sessions of clients that are garbage-collected; the program ends before their stops do."""
    cleanup_timeout(1.0)
    local_client(url)
    say("ending")


def collected_client_of_a_busy_machine(url: str) -> None:
    """The same, and the thread that stops the session is too slow to log its WARNING."""
    local_client(url)
    cleanup_timeout(1.0)
    say("ending")


async def async_collected_client(url: str) -> None:
    cleanup_timeout(1.0)
    api = coming(url)
    await api.new_session(session_request())
    del api
    gc.collect()
    say("ending")


def collected_without_finalizers(url: str) -> None:
    """As an exit hook that drops a client after that of weakref has ended all finalizers."""
    weakref.finalize._shutdown = True  # type: ignore[attr-defined]
    local_client(url)


def client_in_a_cycle(url: str) -> None:
    api: Any = blocking(url)
    api.new_session(session_request())
    holder = [api]
    holder.append(holder)


def cleanup_timeout(seconds: float) -> None:
    """Set how long the end of a program may take: on a busy machine longer than usual, or not worth waiting for."""
    from liveavatar import _shutdown

    _shutdown.CLEANUP_TIMEOUT = seconds


def log_filter_that_raises(url: str) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("the program's own")

    end_of_script(url)
    logging.getLogger("liveavatar").addFilter(refuse)


def client_during_the_exit(url: str) -> None:
    """Daemon threads go on to create clients while the exit looks for those with open sessions."""
    sys.setswitchinterval(1e-4)
    end_of_script(url)
    kept.extend(blocking(url) for _ in range(300))

    def create() -> None:
        while True:
            kept.append(blocking(url))

    for _ in range(2):
        threading.Thread(target=create, daemon=True).start()
    time.sleep(0.2)


def fork_hook(url: str) -> None:
    """A child of multiprocessing leaves a session open; a fork hook has used a client before the child was set up."""
    import multiprocessing

    with blocking(url) as api:
        os.register_at_fork(after_in_child=lambda: api.open_sessions)
        child = multiprocessing.get_context("fork").Process(target=end_of_script, args=(url,))
        child.start()
        child.join()


def child_of_multiprocess(url: str) -> None:
    """A child of dill's `multiprocess`, which is multiprocessing under another name, leaves a session open."""
    import importlib.util
    import multiprocessing

    spec = importlib.util.spec_from_file_location("multiprocess", multiprocessing.__file__)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["multiprocess"] = multiprocess = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(multiprocess)
    child = multiprocess.get_context("fork").Process(target=end_of_script, args=(url,))
    child.start()
    child.join()


def celery_pool(url: str) -> None:
    """End like a process of Celery's pool: a signal, then os._exit(). See tests/test_celery.py for a real one."""
    end_celery_process(lambda: end_of_script(url))


def end_celery_process(work: Callable[[], object]) -> None:
    from types import ModuleType

    receivers: dict[str, Any] = {}

    class Signal:
        def connect(self, receiver: Any, weak: bool, dispatch_uid: str) -> None:
            assert not weak
            receivers[dispatch_uid] = receiver

    sys.modules["celery.signals"] = signals = ModuleType("celery.signals")
    signals.worker_process_shutdown = Signal()  # type: ignore[attr-defined]
    work()
    for receiver in receivers.values():
        receiver(signal=signals.worker_process_shutdown, sender=None, pid=os.getpid(), exitcode=0)
    os._exit(0)


def hanging_stop(url: str) -> None:
    cleanup_timeout(1.0)
    end_of_script(url)
    say("ending")


def sys_exit(url: str) -> None:
    end_of_script(url)
    sys.exit(3)


def unhandled_exception(url: str) -> None:
    end_of_script(url)
    raise RuntimeError("the program's own")


def opened_in_a_thread(url: str) -> None:
    thread = threading.Thread(target=end_of_script, args=(url,))
    thread.start()
    thread.join()


def daemon_thread(url: str) -> None:
    opened = threading.Event()

    def work() -> None:
        with blocking(url).session(session_request()):
            opened.set()
            time.sleep(60)

    threading.Thread(target=work, daemon=True).start()
    opened.wait()


def two_clients(url: str) -> None:
    for _ in range(2):
        kept.append(blocking(url))
        kept[-1].new_session(session_request())
        kept[-1].new_session(session_request())


def many_sessions(url: str) -> None:
    kept.append(blocking(url))
    for _ in range(20):
        kept[0].new_session(session_request())
    say("ending")


def released_session(url: str) -> None:
    kept.append(blocking(url))
    kept[0].release_session(kept[0].new_session(session_request()).session_id)


def say_if_refused(work: Callable[[], object]) -> None:
    try:
        work()
    except LiveAvatarError as error:
        say(f"refused: {error}")


def opened_in_an_exit_hook(url: str) -> None:
    """A client that is made by an exit hook, after our own has run."""
    atexit.register(say_if_refused, lambda: end_of_script(url))
    blocking(url)


def first_client_in_an_exit_hook(url: str) -> None:
    atexit.register(say_if_refused, lambda: end_of_script(url))


def async_first_client_in_an_exit_hook(url: str) -> None:
    atexit.register(say_if_refused, lambda: asyncio.run(async_end_of_run(url)))


def first_client_after_the_main_thread(url: str) -> None:
    """A thread that outlives the main thread makes the first client."""

    def run() -> None:
        threading.main_thread().join()
        end_of_script(url)

    threading.Thread(target=run).start()


def stopped_in_an_exit_hook(url: str) -> None:
    """A client that is made by an exit hook, after our own has run, stops a session of the account."""
    atexit.register(lambda: say(str(blocking(url).stop_session(session_id).message)))
    with blocking(url) as api:
        session_id = api.new_session(session_request()).session_id
        api.release_session(session_id)


async def async_stopped_in_an_exit_hook(url: str) -> None:
    async def stop() -> None:
        async with coming(url) as other:
            say(str((await other.stop_session(session_id)).message))

    atexit.register(lambda: asyncio.run(stop()))
    async with coming(url) as api:
        session_id = (await api.new_session(session_request())).session_id
        api.release_session(session_id)


async def async_opened_in_an_exit_hook(url: str) -> None:
    atexit.register(say_if_refused, lambda: asyncio.run(async_end_of_run(url)))
    coming(url)


def no_descriptors(url: str) -> None:
    """A program that has no file descriptors left, not even to import asyncio."""
    end_of_script(url)
    for name in [name for name in sys.modules if name.partition(".")[0] == "asyncio"]:
        del sys.modules[name]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass


def closed_session(url: str) -> None:
    kept.append(blocking(url))
    kept[0].close_session(kept[0].new_session(session_request()).session_id)
    say(f"threads: {threading.active_count()}")


def closed_client(url: str) -> None:
    with blocking(url) as api:
        kept.append(api)
        api.new_session(session_request())


def own_httpx_client(url: str) -> None:
    import httpx

    with httpx.Client() as http:
        kept.append(blocking(url, http_client=http))
        kept[0].new_session(session_request())


def own_httpx_client_dripping(url: str) -> None:
    import httpx

    cleanup_timeout(1.0)
    kept.append(blocking(url, timeout=600, http_client=httpx.Client(timeout=600)))
    kept[0].new_session(session_request())


def own_httpx_client_interrupted(url: str) -> None:
    import httpx

    graceful()
    kept.append(blocking(url, http_client=httpx.Client()))
    for _ in range(2):
        kept[0].new_session(session_request())


def exit_hook_is_interrupted(url: str) -> None:
    graceful()
    end_of_script(url)
    interrupt_exit_hook()


async def async_exit_hook_is_interrupted(url: str) -> None:
    graceful()
    await async_end_of_run(url)
    interrupt_exit_hook()


def interrupt_exit_hook() -> None:
    """Interrupt the exit hook twice, before it sends anything."""
    run = asyncio.Runner
    signals = iter((signal.SIGINT, signal.SIGTERM))

    def interrupted(**settings: Any) -> asyncio.Runner:
        if (number := next(signals, None)) is not None:
            signal.raise_signal(number)
        return run(**settings)

    atexit.register(lambda: setattr(asyncio, "Runner", interrupted))  # it runs before the exit hook of the clients


def forked(url: str) -> None:
    """A child that ends as programs do leaves its parent's session alone."""
    end_of_script(url)
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    say(f"open: {len(kept[0].open_sessions)}")
    sys.stdin.readline()


def forked_with_its_own(url: str) -> None:
    """A child that opens a session of its own, and ends without closing it, stops that one alone."""
    end_of_script(url)
    if os.fork() == 0:
        kept[0].new_session(session_request())
        sys.exit(0)
    os.wait()
    say(f"open: {len(kept[0].open_sessions)}")
    sys.stdin.readline()


def forked_with_threads(url: str) -> None:
    """Threads of a child that use the client for the first time, all at once, open one session each."""
    end_of_script(url)
    if os.fork() == 0:
        together = threading.Barrier(8)

        def open_one() -> None:
            together.wait()
            kept[0].new_session(session_request())

        threads = [threading.Thread(target=open_one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(f"child: {len(kept[0].open_sessions)}")
        sys.exit(0)
    os.wait()
    say(f"open: {len(kept[0].open_sessions)}")
    sys.stdin.readline()


def forked_at_once(url: str) -> None:
    """A child that leaves by os._exit does nothing."""
    end_of_script(url)
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    say(f"open: {len(kept[0].open_sessions)}")
    sys.stdin.readline()


# ---------------------------------------------------------------------------------------------------------------
# The end of the interpreter, async.


async def async_end_of_run(url: str) -> None:
    kept.append(coming(url))
    await kept[0].new_session(session_request())


def async_celery_pool(url: str) -> None:
    end_celery_process(lambda: asyncio.run(async_end_of_run(url)))


async def async_hanging_stop(url: str) -> None:
    cleanup_timeout(1.0)
    await async_end_of_run(url)
    say("ending")


async def async_sys_exit(url: str) -> None:
    await async_end_of_run(url)
    sys.exit(3)


async def async_unhandled_exception(url: str) -> None:
    await async_end_of_run(url)
    raise RuntimeError("the program's own")


async def async_many_sessions(url: str) -> None:
    kept.append(coming(url))
    await asyncio.gather(*(kept[0].new_session(session_request()) for _ in range(20)))
    say("ending")


async def async_released_session(url: str) -> None:
    kept.append(coming(url))
    kept[0].release_session((await kept[0].new_session(session_request())).session_id)
    await kept[0].aclose()


async def async_closed_client(url: str) -> None:
    async with coming(url) as api:
        kept.append(api)
        await api.new_session(session_request())


async def async_own_aiohttp_session(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        kept.append(coming(url, session))
        await kept[0].new_session(session_request())


async def async_own_httpx_client(url: str) -> None:
    import httpx

    async with httpx.AsyncClient() as http:
        kept.append(coming(url, http_client=http))
        await kept[0].new_session(session_request())


async def async_abandoned_task(url: str) -> None:
    """A task that holds a session when asyncio.run ends is cancelled by it."""
    api = coming(url)
    opened = asyncio.Event()

    async def work() -> None:
        async with api.session(session_request()):
            opened.set()
            await asyncio.sleep(60)

    kept.append(asyncio.create_task(work()))
    await opened.wait()
    await asyncio.sleep(0)


def async_loop_left_open(url: str) -> None:
    """A loop that is neither run again nor closed."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(async_end_of_run(url))
    kept.append(loop)


# ---------------------------------------------------------------------------------------------------------------
# Signals, with graceful_shutdown().


def graceful() -> None:
    from liveavatar import graceful_shutdown

    graceful_shutdown()


def graceful_block(url: str) -> None:
    graceful()
    try:
        with blocking(url) as api, api.session(session_request()):
            say("open")
            time.sleep(60)
    finally:
        say("left the block")


def graceful_no_block(url: str) -> None:
    graceful()
    end_of_script(url)
    say("open")
    time.sleep(60)


def graceful_opening(url: str) -> None:
    graceful()
    with blocking(url) as api:
        api.new_session(session_request())


async def graceful_async_block(url: str) -> None:
    graceful()
    try:
        async with coming(url) as api, api.session(session_request()):
            say("open")
            await asyncio.sleep(60)
    finally:
        say("left the block")


def graceful_loop_at_rest(url: str) -> None:
    """An event loop that runs for ever, with a session open and no task."""
    graceful()
    loop = asyncio.new_event_loop()
    kept.append(coming(url))
    loop.run_until_complete(kept[0].new_session(session_request()))
    loop.call_soon(say, "open")
    loop.run_forever()


def graceful_loop_with_named_tasks(url: str) -> None:
    """An event loop that runs for ever, with tasks that have names of their own."""
    graceful()

    async def hold() -> None:
        async with coming(url) as api, api.session(session_request()):
            say("open")
            await asyncio.sleep(60)

    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(hold(), name="holder"), loop.create_task(asyncio.sleep(60), name="other")]
    loop.run_forever()
    kept.extend(tasks)


def short_cleanup() -> None:
    from liveavatar import _cleanup

    _cleanup.CLEANUP_TIMEOUT = 0.5
    cleanup_timeout(0.5)


def graceful_hanging_stops(url: str) -> None:
    graceful()
    short_cleanup()
    with blocking(url, timeout=120) as api, api.session(session_request()):
        api.new_session(session_request())
        say("open")
        time.sleep(60)


async def graceful_async_hanging_stops(url: str) -> None:
    graceful()
    short_cleanup()
    async with coming(url, timeout=120) as api, api.session(session_request()):
        await api.new_session(session_request())
        say("open")
        await asyncio.sleep(60)


async def graceful_async_no_block(url: str) -> None:
    graceful()
    await async_end_of_run(url)
    say("open")
    await asyncio.sleep(60)


async def graceful_async_opening(url: str) -> None:
    graceful()
    async with coming(url) as api:
        await api.new_session(session_request())


def there_before(number: int, frame: FrameType | None) -> None:
    say("the handler that was there")


def graceful_chained(url: str) -> None:
    signal.signal(signal.SIGTERM, there_before)
    graceful_block(url)


async def graceful_async_chained(url: str) -> None:
    signal.signal(signal.SIGTERM, there_before)
    await graceful_async_block(url)


def graceful_nohup(url: str) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    graceful()
    with blocking(url) as api, api.session(session_request()):
        say("open")
        sys.stdin.readline()
        say("went on")


def main(name: str, url: str) -> None:
    # A parent may ignore them, as the shell does for programs in its background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    cleanup_timeout(30.0)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    run = globals()[name]
    if asyncio.iscoroutinefunction(run):
        asyncio.run(run(url))
    else:
        run(url)


if __name__ == "__main__":
    main(*sys.argv[1:])
