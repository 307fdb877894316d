"""Write the figures of a run into docs/performance.md, and draw docs/performance.svg: `make bench-plot`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
COLORS = {"liveavatar": "#0d9488", "Pipecat": "#d97706", "bare aiohttp": "#8b98a9", "bare httpx": "#8b98a9"}
# A browser shows an SVG image in the colors that the reader prefers. Matplotlib writes the colors of lines into
# `style` attributes, and leaves text black, so a style sheet in the file can change both. The background is part of
# the image, because the site's own switch between light and dark does not reach into it.
DARK = """<style>
 @media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  [style*="fill: #ffffff"] { fill: #0d1117 !important }
  [style*="stroke: #000000"] { stroke: #9aa4ae !important }
  [style*="stroke: #d0d7de"] { stroke: #30363d !important }
 }
</style>"""

Row = dict[str, Any]


def main(file: str) -> None:
    """Publish the figures in a JSON file."""
    figures = json.loads(Path(file).read_text("utf-8"))
    page = DOCS / "performance.md"
    text = page.read_text("utf-8")
    for name, part in (("summary", summary(figures)), ("tables", tables(figures))):
        text = replace_part(text, name, part)
    page.write_text(text, "utf-8")
    draw(figures["http"])


def replace_part(text: str, name: str, part: str) -> str:
    """Return the page with the text between the two markers of a part replaced."""
    begin, end = f"<!-- {name}: written by make bench-plot -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"docs/performance.md lacks the markers {begin} and {end}")
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def summary(figures: dict[str, Any]) -> str:
    """Return the three sentences that lead the page."""
    blocking = [row for row in figures["http"] if (row["kind"], row["client"]) == ("blocking", "liveavatar")]
    asynchronous = [row for row in figures["http"] if (row["kind"], row["client"]) == ("async", "liveavatar")]
    few, many = asynchronous[1], asynchronous[-1]
    return "\n".join(
        [
            f"- A session costs the blocking client {_range(blocking, 'cpu_ms')} ms of CPU time to open and close,"
            f" {_range(blocking, 'ratio')} times a bare httpx client.",
            f"- A session costs the async client {_range(asynchronous, 'cpu_ms')} ms,"
            f" {_range(asynchronous, 'ratio')} times Pipecat's client.",
            f"- The async cost per session is {few['cpu_ms']:.2f} ms with {few['at_once']:,} sessions at once, and"
            f" {many['cpu_ms']:.2f} ms with {many['at_once']:,}.",
            "",
        ]
    )


def tables(figures: dict[str, Any]) -> str:
    """Return all figures as Markdown."""
    lines = [
        f"Measured on {figures['machine']}, with {figures['peers']}.",
        f"Each figure is the median of {figures['rounds']} rounds of {figures['cycles']:,} sessions.",
        "Ratios differ from run to run by up to 15 %, and by up to 30 % with 1,000 sessions at once.",
        "",
    ]
    for scheme, title in (("http", "HTTP"), ("https", "HTTPS")):
        for kind in dict.fromkeys(row["kind"] for row in figures[scheme]):
            rows = [row for row in figures[scheme] if row["kind"] == kind]
            lines += [f"### {kind.capitalize()} clients, {title}", "", *_table(rows), ""]
    lines += ["### Start-up", "", "CPU time of the whole interpreter:", "", "| statement | ms |", "| --- | ---: |"]
    lines += [f"| {_as_code(name)} | {seconds * 1000:.0f} |" for name, seconds in figures["startup"].items()]
    memory = figures["memory"]
    lines += [
        "",
        "### Memory",
        "",
        f"An open session takes {memory['bytes_per_open_session']:.0f} bytes.",
        _growth(memory["kib_after_cycles"]),
        "",
    ]
    return "\n".join(lines)


def _table(rows: list[Row]) -> list[str]:
    peer = rows[0]["to"]
    return [
        f"| client | sessions at once | CPU ms | ratio to {peer} | wall ms | connections |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {row['client']} | {row['at_once']:,} | {row['cpu_ms']:.2f} |"
            f" {'-' if row['ratio'] is None else format(row['ratio'], '.2f')} |"
            f" {row['wall_ms']:.2f} | {row['connections']:,.0f} |"
            for row in rows
        ),
    ]


def _range(rows: list[Row], key: str) -> str:
    values = sorted(row[key] for row in rows if row[key] is not None)
    low, high = f"{values[0]:.2f}", f"{values[-1]:.2f}"
    return low if low == high else f"{low} to {high}"


def _as_code(name: str) -> str:
    return f"`{name}`" if "import" in name else name


def _growth(kib: float) -> str:
    if kib < 1:
        return "Memory does not grow over 10,000 sessions that are opened and closed."
    return f"Memory grows by {kib:.0f} KiB over 10,000 sessions that are opened and closed."


def draw(rows: list[Row]) -> None:
    """Draw the CPU time of both kinds of client side by side, on one scale."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "liveavatar", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1, 2], sharey=True)
    _draw_panel(left, "blocking", "Blocking", ("liveavatar", "bare httpx"), rows)
    _draw_panel(right, "async", "Async", ("liveavatar", "Pipecat", "bare aiohttp"), rows)
    left.set_ylabel("CPU ms per session")
    figure.tight_layout()
    file = DOCS / "performance.svg"
    figure.savefig(file, facecolor="white", metadata={"Date": None})
    text = file.read_text("utf-8")
    text = re.sub(r"(<svg [^>]*>)", lambda tag: f"{tag[1]}\n {DARK}", text, count=1)
    file.write_text(text, "utf-8")


def _draw_panel(axes: Any, kind: str, title: str, clients: tuple[str, ...], rows: list[Row]) -> None:
    """Draw one bar per client for each number of sessions at once."""
    cpu = {(row["client"], row["at_once"]): row["cpu_ms"] for row in rows if row["kind"] == kind}
    sizes = sorted({size for client, size in cpu if client in clients})
    clients = tuple(client for client in clients if (client, sizes[0]) in cpu)
    width = 0.8 / len(clients)
    for place, client in enumerate(clients):
        x = [index + (place - (len(clients) - 1) / 2) * width for index in range(len(sizes))]
        bars = axes.bar(x, [cpu[client, size] for size in sizes], width * 0.92, label=client, color=COLORS[client])
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("sessions at once")
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.grid(axis="y", color="#d0d7de", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


if __name__ == "__main__":
    main(sys.argv[1])
