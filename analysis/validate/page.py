"""Write docs/validation.md from the evidence: `python -m ttcsim.analysis.validate.page`.

Everything but the explanations (`analysis/evidence/notes.md`) is computed from the measured runs.
"""

import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttcsim.analysis.calibrate.calibrate import Calibrated, calibrate, write_calibration
from ttcsim.analysis.measure.foreign import load_measured
from ttcsim.analysis.measure.run_files import MeasuredCampaign, load_campaign_runs
from ttcsim.analysis.plots import save_figure
from ttcsim.analysis.plots.measured import distribution_figure, fit_figure, scatter_figure
from ttcsim.analysis.plots.published import published_figure
from ttcsim.analysis.published.predict import predict_rows
from ttcsim.analysis.published.report import PublishedReport, worst_line
from ttcsim.analysis.published.rows import METRICS, load_rows
from ttcsim.analysis.validate.report import (
    Ranking,
    Spread,
    ValidationReport,
    WorkloadReport,
    percent,
)
from ttcsim.analysis.validate.validate import validate

HEAD = """# How wrong is it?

Predictions against a real vLLM, measured with `ttcsim measure`. Everything on this page but the
explanations is computed from the runs in `analysis/evidence/`; `make validation` writes it again.
[measuring.md](measuring.md) says how the runs were made, what makes one count, and what N is.

*Closed loop* means: scenario, trace and calibration go in, nothing else of the run. The calibration
is fitted on the `single` workloads of the same campaign (marked c below); no other strategy was
looked at for it. Errors are predicted / measured - 1, measured values are medians over the accepted
runs. CV is the coefficient of variation between the runs, N the noise of the comparison; an error
up to max(5 %, 2 N) counts as agreement. Ratios of two makespans may be off by max(4 %, 2 N), N
that of the ratio. Measured medians are off, too: *if exact* is how many ratios would be within if
predictions had no error at all (normal noise).
"""


@dataclass(frozen=True)
class Chapter:
    """A campaign, its validation, its fit, and the validation from client timestamps alone."""

    measured: MeasuredCampaign
    report: ValidationReport
    fitted: Calibrated
    client: ValidationReport


def chapter(folder: Path) -> Chapter:
    """Validate one campaign in both ways."""
    measured = load_campaign_runs(folder)
    with tempfile.TemporaryDirectory(prefix="ttcsim-") as scratch:
        path = Path(scratch) / "client.yaml"
        write_calibration(calibrate([measured], "client").calibration, path)
        client = validate(measured, str(path))
    return Chapter(measured, validate(measured), calibrate([measured]), client)


def page(chapters: Sequence[Chapter], foreign: Sequence[ValidationReport], notes: str) -> str:
    """The page as Markdown."""
    parts = [HEAD, _summary(chapters), notes.strip() + "\n"]
    parts += [_chapter(each) for each in chapters]
    if foreign:
        parts.append(_foreign(foreign))
    return "\n".join(parts)


def _summary(chapters: Sequence[Chapter]) -> str:
    lines = [
        "## In short",
        "",
        "| campaign | verdicts | agree | median error | p90 | worst | signed mean, makespan"
        " | N | ratios within | if exact | decided pairs in order | steps: alone or overload,"
        " moderate | schedule | client times only: median, worst |",
        "|" + "---|" * 14,
    ]
    for each in chapters:
        found = each.report.to_dict()["summary"]
        client = each.client.to_dict()["summary"]
        noises = [w.noise for w in each.report.validated]
        checks = [w.schedule for w in each.report.workloads if w.schedule]
        same, steps = sum(c.identical for c in checks), sum(c.steps for c in checks)
        verdicts = sum(w.invalid is None for w in each.report.validated)
        ratios = each.report.makespans
        closed, open_ = (_steps_off(each.report, moderate) for moderate in (False, True))
        lines.append(
            f"| {each.report.source} | {verdicts} of {found['workloads']} | {found['agree']} |"
            f" {found['median_error']:.1%} | {found['p90_error']:.1%} |"
            f" {found['worst_error']:.1%} | {found['signed_mean_makespan_error']:+.1%} |"
            f" {percent(min(noises))} to {percent(max(noises))} |"
            f" {ratios.within} of {len(ratios.pairs)} | {ratios.expected_within:.1f} |"
            f" {ratios.right} of {ratios.decided} |"
            f" {closed}, {open_} |"
            f" {same:,} of {steps:,} steps | {client['median_error']:.1%},"
            f" {client['worst_error']:.1%} |"
        )
    return "\n".join([*lines, ""])


def _steps_off(report: ValidationReport, moderate: bool) -> str:
    """Largest |error| of the number of steps: moderate load has open arrivals."""
    counts = [w.steps for w in report.validated if w.steps and (w.load == "moderate") == moderate]
    return percent(max((abs(predicted / seen - 1) for seen, predicted in counts), default=math.nan))


def _chapter(each: Chapter) -> str:
    report, name = each.report, each.report.source
    wall = sum(run.wall_s for run in each.measured.runs) / 60
    rules = each.measured.campaign.rules
    rejected = [run for run in each.measured.runs if not run.accepted]
    lines = [
        f"## {name}",
        "",
        f"{report.engine}. {len(each.measured.runs)} runs, {wall:.0f} minutes of measuring, in"
        f" stretches of at most {rules.wall_time_s / 60:.0f} minutes; {len(rejected)} rejected"
        " (rule:"
        f" more than {rules.max_disturbance:.0%} of the wall time taken by the host or other"
        f" processes, decode steps more than {rules.max_slowdown:.0%} slower or faster than usual"
        " for their batch, or a failed call).",
        "",
    ]
    if report.invalid is not None:
        lines += [f"**Not a valid campaign as a whole**: {report.invalid}.", ""]
    lines += [*_workloads(report), "", *_layers(report), ""]
    lines += [_ranking("makespan", report.makespans), _ranking("tokens", report.tokens), ""]
    lines += [*_fit(each.fitted), ""]
    if rejected:
        why = [f"{run.number} ({run.workload.name}: {run.rejected})" for run in rejected]
        lines += ["Rejected runs: " + "; ".join(why) + ".", ""]
    for kind, text in (
        ("scatter", "predicted against measured makespan of every question"),
        ("makespans", "distribution of makespans, measured and predicted"),
        ("steps", "predicted against measured time of every calibration step"),
    ):
        lines += [f"![{name}: {text}](validation/{name}_{kind}.png)", ""]
    return "\n".join(lines)


def _workloads(report: ValidationReport) -> list[str]:
    lines = [
        "| workload | strategy | runs (rejected) | CV | N | makespan, s | predicted | error |"
        " tokens/s | ttft | tpot | e2el | a question's makespan: median, p90 | steps | predicted |"
        " verdict |",
        "|" + "---|" * 16,
    ]
    ordered = sorted(report.workloads, key=lambda w: (w.role == "calibrate", -w.worst))
    return lines + [_row(each) for each in ordered]


def _row(each: WorkloadReport) -> str:
    errors = [each.error(m) for m in ("output_tokens_per_s", "ttft_ms", "tpot_ms", "e2el_ms")]
    spread = each.questions
    single = "" if spread is None else f"{spread.median:.1%}, {spread.p90:.1%}"
    steps = "| |" if each.steps is None else f" {each.steps[0]:.0f} | {each.steps[1]:.0f} |"
    mark = " (c)" if each.role == "calibrate" else ""
    return (
        f"| {each.name}{mark} | `{each.strategy}` | {each.accepted} ({each.rejected}) |"
        f" {percent(each.variation)} | {percent(each.noise)} | {each.measured['makespan_s']:.3f} |"
        f" {each.predicted['makespan_s']:.3f} | **{each.error('makespan_s'):+.1%}** |"
        f" {' | '.join(f'{error:+.1%}' for error in errors)} | {single} |{steps} {each.verdict} |"
    )


def _layers(report: ValidationReport) -> list[str]:
    checks = [each.schedule for each in report.workloads if each.schedule]
    times = [each.time for each in report.validated if each.time]
    lines = []
    if checks:
        same, steps = sum(c.identical for c in checks), sum(c.steps for c in checks)
        first = next((check.difference for check in checks if check.difference), None)
        lines.append(
            f"* **Schedule**, recorded arrivals replayed: {same:,} of {steps:,} steps identical."
        )
        if first is not None:
            lines.append(f"  First difference: `{' '.join(first.split())[:300]}`")
    if times:
        steps = sum(each.steps for each in times)
        median = sorted(each.median_step_error for each in times)[len(times) // 2]
        mean = sum(each.mean_step_error * each.steps for each in times) / steps
        totals = [each.total_error for each in times]
        lines.append(
            f"* **Time**, recorded batches through the cost model: {steps:,} steps of the validated"
            f" workloads, |error| of a step {median:.1%} (median), {mean:.1%} (mean); totals"
            f" {min(totals):+.1%} to {max(totals):+.1%}."
        )
    return lines


def _ranking(what: str, ranking: Ranking) -> str:
    found = ranking.to_dict()
    if not ranking.pairs:
        return ""
    return (
        f"* **Ranking by {what}**: of {len(ranking.pairs)} pairs of strategies under one load,"
        f" {ranking.decided} differ by more than the noise; {ranking.right} of these are ranked as"
        f" measured. Predicted ratios: median |error| {found['median_ratio_error']:.1%}, worst"
        f" {found['worst_ratio_error']:.1%}, {ranking.within} within max(4 %, 2 N)"
        f" (if predictions had no error: {ranking.expected_within:.1f})."
    )


def _fit(found: Calibrated) -> list[str]:
    front = found.calibration.front_end
    lines = [
        f"* **Fit**: {found.fit.steps:,} steps of {found.runs} `single` runs, |error| of a step"
        f" {found.fit.median_error:.1%} (median), {found.fit.p90_error:.1%} (90 %); mean over"
        f" median {found.fit.scale:.3f}."
    ]
    if front is not None:
        lines.append(
            f"* **Front end**: ingest {front.ingest_s * 1e3:.1f} ms, {front.ingest_gap_s * 1e3:.2f}"
            f" ms between requests of a burst, output {front.output_s * 1e3:.1f} ms."
        )
    return lines


def _foreign(reports: Sequence[ValidationReport]) -> str:
    lines = [
        "## Measurements by others",
        "",
        "LLMServingSim's vLLM 0.19 runs (MIT, `analysis/evidence/llmservingsim/`), one run each, so"
        " their noise is not known; predicted with the bundled calibrations. Times from queued on.",
        "",
        "| run | engine | tokens/s | ttft | tpot | e2el | a request's e2el: median, p90 |",
        "|" + "---|" * 7,
    ]
    for report in reports:
        each = report.workloads[0]
        errors = [each.error(m) for m in ("output_tokens_per_s", "ttft_ms", "tpot_ms", "e2el_ms")]
        spread = each.calls["e2el_ms"]
        single = "" if spread is None else f"{spread.median:.1%}, {spread.p90:.1%}"
        cells = " | ".join(f"{error:+.1%}" for error in errors)
        lines.append(f"| {report.source} | {report.engine} | {cells} | {single} |")
    return "\n".join([*lines, ""])


def _published(report: PublishedReport, origin: str) -> str:
    """Errors of a table by device, model and precision, the worst rows, and what does not count."""
    metrics = [metric for metric in METRICS if report.errors(metric)]
    lines = [
        f"### {report.source}",
        "",
        f"{origin} {len(report.scored)} of {len(report.outcomes)} rows count. Each cell: median of"
        " the absolute errors, 90th percentile, median of the signed errors.",
        "",
        f"| device, model, precision | rows | {' | '.join(metrics)} |",
        "|" + "---|" * (2 + len(metrics)),
    ]
    for name, errors in [("all", report.total), *report.groups("kind").items()]:
        cells = " | ".join(_cell(errors[metric]) for metric in metrics)
        rows = max((e.count for e in errors.values() if e is not None), default=0)
        lines.append(f"| {name} | {rows} | {cells} |")
    lines += ["", "The worst by tpot:", ""]
    lines += [f"* {worst_line(each)}" for each in report.worst()]
    lines += ["", "Rows that do not count:", ""]
    lines += [f"* {len(rows)}: {reason}" for reason, rows in report.unscored.items()]
    name = report.source.partition(".")[0]
    lines += ["", f"![{name}: predicted against published](validation/{name}.png)", ""]
    return "\n".join(lines)


def _cell(error: Spread | None) -> str:
    return "" if error is None else f"{error.median:.1%}, {error.p90:.0%}, {error.bias:+.1%}"


PUBLISHED_HEAD = """## Published measurements

Tables that others have measured, predicted row by row (`ttcsim validate published`;
[published.md](published.md) says what is assumed). The overheads of the H100 calibration were
fitted on its dense chats and on the rows of Qwen3-32B; two constants of each measuring set-up, and
two of how fast a host starts steps that no CUDA graph holds, were first chosen on a third of the
serving rows and settled with a look at all of them; what layers of experts cost vLLM 0.11 beyond
measured kernels was fitted on chats of MoE models, and what a layer cost it on a B200 on dense
chats there. Times of matrix products, attention, experts and all-reduces are those of measured
kernels.
"""

ORIGINS = {
    "mlenergy_chat": "Chats of the ML.ENERGY leaderboard (vLLM 0.11.1), in steady state.",
    "silicon_sample": "Serving sweeps collected in aiconfigurator-core 0.12.0 (vLLM 0.11 to 0.19):"
    " random prompts at a fixed concurrency.",
}


def published(folder: Path, plots: Path) -> str:
    """The chapter on published tables; draws their plots."""
    parts = [PUBLISHED_HEAD]
    for path in sorted(folder.glob("*.csv.gz")):
        outcomes = predict_rows(load_rows(path), processes=os.cpu_count() or 1)
        report = PublishedReport(path.name, tuple(outcomes))
        name = path.name.partition(".")[0]
        save_figure(published_figure(report), plots / f"{name}.png")
        parts.append(_published(report, ORIGINS.get(name, "")))
    return "\n".join(parts)


def main() -> None:
    """Validate all evidence and write the page with its plots."""
    evidence, docs = Path("analysis/evidence"), Path("docs")
    if len(sys.argv) == 3:
        evidence, docs = Path(sys.argv[1]), Path(sys.argv[2])
    folders = sorted(path.parent for path in evidence.glob("*/campaign.json"))
    chapters = [chapter(folder) for folder in folders]
    (docs / "validation").mkdir(parents=True, exist_ok=True)
    for each in chapters:
        base = docs / "validation" / each.report.source
        save_figure(scatter_figure(each.report), Path(f"{base}_scatter.png"))
        save_figure(distribution_figure(each.report), Path(f"{base}_makespans.png"))
        save_figure(fit_figure(each.fitted), Path(f"{base}_steps.png"))
    others = evidence / "llmservingsim"
    foreign = [validate(each) for each in load_measured(others)] if others.exists() else []
    notes = evidence / "notes.md"
    text = notes.read_text(encoding="utf-8") if notes.exists() else ""
    found = page(chapters, foreign, text)
    if (evidence / "published").exists():
        found += "\n" + published(evidence / "published", docs / "validation")
    (docs / "validation.md").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
