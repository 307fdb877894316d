"""Python programs in processes of their own, without an interpreter that starts and imports libraries for each.

`Popen` and `run` take what those of `subprocess` take. The first program starts a fork server: an interpreter that has
imported `liveavatar` and the libraries that most programs need. It forks for each program. The process is a child of
the tests like any other, with its own streams, environment, working folder, signals and exit code. This needs Linux,
which hands a grandchild over to the tests; elsewhere, both are those of `subprocess`.

The fork server of `multiprocessing` would not do: its processes leave out what an interpreter does at its end.

A test of what a program imports, or of how an interpreter starts, uses `subprocess`. So does a program that changes
something before it imports `liveavatar`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

LIBRARIES = [
    "aiohttp",
    "asyncio",
    "attrs",
    "click",
    "dateutil.parser",
    "difflib",
    "dotenv",
    "httpcore",
    "httpx",
    "importlib.metadata",
    "jsonschema",
    "jwt",
    "logging",
    "pytest",
    "redis",
    "redis.asyncio",
    "rich.console",
    "rich.live",
    "rich.markup",
    "rich.progress",
    "rich.table",
    "rich.traceback",
    "sqlite3",
    "ssl",
    "starlette.applications",
    "starlette.middleware.cors",
    "starlette.responses",
    "starlette.routing",
    "uvicorn",
    "uvicorn.protocols.http.h11_impl",
    "yaml",
    "yarl",
]
PACKAGES = ["liveavatar_client.models", "liveavatar", "liveavatar.cli", "liveavatar.ledger", "liveavatar.mock"]
"""The packages whose modules are all imported."""
SETTINGS = ("COVERAGE", "LANG", "LC_", "PYTHON", "TZ")
"""The starts of names of the variables that an interpreter reads when it starts."""
SERVER = """\
try:
    exec(__import__("tests.processes", fromlist=["serve"]).serve({}))
except BaseException as error:
    __import__("tests.processes", fromlist=["ending"]).ending.note(error)
    raise
"""
PR_SET_CHILD_SUBREAPER = 36


class ForkServer:
    """A fork server for programs whose environments have the same settings for the interpreter."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", SERVER.format(theirs.fileno())]
            self.process = subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(self.end)

    def end(self) -> None:
        self.connection.close()
        self.process.wait()

    def start(self, program: dict[str, Any], streams: Sequence[int]) -> int:
        """Start a program and return the id of its process, a child of this one."""
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self.connection, [json.dumps(program).encode()], streams)
            return int(self.connection.recv(20))
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


_servers: dict[tuple[tuple[str, str], ...], ForkServer] = {}
_lock = threading.Lock()


class Popen(subprocess.Popen[Any]):
    """A process that runs `[sys.executable, "-W", "error", "-c" or "-m" or a file, ...]`; `-W error` may be left out.

    With `start_new_session`, a terminal on its standard input becomes its controlling terminal. With `full_exit`, the
    interpreter also releases the libraries when it ends, as usual. This costs more than most programs do.
    """

    def __init__(self, *args: Any, full_exit: bool = False, **settings: Any) -> None:
        self._full_exit = full_exit
        super().__init__(*args, **settings)

    if sys.platform == "linux":

        def _execute_child(
            self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
            start_new_session, process_group,
        ) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
            assert args[0] == sys.executable, args
            assert (preexec_fn, pass_fds, shell, process_group) == (None, (), False, -1), "not supported"
            env = dict(os.environ) if env is None else dict(env)
            settings = tuple(sorted((name, value) for name, value in env.items() if name.startswith(SETTINGS)))
            program = {
                "arguments": [os.fspath(argument) for argument in args[1:]],
                "cwd": os.fspath(cwd or os.getcwd()),
                "env": env,
                "full_exit": self._full_exit,
                "session": start_new_session,
            }
            streams = [given if given >= 0 else own for own, given in enumerate((p2cread, c2pwrite, errwrite))]
            with _lock:
                if settings not in _servers:
                    _servers[settings] = ForkServer(env)
                self.pid = _servers[settings].start(program, streams)
            self._child_created = True
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(
    args: Sequence[Any],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **settings: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end."""
    if input is not None:
        settings["stdin"] = subprocess.PIPE
    if capture_output:
        settings["stdout"] = settings["stderr"] = subprocess.PIPE
    with Popen(args, **settings) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def run_pytest(*arguments: Any, env: Mapping[str, str], cwd: Any) -> subprocess.CompletedProcess[str]:
    """Run a user's tests with pytest-recording, but without the plugins that only we have installed."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "pytest_recording.plugin", *arguments]
    env = {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return run(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)


class Ending:
    """Ends a forked process as an interpreter ends, but without the release of the libraries.

    Memory that a forked process writes to is copied, and an interpreter writes to each object that it releases.
    """

    def __init__(self) -> None:
        self.basis = set(sys.modules) - {"__main__"}
        self.libraries: dict[str, Any] = {}
        self.status: int | None = 0
        """The exit code, or None for the end by SIGINT after Ctrl-C."""
        self.other_exits = atexit._ncallbacks()  # type: ignore[attr-defined]
        """How many functions run after this one, such as that of coverage."""
        atexit.register(self)

    def note(self, error: BaseException) -> None:
        """Note the exit code that an interpreter has after an exception."""
        if isinstance(error, SystemExit):
            self.status = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            self.status = None if type(error) is KeyboardInterrupt else 1

    def __call__(self) -> None:
        """End the process, or return to let the interpreter do it: if other threads run, it stops them first."""
        if not self.other_exits and len(sys._current_frames()) == 1:
            with contextlib.suppress(BaseException):  # the interpreter tells of a stream that cannot be flushed
                self._flush()
                self._release()
                self._flush()
                if self.status is None:
                    signal.signal(signal.SIGINT, signal.SIG_DFL)
                    signal.raise_signal(signal.SIGINT)
                else:
                    os._exit(self.status & 0xFF)
        for name in self.libraries:
            sys.modules.pop(name, None)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None and not stream.closed:
                stream.flush()

    def _release(self) -> None:
        """Release the program, its last exception and the modules that are not libraries."""
        sys.last_exc = sys.last_type = sys.last_value = sys.last_traceback = None
        names = [name for name in sys.modules if name not in self.basis and name not in self.libraries]
        modules = [weakref.ref(module) for name in names if (module := sys.modules.pop(name)) is not None]
        module = None
        gc.collect()
        for module in filter(None, (reference() for reference in modules)):
            names = [name for name in vars(module) if name != "__builtins__"]
            for name in sorted(names, key=lambda name: not re.match("_[^_]", name)):
                vars(module)[name] = None
        gc.collect()


ending: Ending
"""How this process ends, in a fork server and its processes."""


def serve(number: int) -> CodeType:
    """Be a fork server. Returns in each forked process, with what it is to execute as `__main__`."""
    global ending
    ending = Ending()  # before a library registers a function to run at the end, so that this one runs last
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in LIBRARIES:
            with contextlib.suppress(ImportError, Warning):  # a program that needs it sees the error itself
                importlib.import_module(name)
        for name in PACKAGES:
            _import_modules(importlib.import_module(name))
    new = set(sys.modules) - ending.basis - {"__main__"}
    ending.libraries = {name: sys.modules[name] for name in new if name.partition(".")[0] != "liveavatar"}
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(ending.libraries))  # nothing releases it
    gc.collect()
    gc.freeze()
    connection = socket.socket(fileno=number)
    while True:
        try:
            message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
        except KeyboardInterrupt:  # Ctrl-C stops the tests
            sys.exit(130)
        if not message:
            sys.exit()
        reader, writer = os.pipe()
        between = os.fork()
        if not between:
            between = os.getpid()
            pid = os.fork()
            if pid:
                os.write(writer, str(pid).encode())
                os._exit(0)
            while os.getppid() == between:  # until the tests are the parent
                time.sleep(0.0005)
            for descriptor in (reader, writer):
                os.close(descriptor)
            connection.close()
            return _prepare(json.loads(message), streams)
        os.waitpid(between, 0)
        connection.send(os.read(reader, 20))
        for descriptor in (reader, writer, *streams):
            os.close(descriptor)


def _import_modules(package: Any) -> None:
    """Import the modules of a package, except those that run as programs and that of users' tests."""
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in {"__main__", "demo", "testing"}:
            with contextlib.suppress(ImportError, Warning):  # of an extra that is not installed
                importlib.import_module(f"{package.__name__}.{module.name}")


def _prepare(program: dict[str, Any], streams: Sequence[int]) -> CodeType:
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    if program["full_exit"]:
        atexit.unregister(ending)
    if program["session"]:
        os.setsid()
        if os.isatty(0):
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    arguments = program["arguments"]
    if arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])
        warnings.simplefilter(arguments[1])
        del arguments[:2]
    kind = arguments.pop(0)
    if kind == "-c":
        code = arguments[0]
        sys.argv = ["-c", *arguments[1:]]
        sys.path[0] = ""
        return compile(code, "<string>", "exec")
    if kind == "-m":
        sys.argv = ["-m", *arguments[1:]]
        sys.path[0] = os.getcwd()
        return compile(f"__import__('runpy')._run_module_as_main({arguments[0]!r})", "<module>", "exec")
    sys.argv = [kind, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(kind))
    sys.modules["__main__"].__file__ = kind
    with open(kind, "rb") as file:
        return compile(file.read(), kind, "exec")
