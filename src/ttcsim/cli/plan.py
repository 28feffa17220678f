"""The verb `plan`: the cheapest way to meet objectives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttcsim.cli import options as o
from ttcsim.errors import InputError

if TYPE_CHECKING:
    from ttcsim.analysis.planning.option import Option
    from ttcsim.analysis.planning.result import PlanResult
    from ttcsim.workloads.strategy import Strategy

NO_PLAN = 3
"""Exit code where nothing meets the objectives."""


def _choice(help: str, *names: str) -> Any:
    return typer.Option(
        *names, help=help, rich_help_panel="What to choose from", show_default=False
    )


def plan(
    scenario: o.SCENARIO = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            help="Objective NAME:LIMIT, once for each: makespan_p95:60s, accuracy:0.8,"
            " ttft_p99:500ms, energy:5000 (J a question), cost:0.01 (USD a question)."
        ),
    ] = None,
    question_rate: Annotated[
        float | None, typer.Option(help="Questions per second, Poisson.", show_default=False)
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Instead: time for a batch of all questions, e.g. 2h.", show_default=False
        ),
    ] = None,
    model: Annotated[str | None, _choice("Models, with commas.", "--model")] = None,
    hardware: Annotated[str | None, _choice("Devices, with commas.", "--hardware")] = None,
    tensor_parallel: Annotated[
        str | None,
        _choice("Tensor-parallel sizes (default: 1,2,4,8).", "--tensor-parallel-size", "--tp"),
    ] = None,
    pipeline_parallel: Annotated[
        str | None, _choice("Pipeline stages (default: 1).", "--pipeline-parallel-size", "--pp")
    ] = None,
    strategy: Annotated[
        list[str] | None,
        _choice("A strategy, once for each; n=4..32 doubles, n=4|6 lists.", "--strategy"),
    ] = None,
    weight_dtype: Annotated[
        str, _choice("Weight dtypes; auto: the model's.", "--weight-dtype")
    ] = "auto",
    kv_cache_dtype: Annotated[
        str, _choice("KV dtypes; auto: the model's.", "--kv-cache-dtype")
    ] = "auto",
    max_num_seqs: Annotated[
        str, _choice("Most running requests; auto: vLLM's.", "--max-num-seqs")
    ] = "auto",
    max_num_batched_tokens: Annotated[
        str, _choice("Token budgets; auto: vLLM's.", "--max-num-batched-tokens")
    ] = "auto",
    prefix_caching: Annotated[
        str, _choice("true, false or both, with a comma.", "--enable-prefix-caching")
    ] = "auto",
    trace: o.TRACE = None,
    questions: o.QUESTIONS = None,
    input_len: o.INPUT_LEN = None,
    output_len: o.OUTPUT_LEN = None,
    scorer_model: o.SCORER_MODEL = None,
    scorer_hardware: o.SCORER_HARDWARE = None,
    scorer_tensor_parallel: o.SCORER_TENSOR_PARALLEL = None,
    scorer_placement: o.SCORER_PLACEMENT = None,
    set_: o.SET = None,
    minimise: Annotated[str, typer.Option(help="usd (an hour) or joules (a question).")] = "usd",
    seeds: Annotated[int, typer.Option(help="Seeds that a plan must hold for.")] = 4,
    max_replicas: Annotated[int, typer.Option(help="Most replicas of a deployment.")] = 64,
    format: o.FORMAT = "table",
    output: o.OUTPUT = None,
    quiet: o.QUIET = False,
) -> None:
    """Find the cheapest deployment and strategy that meet objectives; exit 3 if none does."""
    from ttcsim.analysis.planning.plan import plan as run
    from ttcsim.cli import folders
    from ttcsim.cli.formats import check_format, to_json
    from ttcsim.cli.progress import words

    check_format(format)
    fields, generator = _fields(scenario, locals())
    models, devices = _names(model, generator, "model"), _names(hardware, generator, "hardware")
    with folders.claimed(output) as folder, words(quiet) as say:
        found = run(
            models=models,
            hardware=devices,
            strategies=strategy or _own_strategy(fields),
            slo=slo or [],
            question_rate=_rate(question_rate, deadline, fields),
            deadline_s=None if deadline is None else _seconds(deadline),
            tensor_parallel=_sizes(
                "--tensor-parallel-size", tensor_parallel, generator, (1, 2, 4, 8)
            ),
            pipeline_parallel=_sizes(
                "--pipeline-parallel-size", pipeline_parallel, generator, (1,)
            ),
            weight_dtype=_words(weight_dtype),
            kv_cache_dtype=_words(kv_cache_dtype),
            max_num_seqs=_whole_or_auto("--max-num-seqs", max_num_seqs),
            max_num_batched_tokens=_whole_or_auto(
                "--max-num-batched-tokens", max_num_batched_tokens
            ),
            enable_prefix_caching=_flags(prefix_caching),
            minimise=minimise,  # type: ignore[arg-type]
            seeds=seeds,
            max_replicas=max_replicas,
            scenario=fields,
            progress=say,
        )
        if folder is not None:
            _write(found, folder)
    if format == "json":
        print(to_json(found.to_dict()))
    elif format == "csv":
        print(_csv(found), end="")
    else:
        show(found)
    if found.winner is None:
        raise typer.Exit(NO_PLAN)


# -- arguments -------------------------------------------------------------------------------------


def _fields(file: Path | None, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the scenario beside what is chosen, and the generator's that the file names."""
    names = ("trace", "questions", "input_len", "output_len", "scorer_model", "scorer_hardware",
             "scorer_tensor_parallel", "scorer_placement", "set_")  # fmt: skip
    kept = {name: given[name] for name in names}
    nothing = {"model": "any", "hardware": "any"}  # chosen later
    fields = o.scenario_fields(file, kept if file else {**kept, **nothing})
    generator = dict(fields.get("generator") or {})
    if file is None:
        generator = {k: v for k, v in generator.items() if v != "any"}
    fields["generator"] = {k: v for k, v in generator.items() if k not in ("model", "hardware")}
    return fields, generator


def _names(given: str | None, generator: dict[str, Any], name: str) -> list[str]:
    if given is not None:
        return _list(given)
    if name in generator:
        return [str(generator[name])]
    raise InputError(f"--{name} is missing (or give a scenario file)")


def _rate(given: float | None, deadline: str | None, fields: dict[str, Any]) -> float | None:
    """The question rate as given, else that of the file's Poisson arrivals."""
    arrivals = fields.get("arrivals")
    own = arrivals.get("rate") if isinstance(arrivals, dict) else None
    return own if given is None and deadline is None and own is not None else given


def _own_strategy(fields: dict[str, Any]) -> "list[Strategy | str]":
    from ttcsim.workloads.strategies import make_strategy

    own = fields.get("strategy")
    if isinstance(own, str):
        return [own]
    if isinstance(own, dict) and isinstance(own.get("name"), str):
        parameters = {key: value for key, value in own.items() if key != "name"}
        return [make_strategy(own["name"], parameters)]
    raise InputError("--strategy is missing (see `ttcsim strategies`)")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _sizes(
    option: str, given: str | None, generator: dict[str, Any], usual: tuple[int, ...]
) -> list[int]:
    """Sizes as given, else the file's, else the usual ones."""
    if given is not None:
        return _whole(option, given)
    name = option.removeprefix("--").removesuffix("-size").replace("-", "_")
    return [int(generator[name])] if name in generator else list(usual)


def _whole(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in _list(text)]
    except ValueError:
        raise InputError(f"{option} {text}: expected whole numbers with commas") from None


def _whole_or_auto(option: str, text: str) -> list[int | None]:
    return [None if part == "auto" else _whole(option, part)[0] for part in _list(text)]


def _words(text: str) -> list[str | None]:
    return [None if part == "auto" else part for part in _list(text)]


def _flags(text: str) -> list[bool | None]:
    known = {"auto": None, "true": True, "false": False}
    for part in _list(text):
        if part not in known:
            raise InputError(f"--enable-prefix-caching {text}: expected true, false or both")
    return [known[part] for part in _list(text)]


def _seconds(text: str) -> float:
    from ttcsim.analysis.planning.slo import SECONDS

    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    try:
        return float(number) * SECONDS[unit]
    except (ValueError, KeyError):
        raise InputError(f"--deadline {text}: expected a time such as 30min or 2h") from None


# -- output ----------------------------------------------------------------------------------------


def _csv(found: "PlanResult") -> str:
    from ttcsim.cli.formats import to_csv

    rows = [each.row() for each in found.options]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return to_csv([{name: row.get(name) for name in names} for row in rows])


def _write(found: "PlanResult", folder: Path) -> None:
    from ttcsim.cli import folders
    from ttcsim.cli.formats import to_json

    folders.write_text(folder / "plan.csv", _csv(found))
    folders.write_text(folder / "plan.json", to_json(found.to_dict()) + "\n")


def show(found: "PlanResult") -> None:
    """Print the winner, the runners-up, why neighbours failed; or the closest misses."""
    from ttcsim.analysis.planning.search import CONFIDENCE

    objectives = ", ".join(str(slo) for slo in found.slos)
    print(f"objectives: {objectives}\n")
    if found.winner is None:
        _show_misses(found)
        return
    table = [_row("winner", found.winner)]
    table += [_row("runner-up", each) for each in found.runners_up]
    _table(table)
    print(
        f"\nEach holds for {found.seeds} seeds, with a margin that a fresh one meets with"
        f" {CONFIDENCE:.1%}."
    )
    if found.neighbours:
        print("\nwhat differs from the winner in one thing:\n")
        _table([_neighbour(what, each) for what, each in found.neighbours])
    print("\nstart a replica with:")
    counts = (found.winner.replicas, found.winner.scorers)
    for command, count in zip(found.commands, counts, strict=False):
        print(f"  {command}" + (f"   # {count} times, behind a router" if count > 1 else ""))


def _show_misses(found: "PlanResult") -> None:
    print("No plan meets them. The closest misses:\n")
    misses = found.closest_misses[:5] or found.options[:5]
    _table([_neighbour("", each) for each in misses])
    if found.binding:
        print(f"\nThe binding objective is {found.binding}.")


def _table(rows: list[dict[str, str]]) -> None:
    from ttcsim.cli.formats import print_rows

    names = [name for name in rows[0] if any(row[name] for row in rows)]
    print_rows([{name: row[name] for name in names} for row in rows])


def _row(what: str, option: "Option") -> dict[str, str]:
    summary = option.summary
    return {
        "": what,
        **_chosen(option),
        "replicas": str(option.replicas),
        "scorers": str(option.scorers or ""),
        "devices": str(option.devices),
        "$/h": f"{option.usd_per_hour:.2f}",
        "$/1000q": f"{summary['cost_per_question_usd'] * 1000:.2f}",
        "J/q": f"{summary['energy_per_question_j']:,.0f}",
        **{name: f"{value:.3g}" for name, value in option.measured.items() if value is not None},
    }


def _chosen(option: "Option") -> dict[str, str]:
    short = {"tensor_parallel": "tp", "pipeline_parallel": "pp", "kv_cache_dtype": "kv",
             "max_num_batched_tokens": "budget", "max_num_seqs": "seqs",
             "enable_prefix_caching": "caching", "weight_dtype": "weights"}  # fmt: skip
    values = option.candidate.values
    plain = {"pipeline_parallel": 1}
    return {
        short.get(name, name): "" if value is None or plain.get(name) == value else str(value)
        for name, value in values.items()
    }


def _neighbour(what: str, option: "Option") -> dict[str, str]:
    words = option.reason or ("meets them, but is dearer" if option.status == "meets" else "")
    replicas = str(option.replicas or "")
    return {"": what, **_chosen(option), "replicas": replicas, "why not": words}
