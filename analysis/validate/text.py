"""A validation as a table for people, worst first."""

from ttcsim.analysis.validate.report import ValidationReport, WorkloadReport, percent


def report_text(report: ValidationReport) -> str:
    """Three layers, then a row a workload."""
    lines = [f"{report.source}: {report.engine}", f"calibration: {report.calibration}"]
    if report.invalid is not None:
        lines.append(f"NO VERDICT, not a valid campaign: {report.invalid}")
    lines += _layers(report.workloads)
    header = (
        f"{'workload':<34}{'runs':>5}{'CV':>6}{'noise':>7}{'makespan_s':>12}{'predicted':>10}"
        f"{'error':>8}{'tok/s':>8}{'ttft':>8}{'tpot':>8}{'limit':>7}  verdict"
    )
    lines += ["", "closed loop (calibrated on rows marked c; worst first):", header]
    ordered = sorted(report.workloads, key=lambda w: (w.role == "calibrate", -w.worst))
    lines += [_row(each) for each in ordered]
    if report.validated:
        lines += ["", *_summary(report)]
    return "\n".join(lines)


def _layers(workloads: tuple[WorkloadReport, ...]) -> list[str]:
    checks = [each.schedule for each in workloads if each.schedule is not None]
    times = [each.time for each in workloads if each.time is not None and each.role == "validate"]
    lines = []
    if checks:
        same, steps = sum(c.identical for c in checks), sum(c.steps for c in checks)
        lines.append(f"schedule: {same}/{steps} recorded steps identical ({same / steps:.2%})")
        first = next((check.difference for check in checks if check.difference), None)
        if first is not None:
            lines.append(f"  {first}")
    if times:
        steps = sum(each.steps for each in times)
        mean = sum(each.mean_step_error * each.steps for each in times) / steps
        worst = max((each.total_error for each in times), key=abs)
        lines.append(
            f"time: {steps} recorded steps, mean |error| of a step {mean:.1%}, worst total"
            f" {worst:+.1%}"
        )
    return lines


def _row(each: WorkloadReport) -> str:
    mark = " c" if each.role == "calibrate" else ""
    measured, predicted = each.measured["makespan_s"], each.predicted["makespan_s"]
    cells = [f"{each.error(name):+.1%}" for name in ("output_tokens_per_s", "ttft_ms", "tpot_ms")]
    return (
        f"{each.name + mark:<34}{each.accepted:>5}{percent(each.variation):>6}"
        f"{percent(each.noise):>7}"
        f"{measured:>12.3f}{predicted:>10.3f}{each.error('makespan_s'):>+8.1%}"
        f"{cells[0]:>8}{cells[1]:>8}{cells[2]:>8}{each.limit:>7.1%}  {each.verdict}"
    )


def _summary(report: ValidationReport) -> list[str]:
    summary = report.to_dict()["summary"]
    lines = [
        f"makespan and throughput of {summary['workloads']} validated workloads: mean |error|"
        f" {summary['mean_error']:.1%}, median {summary['median_error']:.1%}, p90"
        f" {summary['p90_error']:.1%}, worst {summary['worst_error']:.1%}; signed mean of"
        f" makespans {summary['signed_mean_makespan_error']:+.1%}"
    ]
    for what, ranking in (("makespan", report.makespans), ("tokens", report.tokens)):
        if ranking.pairs:
            found = ranking.to_dict()
            lines.append(
                f"ranking by {what}: {ranking.right}/{ranking.decided} decided pairs as measured"
                f" ({len(ranking.pairs)} pairs); ratios within limit {ranking.within}"
                f" ({ranking.expected_within:.1f} if predictions had no error), median |error|"
                f" {found['median_ratio_error']:.1%}"
            )
    return lines
