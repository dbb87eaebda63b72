"""The page in a real browser, from disk: nothing fails, the slider moves, tables can be sorted."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.__main__ import main
from shards.cli.command import run_command

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip
# Moves the first slider as a key press would, sorts the table of strata by synapses, downward, then
# notes what the page looks like.
PROBE = """<script>addEventListener("load", function () {
  var slider = document.querySelector(".card input[type=range]");
  slider.value = 2; slider.dispatchEvent(new Event("input"));
  var card = slider.closest(".card"), broken = 0;
  var heads = Array.from(document.querySelectorAll(".sortable thead th"));
  var head = heads.find(function (one) { return one.textContent === "synapses"; });
  head.click(); head.click();
  var rows = Array.from(head.closest("table").tBodies[0].rows);
  var counts = rows.map(function (row) { return Number(row.cells[head.cellIndex].textContent); });
  var sorted = counts.every(function (count, i) { return !i || count <= counts[i - 1]; });
  document.querySelectorAll("img").forEach(function (i) { if (!i.naturalWidth) broken += 1; });
  document.title = ["PROBE", card.querySelector("output").textContent,
    card.querySelector(".clip img").style.transform, "broken", broken,
    "wide", document.documentElement.scrollWidth > innerWidth, "sorted", sorted,
    head.getAttribute("aria-sort")].join(" ");
});</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_works_in_a_browser(runs: dict[str, Path], width: int, tmp_path: Path) -> None:
    assert BROWSER is not None
    assert run_command(main, [str(runs["3d"]), "--out", str(tmp_path)]) == 0
    page = tmp_path / "probe.html"
    page.write_text((tmp_path / "report.html").read_text() + PROBE)
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(PROBE.*?)</title>", done.stdout)
    assert title is not None
    assert title[1] == ("PROBE 3 translateY(-25%) broken 0 wide false sorted true descending")
    errors = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not errors
