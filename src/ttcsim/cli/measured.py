"""Verbs about real servers: `measure`, `calibrate` and `validate`."""

import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttcsim.cli import options as o
from ttcsim.cli.progress import progress_bar
from ttcsim.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ttcsim.analysis.measure.campaign import Campaign
    from ttcsim.analysis.measure.run_files import MeasuredCampaign

_SERVER = "Server"

_SCENARIO_OPTIONS = (
    "strategy", "model", "hardware", "trace", "questions", "question_rate", "max_concurrency",
    "seed", "set_",
)  # fmt: skip

RUNS = Annotated[
    list[Path], typer.Argument(help="Directories written by `ttcsim measure`.", show_default=False)
]


def measure(
    plan: Annotated[
        Path | None,
        typer.Argument(help="YAML file with a measuring plan, or with one scenario."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Directory for what is measured.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", help="A vLLM server that runs.", rich_help_panel=_SERVER),
    ] = None,
    scorer_base_url: Annotated[
        str | None,
        typer.Option("--scorer-base-url", help="One for the scorer.", rich_help_panel=_SERVER),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            "--served-model-name",
            help="What a running server calls the model.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    launch: Annotated[
        bool,
        typer.Option("--launch", help="Start a server, stop it after.", rich_help_panel=_SERVER),
    ] = False,
    vllm_python: Annotated[
        Path | None,
        typer.Option(
            "--vllm-python", help="Python that has vLLM, for --launch.", rich_help_panel=_SERVER
        ),
    ] = None,
    vllm_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--vllm-arg",
            help="Another option of the server, e.g. --vllm-arg=--seed=7.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(help="Record every step of a launched server.", rich_help_panel=_SERVER),
    ] = True,
    pin: Annotated[
        bool,
        typer.Option(
            help="Give a launched engine on a CPU a processor of its own.", rich_help_panel=_SERVER
        ),
    ] = True,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="Strategies, when there is no plan (see `ttcsim strategies`)."),
    ] = None,
    model: o.MODEL = None,
    hardware: o.HARDWARE = None,
    trace: o.TRACE = None,
    questions: o.QUESTIONS = None,
    question_rate: o.QUESTION_RATE = None,
    max_concurrency: o.MAX_CONCURRENCY = None,
    seed: o.SEED = None,
    set_: o.SET = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Accepted runs of each workload (default: the plan's, or 1)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what --output already holds.")
    ] = False,
    quiet: o.QUIET = False,
) -> None:
    """Run strategies against a real vLLM server and write down what they took."""
    from ttcsim.analysis.measure.measure import Launch
    from ttcsim.analysis.measure.measure import measure as run

    if output is None:
        raise InputError("--output is missing: a directory for what is measured")
    if launch and vllm_python is None:
        raise InputError("--launch needs --vllm-python: a Python that has vLLM")
    if vllm_python is not None and not launch:
        raise InputError("--vllm-python goes with --launch")
    campaign = _campaign(plan, locals(), resume)
    if vllm_arg:
        flags = (*campaign.server_flags, *vllm_arg)
        campaign = campaign.model_copy(update={"server_flags": flags})
    if repeats is not None:
        rules = {"repeats": repeats, "max_repeats": max(repeats, campaign.rules.max_repeats)}
        rules_ = campaign.rules.model_copy(update=rules)
        campaign = campaign.model_copy(update={"rules": rules_})
    _end_politely()
    started = Launch(vllm_python, record, pin) if vllm_python is not None else None
    try:
        with progress_bar("runs", quiet) as progress:
            measured = run(
                campaign,
                output,
                url=base_url,
                scorer_url=scorer_base_url,
                launch=started,
                served_model=served_model_name,
                resume=resume,
                tell=None if quiet or progress is not None else _say,  # lines would tear the bar
                progress=progress,
            )
    except KeyboardInterrupt:
        begun = (output / "campaign.json").exists()
        _say("ttcsim: interrupted" + (f"; --resume goes on with {output}" if begun else ""))
        raise
    _summary(measured)


def _end_politely() -> None:
    """Let a kill do what Ctrl-C does: end what is under way and stop the server."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's jobs in the background
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(kind) is not signal.SIG_IGN:  # as under nohup
            signal.signal(kind, _interrupted)


def _interrupted(_: int, frame: FrameType | None) -> None:
    as_ctrl_c = signal.getsignal(signal.SIGINT)  # while calls run, their event loop has its own
    assert callable(as_ctrl_c)
    as_ctrl_c(signal.SIGINT, frame)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _campaign(plan: Path | None, given: dict[str, Any], resume: bool) -> "Campaign":
    """The plan of a file; else one workload for each strategy, on the scenario that is given."""
    from ttcsim.analysis.measure.campaign import load_campaign, make_campaign
    from ttcsim.errors import read_yaml

    output: Path = given["output"]
    if (resume and plan is None) or (plan is not None and "workloads" in read_yaml(plan)):
        for name in _SCENARIO_OPTIONS:
            if given[name] is not None:
                option = name.strip("_").replace("_", "-")
                raise InputError(f"--{option}: the plan says that already; change it there")
    if resume and plan is None:
        from ttcsim.analysis.measure.run_files import planned

        return planned(output)
    if plan is not None and "workloads" in read_yaml(plan):
        return load_campaign(plan)
    fields = o.scenario_fields(plan, given)
    own = fields.pop("strategy", None)
    strategies = given["strategy"] or ([own] if own is not None else [])
    if not strategies:
        raise InputError("--strategy is missing (see `ttcsim strategies`)")
    if given["scorer_base_url"] is None:
        fields.setdefault("scorer_placement", "same_engine")
    workloads = [
        {
            "name": f"{number}_{re.sub('[^A-Za-z0-9]+', '_', str(text)).strip('_')}",
            "role": "calibrate" if _name(text) == "single" else "validate",
            "scenario": {"strategy": text},
        }
        for number, text in enumerate(strategies, 1)
    ]
    # A single run of each is a look, not a campaign: nothing says what is usual, so none is
    # rejected unless calls fail.
    rules: dict[str, Any] = {"repeats": 1, "min_run_s": 0}
    if (given["repeats"] or 1) == 1:
        rules |= {"max_disturbance": 1000, "max_slowdown": 1000}
    document = {"name": output.name, "rules": rules, "base": fields, "workloads": workloads}
    return make_campaign(str(plan) if plan else "options", document)


def _name(strategy: Any) -> str:
    return strategy.partition(":")[0] if isinstance(strategy, str) else str(strategy.get("name"))


def _summary(measured: "MeasuredCampaign") -> None:
    """A row a workload."""
    print(f"{'workload':<34}{'runs':>5}{'rejected':>9}{'failed calls':>13}{'makespan_s':>11}"
          f"{'tokens/s':>9}")  # fmt: skip
    for workload in measured.campaign.workloads:
        own = [run for run in measured.runs if run.workload.name == workload.name]
        good = [run for run in own if run.accepted]
        failed = sum(list(run.calls.columns["state"]).count("failed") for run in own)
        row = f"{workload.name:<34}{len(good):>5}{len(own) - len(good):>9}{failed:>13}"
        if good:
            from statistics import median

            span = median(run.mean_makespan_s for run in good)
            rate = median(run.output_tokens_per_s for run in good)
            row += f"{span:>11.3f}{rate:>9.1f}"
        print(row)
    print(f"written to {measured.path}; next: ttcsim validate {measured.path}")


def calibrate(
    runs: RUNS,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Calibration file to write (YAML).")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="steps of the engine (default where recorded), or client."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Plot of predicted against measured times (PNG).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    format: o.FORMAT = "table",
) -> None:
    """Fit a device with its engine to the measured runs of role `calibrate`."""
    from ttcsim.analysis.calibrate.calibrate import calibrate as run
    from ttcsim.analysis.calibrate.calibrate import write_calibration
    from ttcsim.analysis.measure.run_files import load_campaign_runs
    from ttcsim.cli import formats

    _check_format(format)
    if output is None:
        raise InputError("-o is missing: the calibration file to write")
    if from_ not in (None, "steps", "client"):
        raise unknown_name("--from", str(from_), ("steps", "client"))
    fitted_on: Any = from_
    found = run([load_campaign_runs(path) for path in runs], fitted_on, seed)
    write_calibration(found.calibration, output)
    if plot is not None:
        from ttcsim.analysis.plots import save_figure
        from ttcsim.analysis.plots.measured import fit_figure

        save_figure(fit_figure(found), plot)
    if format == "json":
        print(formats.to_json(found.to_dict()))
        return
    print(f"{found.calibration.device}, {found.calibration.engine}")
    print(f"{found.runs} runs, {found.fit.steps} {_unit(found.fitted_on)}: error "
          f"{found.fit.median_error:.1%} (median), {found.fit.p90_error:.1%} (90 %); mean/median "
          f"{found.fit.scale:.3f}")  # fmt: skip
    print(f"{'coefficient':<20}{'value':>12}  95 % interval")
    for name, value, low, high in zip(
        found.names, found.fit.coefficients, found.fit.low, found.fit.high, strict=True
    ):
        print(f"{name:<20}{value:>12.4g}  {low:.4g} to {high:.4g}")
    front = found.calibration.front_end
    if front is not None:
        print(f"front end: ingest {front.ingest_s * 1e3:.1f} ms, gap {front.ingest_gap_s * 1e3:.2f}"
              f" ms, output {front.output_s * 1e3:.1f} ms")  # fmt: skip
    print(f"written to {output}")


def _unit(fitted_on: str) -> str:
    return "steps" if fitted_on == "steps" else "output phases of calls"


def _check_format(format: str) -> None:
    if format not in ("table", "json"):
        raise unknown_name("--format", format, ("table", "json"))


def validate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Directories written by `ttcsim measure`, results of `vllm bench serve`, or"
            " per-request runs of LLMServingSim; or `published` and tables of published"
            " measurements (CSV, see docs/published.md).",
            show_default=False,
        ),
    ],
    calibration: Annotated[
        str | None,
        typer.Option(help="Calibration file (default: fitted on the campaign's own `single`)."),
    ] = None,
    scenario: Annotated[
        Path | None,
        typer.Option(help="What served, for measurements by others that do not say it (YAML)."),
    ] = None,
    model: o.MODEL = None,
    hardware: o.HARDWARE = None,
    tensor_parallel: o.TENSOR_PARALLEL = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Exit with 1 if an error of makespan or throughput (of published tables: the"
            " median error of a metric) is larger, e.g. 0.05."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for report and plots.")
    ] = None,
    format: o.FORMAT = "table",
    quiet: o.QUIET = False,
) -> None:
    """Compare predictions with measured runs: schedule, step times, and the closed loop."""
    from ttcsim.analysis.measure.foreign import load_measured
    from ttcsim.analysis.validate.text import report_text
    from ttcsim.analysis.validate.validate import validate as run
    from ttcsim.cli import folders, formats
    from ttcsim.cli.published import tables_of, validate_published

    _check_format(format)
    tables = tables_of(runs)
    if tables:
        for name, given in (("scenario", scenario), ("model", model), ("hardware", hardware),
                            ("tensor-parallel", tensor_parallel)):  # fmt: skip
            if given is not None:
                raise InputError(f"--{name}: the table says that, row by row")
        validate_published(tables, calibration, max_error, output, format, quiet)
        return
    fields = o.served_fields(scenario, locals())
    campaigns = [each for path in runs for each in load_measured(path, fields)]
    reports = []
    with folders.claimed(output) as folder:
        for measured in campaigns:
            with progress_bar("workloads", quiet) as progress:
                reports.append(run(measured, calibration, progress))
        if folder is not None:
            folders.write_validation(reports, folder)
    if format == "json":
        print(formats.to_json({"reports": [report.to_dict() for report in reports]}))
    else:
        print("\n\n".join(report_text(report) for report in reports))
    if max_error is not None and any(_exceeds(report, max_error) for report in reports):
        raise typer.Exit(1)


def _exceeds(report: Any, max_error: float) -> bool:
    """A campaign without verdict does not pass."""
    return report.invalid is not None or not report.worst_error <= max_error
