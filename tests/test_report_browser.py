"""The report in a real browser: charts are drawn, nothing complains, nothing hangs over the edge.

With TTCSIM_SCREENSHOTS=FOLDER the pages are kept as pictures, to be looked at.
"""

import os
from pathlib import Path

import pytest
from browser import CHROMIUM, look
from test_report import STRATEGIES, comparison

from ttcsim.analysis.report import html_report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (on Debian: apt-get install chromium)"
)

DRAWN = """document.readyState === "complete" && document.querySelector(".chart") !== null &&
  [...document.querySelectorAll(".chart")].every(each => each.querySelector(".main-svg"))"""

FACTS = """({
  charts: document.querySelectorAll(".chart.js-plotly-plot").length,
  surplus: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  outside: [...document.querySelectorAll("main *")].filter(each =>
    each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll")).length,
  narrow: [...document.querySelectorAll(".chart .plot-container")].filter(each =>
    each.getBoundingClientRect().width < each.closest("figure").clientWidth - 1).length,
  marks: document.querySelectorAll("#tradeoff-makespan_p50_s .point").length,
  dark: getComputedStyle(document.body).backgroundColor,
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    html_report(comparison(*STRATEGIES), path)
    return path


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(390, 844, False), (1280, 900, False), (1280, 900, True)]
)
def test_report_in_a_browser(
    report: Path, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    seen = look(report, width, height, DRAWN, FACTS, profile=tmp_path / "profile", dark=dark)
    if folder := os.environ.get("TTCSIM_SCREENSHOTS"):
        name = f"report_{width}{'_dark' if dark else ''}.png"
        (Path(folder) / name).write_bytes(seen.png)
    assert seen.complaints == []
    outside = [each for each in seen.fetched if not each.startswith("data:")]
    assert outside == [report.resolve().as_uri()]
    assert seen.value["charts"] == 10
    assert (seen.value["surplus"], seen.value["outside"], seen.value["narrow"]) == (0, 0, 0)
    assert seen.value["marks"] == 5
    assert (seen.value["dark"] == "rgb(255, 255, 255)") != dark
