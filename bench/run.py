"""All clients in turn against one loopback server, several rounds, medians and ratios: `make bench`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.clients import LEDGER

CONCURRENCIES = (1, 50, 500, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="It measures CPU and wall milliseconds per session opened and closed, at 1 to 1,000 at once, over "
        "HTTP and TLS; connections; start-up (in the JSON: seconds of CPU); memory. The defaults take 15 minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is taken")
    parser.add_argument("--cycles", type=int, default=2000, help="sessions opened and closed for one figure")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to FILE ('-': to the output, alone)")
    options = parser.parse_args()
    say = (lambda *_: None) if options.json == "-" else print
    clients = ["liveavatar", "Pipecat", "bare aiohttp", "liveavatar on httpx.AsyncClient"]
    if importlib.util.find_spec("pipecat") is None:
        clients.remove("Pipecat")
        say("Pipecat is not installed here: it is left out.")
    say(machine())
    figures: dict[str, Any] = {
        "machine": machine(),
        "peers": peers(),
        "rounds": options.rounds,
        "cycles": options.cycles,
    }
    for scheme in ("http", "https"):
        with service(scheme) as (base, environment):
            figures[scheme] = measure(base, environment, clients, scheme, options, say)
    with service("http") as (base, environment):
        figures["startup"] = startup(base, environment, options.rounds, say)
        figures["memory"] = worker("memory", "liveavatar", base, 1, 10_000, environment)
        say(
            f"\nmemory: {figures['memory']['bytes_per_open_session']:.0f} bytes per open session; "
            f"{figures['memory']['kib_after_cycles']:+.1f} KiB after 10,000 sessions"
        )
    if options.json == "-":
        json.dump(figures, sys.stdout, indent=2)
    elif options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


def measure(base: str, environment: dict[str, str], clients: list[str], scheme: str, options: Any, say: Any) -> Any:
    """CPU per cycle of every client, in turn, so that a slow moment of the machine meets all of them."""
    jobs = []
    for concurrency in CONCURRENCIES if scheme == "http" else (1, 50):
        jobs += [("blocking", name, concurrency) for name in ("liveavatar", "bare httpx") if concurrency <= 500]
        jobs += [("async", name, concurrency) for name in clients]
        if concurrency <= 50:  # each transaction waits for the disk, so that more at once only wait longer
            jobs += [("blocking", LEDGER, concurrency), ("async", LEDGER, concurrency)]
    # A pool that grows with the square of its connections would take minutes at more.
    jobs = [job for job in jobs if "AsyncClient" not in job[1] or job[2] <= 50]
    taken: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for round_ in range(options.rounds):
        for job in jobs:
            kind, name, concurrency = job
            progress(f"{scheme}: round {round_ + 1} of {options.rounds}, {kind} {name}, {concurrency} at once")
            counts(base, environment)  # sets them to zero
            cycles = max(options.cycles, 2 * concurrency) if concurrency > 1 else options.cycles // 2
            figure = worker(kind, name, base, concurrency, cycles, environment)
            taken[job].append({**figure, "connections": counts(base, environment)["connections"]})
    progress("")
    rows = []
    say(f"\n{scheme}: CPU milliseconds of the client per session opened and closed (median of {options.rounds})")
    say(f"  {'client':<40}{'at once':>8}{'CPU ms':>9}{'ratio':>8}{'wall ms':>9}{'connections':>13}")
    for (kind, name, concurrency), figures in taken.items():
        median = {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
        peer = (kind, "bare httpx" if kind == "blocking" else "Pipecat", concurrency)
        ours = taken.get(peer)
        # Round by round: a machine that slows down meanwhile slows both.
        pairs = zip(figures, ours or [], strict=ours is not None)
        ratio = statistics.median(a["cpu_ms"] / b["cpu_ms"] for a, b in pairs) if ours else None
        rows.append({"kind": kind, "client": name, "at_once": concurrency, **median, "ratio": ratio, "to": peer[1]})
        say(
            f"  {kind + ': ' + name:<40}{concurrency:>8}{median['cpu_ms']:>9.3f}"
            f"{f'{ratio:.2f}' if ratio else '-':>8}{median['wall_ms']:>9.3f}{median['connections']:>13.0f}"
        )
    return rows


def startup(base: str, environment: dict[str, str], rounds: int, say: Any) -> Any:
    """CPU seconds of whole interpreters: imports, and cold start to the first closed session."""
    commands = {
        **{
            statement: [sys.executable, "-c", statement]
            for statement in (
                "import httpx",
                "import liveavatar",
                "from liveavatar import LiveAvatarApi",
                "import aiohttp",
                "from liveavatar import AsyncLiveAvatarApi",
                "from liveavatar import AsyncLiveAvatarApi; AsyncLiveAvatarApi('key')",
            )
        },
        "cold start, bare httpx": [sys.executable, "-m", "bench.cold", "bare httpx", base],
        "cold start, liveavatar": [sys.executable, "-m", "bench.cold", "liveavatar", base],
    }
    taken = defaultdict(list)
    for _ in range(2 * rounds + 1):
        for name, command in commands.items():
            taken[name].append(cpu_of(command, environment))
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    say(f"\nstart-up: CPU milliseconds (median of {2 * rounds})")
    for name, value in medians.items():
        say(f"  {name:<72}{value * 1000:>7.0f}")
    return medians


def cpu_of(command: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        sys.exit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime


def worker(
    kind: str, client: str, base: str, concurrency: int, cycles: int, environment: dict[str, str]
) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.worker", kind, client, base, str(concurrency), str(cycles)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{kind} {client} failed:\n{result.stderr}")
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@contextlib.contextmanager
def service(scheme: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Run the server in a process of its own; yield its base URL, and the environment in which clients trust it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with tempfile.TemporaryDirectory() as folder:
        certificate = []
        if scheme == "https":
            import trustme

            authority = trustme.CA()
            issued = authority.issue_cert("127.0.0.1", "localhost")
            for name, blob in (
                ("ca", authority.cert_pem),
                ("cert", issued.cert_chain_pems[0]),
                ("key", issued.private_key_pem),
            ):
                blob.write_to_path(str(Path(folder, name)))
            certificate = [str(Path(folder, "cert")), str(Path(folder, "key"))]
            environment["SSL_CERT_FILE"] = str(Path(folder, "ca"))
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", *certificate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"{scheme}://127.0.0.1:{process.stdout.readline().strip()}/v1", environment
        finally:
            process.stdin.close()
            process.stdout.close()
            process.terminate()
            process.wait()


def counts(base: str, environment: dict[str, str]) -> dict[str, int]:
    """Return what the server has counted since the last call."""
    import ssl

    time.sleep(0.05)
    context = None
    if base.startswith("https"):
        context = ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
    with urllib.request.urlopen(base.removesuffix("/v1") + "/counts", context=context) as response:
        return json.load(response)  # type: ignore[no-any-return]


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def peers() -> str:
    """Return the compared packages with their versions."""
    names = {"pipecat-ai": "Pipecat", "aiohttp": "aiohttp", "httpx": "httpx", "httpcore": "httpcore"}
    found = []
    for package, name in names.items():
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(package)}")
    return ", ".join(found)


def machine() -> str:
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
