"""The verb `whatif`: the same scenario with fields varied, and what that changes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ttcsim.cli import options as o
from ttcsim.cli.progress import progress_bar
from ttcsim.errors import InputError

if TYPE_CHECKING:
    from ttcsim.analysis.whatif.execute import Executor
    from ttcsim.analysis.whatif.points import Mode
    from ttcsim.analysis.whatif.study import Study

STORE = "study.sqlite"
_STUDY = "Study"

VARY = Annotated[
    list[str] | None,
    typer.Option(
        help="PATH=VALUES; once for each field. PATH: a field of the scenario (strategy.n,"
        " engine.max_num_seqs, arrivals.rate), of the hardware profile"
        " (hardware.memory.hbm.bytes_per_s) or of the model's config.json"
        " (model.num_hidden_layers). VALUES: 1,4,16, or times the present value 1x,2x, or a range"
        " 1x..4x (5 points), 10..100:4; strategies single|best_of_n:n=8.",
        rich_help_panel=_STUDY,
    ),
]
MODE = Annotated[
    str,
    typer.Option(
        help="grid (every combination), one-at-a-time, or elasticity (where the next dollar goes:"
        " each main number of the device up by a quarter).",
        rich_help_panel=_STUDY,
    ),
]
JOBS = Annotated[
    int | None,
    typer.Option(help="Processes (default: one a core).", rich_help_panel=_STUDY),
]
EXECUTOR = Annotated[
    str,
    typer.Option(help="local, or ray: on a Ray cluster (ttcsim[ray]).", rich_help_panel=_STUDY),
]
METRIC = Annotated[
    str, typer.Option(help="Key of the summary that the plots show.", rich_help_panel="Output")
]
RESUME = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the study in --output: compute only what is missing.",
        rich_help_panel=_STUDY,
    ),
]  # fmt: skip


def whatif(
    scenario: o.SCENARIO = None,
    vary: VARY = None,
    mode: MODE = "grid",
    jobs: JOBS = None,
    executor: EXECUTOR = "local",
    resume: RESUME = False,
    strategy: Annotated[
        str | None, typer.Option(help="Strategy, e.g. best_of_n:n=16 (see `ttcsim strategies`).")
    ] = None,
    model: o.MODEL = None,
    hardware: o.HARDWARE = None,
    tensor_parallel: o.TENSOR_PARALLEL = None,
    replicas: o.REPLICAS = None,
    weight_dtype: o.WEIGHT_DTYPE = None,
    kv_cache_dtype: o.KV_CACHE_DTYPE = None,
    calibration: o.CALIBRATION = None,
    usd_per_hour: o.USD_PER_HOUR = None,
    max_num_seqs: o.MAX_NUM_SEQS = None,
    max_num_batched_tokens: o.MAX_NUM_BATCHED_TOKENS = None,
    scorer_model: o.SCORER_MODEL = None,
    scorer_hardware: o.SCORER_HARDWARE = None,
    scorer_tensor_parallel: o.SCORER_TENSOR_PARALLEL = None,
    scorer_placement: o.SCORER_PLACEMENT = None,
    trace: o.TRACE = None,
    questions: o.QUESTIONS = None,
    input_len: o.INPUT_LEN = None,
    output_len: o.OUTPUT_LEN = None,
    question_rate: o.QUESTION_RATE = None,
    burstiness: o.BURSTINESS = None,
    max_concurrency: o.MAX_CONCURRENCY = None,
    seed: o.SEED = None,
    set_: o.SET = None,
    metric: METRIC = "makespan_p50_s",
    format: o.FORMAT = "table",
    output: o.OUTPUT = None,
    quiet: o.QUIET = False,
) -> None:
    """Vary hardware, model, engine, strategy or workload, and say what that changes."""
    from ttcsim.analysis.plots.whatif import check_metric
    from ttcsim.analysis.whatif.study import whatif as run
    from ttcsim.cli import formats
    from ttcsim.cli.run import scenario_of

    formats.check_format(format)
    check_metric(metric)
    built = scenario_of(scenario, locals(), strategy or _first_strategy(vary or ()))
    store = _store(output, resume)
    try:
        with progress_bar("scenarios", quiet) as progress:
            study = run(
                built,
                vary or [],
                mode=cast("Mode", mode.replace("-", "_")),
                jobs=jobs,
                executor=cast("Executor", executor),
                store=store,
                progress=progress,
            )
    except KeyboardInterrupt:
        if store is not None:
            print(f"ttcsim: interrupted; --resume goes on with {output}", file=sys.stderr)
        raise
    if resume:
        print(f"{study.reused} of {len(study.rows)} scenarios were there", file=sys.stderr)
    if output is not None:
        _write(study, metric, output)
    _show(study, format)
    if not study.runs:
        raise typer.Exit(1)


def _first_strategy(vary: Sequence[str]) -> str | None:
    """A study over strategies needs no other one to start from."""
    from ttcsim.analysis.whatif.vary import parse_vary

    values = (each.values for each in map(parse_vary, vary) if each.path == "strategy")
    return next((str(found[0]) for found in values), None)


def _store(output: Path | None, resume: bool) -> Path | None:
    """Where outcomes are kept.

    Raises:
        InputError: If a study is there and it was not said that it goes on.
    """
    if output is None:
        if resume:
            raise InputError("--resume needs --output, the folder of the study")
        return None
    if (output / STORE).exists() and not resume:
        raise InputError(
            f"--output {output}: holds a study already; --resume goes on with it (only what is"
            " missing is computed), or give another folder"
        )
    return output / STORE


def _write(study: "Study", metric: str, output: Path) -> None:
    """Write study.csv, study.json, elasticities.csv and the plots that the study allows."""
    from ttcsim.analysis.plots.page import save_figure
    from ttcsim.analysis.plots.whatif import heatmap_figure, tornado_figure, varied
    from ttcsim.cli import folders, formats

    grid = study.mode == "grid" and len(varied(study)) > 1
    with folders.claimed(output) as folder:
        assert folder is not None
        (folder / "study.json").write_text(
            formats.to_json(study.to_dict()) + "\n", encoding="utf-8"
        )
        folders.write_text(folder / "study.csv", formats.to_csv(study.rows))
        if found := study.elasticities():
            folders.write_text(folder / "elasticities.csv", formats.to_csv(found))
        try:
            figure = (heatmap_figure if grid else tornado_figure)(study, metric)
        except InputError as error:  # nothing to draw is no reason to lose the study
            print(f"ttcsim: no plot: {error}", file=sys.stderr)
        else:
            save_figure(figure, folder / ("heatmap.png" if grid else "tornado.png"))


def _show(study: "Study", format: str) -> None:
    from ttcsim.cli import formats
    from ttcsim.cli import output as out

    if format == "json":
        print(formats.to_json(study.to_dict()))
    elif format == "csv":
        print(formats.to_csv(study.rows), end="")
    else:
        out.show_rows([_row(study, row) for row in study.rows])
        if found := study.elasticities():
            print("Elasticities: 1 % more of a field changes a number by so many % (prices held)")
            out.show_rows([_elasticity(each) for each in found])
        print("\n".join(_notes(study)))


def _row(study: "Study", row: dict[str, Any]) -> dict[str, str]:
    def number(key: str, form: str, times: float = 1.0) -> str:
        return "-" if row.get(key) is None else f"{row[key] * times:{form}}"

    return {
        **_varied(study, row),
        "p50 s": number("makespan_p50_s", ".2f"),
        "p95 s": number("makespan_p95_s", ".2f"),
        "q/s": number("questions_per_s", ".4g"),
        "tokens/s": number("output_throughput", ",.0f"),
        "J/q": number("energy_per_question_j", ",.0f"),
        "$/1000q": number("cost_per_question_usd", ".3f", 1000),
    }


def _varied(study: "Study", row: dict[str, Any]) -> dict[str, str]:
    """What is varied in a row: a column a field in a grid, else the one that differs."""
    if study.mode == "grid":
        return {name: _value(row[name]) for name in study.fields}
    changed = [f"{n} = {_value(row[n])}" for n in study.fields if row[n] != study.rows[0][n]]
    return {"what if": ", ".join(changed) or "as it is"}


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _elasticity(each: dict[str, Any]) -> dict[str, str]:
    from ttcsim.analysis.whatif.elasticity import METRICS

    names = ("makespan p50", "questions/s", "tokens/s", "J/question", "$/question")
    slopes = zip(names, (each[metric] for metric in METRICS), strict=True)
    return {
        "field": each["field"],
        "from": _value(each["from"]),
        "to": _value(each["to"]),
        **{
            name: "-" if slope is None else f"{round(slope, 3) + 0.0:+.3f}"
            for name, slope in slopes
        },
    }


def _notes(study: "Study") -> list[str]:
    """What the numbers rest on, and which rows have none."""
    from ttcsim.analysis.telling import OVERLOAD

    rows = study.rows
    places: dict[str, list[str]] = {}
    for place, row in enumerate(rows, 1):
        if row["error"] is not None:
            places.setdefault(row["error"], []).append(str(place))
    notes = [
        f"! row{'s' if len(found) > 1 else ''} {', '.join(found)}: {error}"
        for error, found in places.items()
    ]
    answered = [row["answered_while_arriving"] for row in study.runs]
    piled = sum(share is not None and share < OVERLOAD for share in answered)
    if piled:
        notes.append(
            f"! in {piled} of {len(rows)} rows work piles up, so makespans depend on the length of"
            " the run"
        )
    arrivals = study.scenario["arrivals"] or {}
    if "rate" in arrivals and piled < len(answered):
        notes.append("questions arrive at a rate: below capacity, throughput is that rate whatever"
                     " the device")  # fmt: skip
    for word, name in (("time", "times"), ("energy", "joules")):
        levels = [", ".join(dict.fromkeys(row[f"{word}_level"].values())) for row in study.runs]
        if levels:
            others = "; rows with changed numbers: the device's calibration on those"
            notes.append(f"{name}: {levels[0]}{others if len(set(levels)) > 1 else ''}")
    return notes
