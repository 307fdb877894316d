"""Put the figures of a run into docs/performance.md and draw docs/performance.svg: `make bench-plot`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = {"liveavatar": "#0f766e", "Pipecat": "#b45309", "bare aiohttp": "#94a3b8", "bare httpx": "#94a3b8"}


def main(file: str) -> None:
    figures = json.loads(Path(file).read_text())
    page = DOCS / "performance.md"
    begin, end = "<!-- figures: written by make bench-plot -->", "<!-- end of figures -->"
    text = page.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{tables(figures)}\n{end}", text))
    draw(figures)


def tables(figures: dict[str, Any]) -> str:
    startup, memory = figures["startup"], figures["memory"]
    lines = [
        f"Measured on {figures['machine']}, with {figures['peers']}; medians of {figures['rounds']} rounds of"
        f" {figures['cycles']:,} sessions. Ratios differ by up to 5 % from run to run.",
        "",
    ]
    for wire, title in (("http", "Plain HTTP"), ("https", "TLS")):
        lines += [
            f"**{title}**: CPU milliseconds of the client per session opened and closed, and the ratio to the peer.",
            "",
            "| client | at once | CPU ms | ratio | to | wall ms | TCP connections |",
            "| --- | ---: | ---: | ---: | --- | ---: | ---: |",
        ]
        for row in figures[wire]:
            lines.append(
                f"| {row['kind']}: {row['client']} | {row['at_once']} | {row['cpu_ms']:.2f} | {ratio(row)} |"
                f" {row['to'] if row['ratio'] else ''} | {row['wall_ms']:.2f} | {row['connections']:.0f} |"
            )
        lines.append("")
    lines += ["**Start-up**, CPU milliseconds of the whole interpreter:", "", "| what | ms |", "| --- | ---: |"]
    lines += [f"| {name} | {seconds * 1000:.0f} |" for name, seconds in startup.items()]
    lines += [
        "",
        f"**Memory**: {memory['bytes_per_open_session']:.0f} bytes per open session remembered;"
        f" {memory['kib_after_cycles']:+.1f} KiB after 10,000 sessions opened and closed.",
        "",
    ]
    return "\n".join(lines)


def ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f}" if row["ratio"] else "-"


def draw(figures: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "liveavatar", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    plot, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1, 2])
    panel(left, "blocking", "Blocking, by threads", ("liveavatar", "bare httpx"), figures["http"])
    panel(right, "async", "Async, by sessions at once", ("liveavatar", "Pipecat", "bare aiohttp"), figures["http"])
    plot.tight_layout()
    plot.savefig(DOCS / "performance.svg", facecolor="white", metadata={"Date": None})


def panel(axes: Any, kind: str, title: str, names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """One bar per client, for each number of sessions under way at once."""
    cpu = {(row["client"], row["at_once"]): row["cpu_ms"] for row in rows if row["kind"] == kind}
    sizes = sorted({size for _, size in cpu})
    names = tuple(name for name in names if (name, sizes[0]) in cpu)
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        at = [index + (place - (len(names) - 1) / 2) * (width + 0.02) for index in range(len(sizes))]
        bars = axes.bar(at, [cpu[name, size] for size in sizes], width, label=name, color=COLOURS[name])
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set_ylabel("CPU ms per session")
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))


if __name__ == "__main__":
    main(sys.argv[1])
