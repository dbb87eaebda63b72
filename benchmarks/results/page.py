"""The top of docs/benchmarks.md and its picture, from the figures in peers.json.

    python benchmarks/results/page.py

`ours_is` is how many times as fast ours was as the peer, in one run; `rate` the peer's own rate,
where the run printed it.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
PICTURE = HERE.parents[1] / "docs" / "assets" / "benchmarks.svg"
BEGIN, END = "<!-- from benchmarks/results/peers.json -->\n", "<!-- end -->\n"
ROW, LEFT, FULL = 20, 300, 330  # pixels: of a bar, before bars, of the longest bar
WIDTH = LEFT + FULL + 190
OURS, PEER, LIMIT = "#0072B2", "#8a96a3", "#D55E00"


def results() -> dict[str, Any]:
    """Return the figures."""
    loaded: dict[str, Any] = json.loads((HERE / "peers.json").read_text())
    return loaded


def table(figures: dict[str, Any]) -> str:
    """Return what was measured, against what, the ratio and the command, a row per comparison."""
    lines = ["| what | ours | ours is, times as fast as | command |", "|---|---|---|---|"]
    for one in figures["comparisons"]:
        rate = "" if one["ours"] is None else f"{one['ours']:g} {one['unit']}"
        ratios = "; ".join(f"**{p['ours_is']:g}×** {p['name']}" for p in one["peers"])
        lines.append(f"| {one['what']} | {rate} | {ratios} | `{one['command']}` |")
    return "\n".join([f"Machine: {figures['machine']}.", "", *lines, ""])


def picture(figures: dict[str, Any]) -> str:
    """Return bars as SVG: the rate of each, as a part of the fastest of its comparison."""
    parts, y = [], 8
    for one in figures["comparisons"]:
        rates = [("ours", 1.0, OURS, "")] + [
            (p["name"], 1.0 / p["ours_is"], _color(p["name"]),
             f"ours is {p['ours_is']:g}×")
            for p in one["peers"]
        ]  # fmt: skip
        most = max(rate for _, rate, _, _ in rates)
        parts.append(f'<text x="8" y="{y + 14}" font-weight="bold">{escape(one["what"])}</text>')
        y += ROW + 2
        for name, rate, color, note in rates:
            length = max(2.0, FULL * rate / most)
            parts += [
                f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LEFT}" y="{y + 3}" width="{length:.1f}" height="14" fill="{color}"/>',
                f'<text x="{LEFT + length + 6:.1f}" y="{y + 14}">{note}</text>',
            ]
            y += ROW
        y += 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-size="12" '
        f'font-family="Helvetica,Arial,sans-serif" fill="#1f2933">'
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _color(peer: str) -> str:
    return LIMIT if peer.startswith(("limit", "reference")) else PEER


def with_table(page: str, figures: dict[str, Any]) -> str:
    """Return the page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table(figures) + END + rest.partition(END)[2]


if __name__ == "__main__":
    PICTURE.write_text(picture(results()))
    PAGE.write_text(with_table(PAGE.read_text(), results()))
