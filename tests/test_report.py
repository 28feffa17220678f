"""The report: one file that needs nothing else, the same bytes twice, whole or not at all."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
from support import question, run, trace

import ttcsim
from ttcsim import cli
from ttcsim.analysis.compare import Comparison
from ttcsim.analysis.plots.page import colour_of
from ttcsim.analysis.report.document import report_html
from ttcsim.analysis.report.spending import energy_split, time_split
from ttcsim.errors import InputError

STRATEGIES = (
    "single", "majority_vote:n=3", "first_finish:n=3", "best_of_n:n=3,verifier=oracle",
    "best_of_n:n=3,verifier=scorer", "budget_forcing",
)  # fmt: skip


def comparison(*strategies: str, accuracy_source: str = "trace") -> Comparison:
    """Strategies on eight small questions; budget forcing has no accuracy."""
    questions = [
        question(f"q{i}", 20, [30 + 5 * i, 60, 45], answers=[i % 2, 0, 1]) for i in range(8)
    ]
    asked = trace(*questions, accuracy_source=accuracy_source)
    scorer = {"scorer": {"model": "Qwen3-0.6B", "hardware": "h100_sxm"}}
    return Comparison(
        tuple(run(each, asked, **(scorer if "best" in each else {})) for each in strategies)
    )


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return comparison(*STRATEGIES)


@pytest.fixture(scope="module")
def text(compared: Comparison) -> str:
    return report_html(compared)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and what stands outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.words += data


def drawn(text: str) -> list[dict[str, Any]]:
    """The charts in a page."""
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    assert found is not None
    charts: list[dict[str, Any]] = json.loads(found[1])
    return charts


def test_nothing_is_loaded_from_anywhere(text: str) -> None:
    for tag, attributes in Elements(text).found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert "href" not in attributes
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in text
    assert "showSendToCloud: false" in text


def test_the_same_bytes_twice(text: str) -> None:
    assert report_html(comparison(*STRATEGIES)) == text


def test_every_strategy_is_named_and_what_was_compared_said(text: str) -> None:
    words = Elements(text).words
    for name in (
        "single", "majority_vote(n=3)", "first_finish(n=3)", "best_of_n(n=3,verifier=oracle)",
        "budget_forcing", "Qwen3-0.6B on 1 x h100_sxm", "8 questions of small", "seed 0",
        f"ttcsim {ttcsim.__version__}", "calibrated", "that of vllm 0.32.0", "model:scorer",
        "How to read this",
    ):  # fmt: skip
        assert name in words
    assert "Not drawn, no accuracy can be stated: 6\N{NO-BREAK SPACE}budget_forcing" in words


def test_charts_are_valid_and_have_their_places(text: str) -> None:
    charts = drawn(text)
    places = [a["id"] for _, a in Elements(text).found if a.get("class") == "chart"]
    assert [each["id"] for each in charts] == sorted(
        places, key=[each["id"] for each in charts].index
    )
    assert len(charts) == 3 + 1 + 4 + 2
    for chart in charts:
        plotly.graph_objects.Figure({"data": chart["data"], "layout": chart["layout"]})
        assert chart["layout"]["xaxis"]["title"]["text"]


def test_a_strategy_has_one_colour_and_number(text: str) -> None:
    for number, name in ((2, "majority_vote(n=3)"), (3, "first_finish(n=3)")):
        colour = colour_of(number - 1)
        assert f'style="background:{colour}">{number}</span>' in text
        for chart in drawn(text):
            for trace_ in chart["data"]:
                if f"<b>{name}</b>" in str(trace_.get("hovertemplate")):
                    line = trace_["marker"] if "marker" in trace_ else trace_["line"]
                    assert line["color"] == colour
            for label in chart["layout"].get("annotations", ()):
                if name in label["text"]:
                    assert label["text"].startswith(f"<b>{number}</b>")
                    assert label["font"]["color"] == colour


def test_marks_say_where_an_accuracy_comes_from(text: str) -> None:
    chart = drawn(text)[0]
    symbols = {t["text"][0]: t["marker"]["symbol"] for t in chart["data"] if "marker" in t}
    assert symbols == {
        "1": "circle", "2": "circle", "3": "circle", "4": "x-thin", "5": "circle-open"
    }  # fmt: skip


def test_energy_and_time_add_up(compared: Comparison) -> None:
    for result in compared.results:
        s = result.summary
        assert sum(energy_split(result).values()) == pytest.approx(s["energy_per_question_j"])
        assert sum(time_split(result).values()) == pytest.approx(s["makespan_mean_s"])
    splits = [energy_split(result) for result in compared.results]
    assert splits[0]["other calls"] == 0
    assert splits[1]["other calls"] > 0
    assert splits[4]["scoring"] > 0


@pytest.mark.parametrize(
    ("strategies", "source", "charts"),
    [
        (["single"], "trace", 3 + 1 + 2),
        (["single", "majority_vote:n=2"], "none", 1 + 3 + 2),
        (["single", "majority_vote:n=2"], "model:made_up", 3 + 1 + 4 + 2),
    ],
)
def test_what_is_not_known_is_left_out(strategies: list[str], source: str, charts: int) -> None:
    text = report_html(comparison(*strategies, accuracy_source=source))
    assert len(drawn(text)) == charts
    assert ("none can be recommended" in text) == (source != "trace")


def test_a_baseline_turns_the_differences(compared: Comparison, text: str) -> None:
    other = report_html(compared, "majority_vote:n=3")
    assert "Baseline (dotted): single." in text
    assert "Baseline (dotted): majority_vote(n=3)." in other
    with pytest.raises(InputError, match="unknown baseline"):
        report_html(compared, "dvts")


def test_names_cannot_break_the_page(compared: Comparison) -> None:
    nasty = "</script><b>&"
    first = compared.results[0]
    odd = ttcsim.Result(
        first.scenario, {**first.summary, "strategy": nasty, "trace": nasty}, first.questions,
        first.calls, first.engines,
    )  # fmt: skip
    text = report_html(Comparison((odd, *compared.results[1:])))
    assert nasty in Elements(text).words
    assert text.count("</script>") == 3
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in str(drawn(text))


def test_written_whole_or_not_at_all(compared: Comparison, text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    ttcsim.html_report(compared, path)
    assert path.read_text(encoding="utf-8") == text
    (tmp_path / "folder.html").mkdir()
    for wrong, said in (
        (tmp_path / "report.pdf", "suffix must be .html"),
        (tmp_path / "none" / "report.html", "cannot be written: No such file"),
        (tmp_path / "folder.html", "cannot be written: Is a directory"),
    ):
        with pytest.raises(InputError, match=said):
            ttcsim.html_report(compared, wrong)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder.html", "report.html"]
    with pytest.raises(InputError, match="no results"):
        ttcsim.html_report(Comparison(()), path)


WORDS = [
    "compare", "--model", "Qwen3-0.6B", "--hardware", "h100_sxm", "--questions", "3", "--quiet",
    "--strategy", "single", "--strategy", "majority_vote:n=4",
]  # fmt: skip


def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `ttcsim compare` with these words more."""
    monkeypatch.setattr(sys, "argv", ["ttcsim", *WORDS, *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return (int(caught.value.code or 0), *capsys.readouterr())


def test_report_and_differences_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "made" / "report.html"
    words = ("--report", str(path), "--baseline", "majority_vote:n=4")
    code, out, err = called(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    assert "differences from majority_vote(n=4) over the same 3 questions" in out
    assert "Baseline (dotted): majority_vote(n=4)." in path.read_text(encoding="utf-8")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_json_has_the_views_beside_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads(called(monkeypatch, capsys, "--format", "json")[1])
    assert (plain["schema_version"], plain["kind"], len(plain["results"])) == (1, "comparison", 2)
    assert [row["baseline"] for row in plain["differences"]] == ["single"] * 4
    assert {row["strategy"] for row in plain["pareto"]} <= {"single", "majority_vote(n=4)"}
    assert {"target", "cost", "strategy", "value", "accuracy"} == set(plain["iso_accuracy"][0])
    assert {"budget", "cost", "strategy", "value", "accuracy"} == set(plain["iso_budget"][0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--baseline", "majority_vote:n=5"], "did you mean 'majority_vote(n=4)'"),
        (["--report", "report.pdf"], "report.pdf: cannot be a report: the suffix must be .html"),
        (["--report", "made/file.txt/report.html"], "file.txt: cannot be written"),
        (["--report", "made/new/report.html", "--trace", "nix"], "unknown trace 'nix'"),
    ],
)
def test_bad_input_is_refused_before_the_simulation(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file.txt").touch()
    if "--trace" not in words:
        monkeypatch.setattr("ttcsim.analysis.compare.simulate", None)  # it is never called
    code, out, err = called(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["file.txt"]


def test_importing_ttcsim_does_not_import_plotly() -> None:
    code = "import sys, ttcsim; ttcsim.compare, ttcsim.html_report; print('plotly' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(ttcsim.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
