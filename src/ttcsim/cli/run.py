"""Verbs that run simulations: `simulate` and `compare`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttcsim.cli import options as o
from ttcsim.cli.progress import progress_bar
from ttcsim.errors import InputError

if TYPE_CHECKING:
    from ttcsim.simulator.scenario import Scenario

DEFAULT_STRATEGIES = (
    "single",
    "majority_vote:n=4",
    "majority_vote:n=16",
    "majority_vote:n=16,early_stop=true",
    "first_finish:n=4",
    "first_finish:n=16",
    "best_of_n:n=4,verifier=oracle",
    "best_of_n:n=4",
    "self_refine:rounds=1",
    "dvts:n=4,problems_in_flight=none",
)


def simulate(
    scenario: o.SCENARIO = None,
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
    format: o.FORMAT = "table",
    output: o.OUTPUT = None,
    tables: o.TABLES = "csv",
    quiet: o.QUIET = False,
) -> None:
    """Run one strategy on questions and say what a question costs."""
    from ttcsim.cli import folders
    from ttcsim.cli import output as out
    from ttcsim.simulator.simulate import simulate as run

    out.check_formats(format, tables)
    built = scenario_of(scenario, locals(), strategy)
    with folders.claimed(output) as folder:
        with progress_bar("questions", quiet) as progress:
            result = run(built, progress=progress)
        if folder is not None:
            folders.write_result(result, folder, tables)
    out.show_result(result, format)


def compare(
    scenario: o.SCENARIO = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="A strategy; give it once for each (default: ten common ones)."),
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
    format: o.FORMAT = "table",
    output: o.OUTPUT = None,
    tables: o.TABLES = "csv",
    report: o.REPORT = None,
    baseline: o.BASELINE = None,
    quiet: o.QUIET = False,
) -> None:
    """Run several strategies on the same questions, side by side."""
    from ttcsim.analysis.compare import compare as run
    from ttcsim.analysis.paired import find_baseline
    from ttcsim.analysis.report import html_report
    from ttcsim.cli import folders
    from ttcsim.cli import output as out
    from ttcsim.workloads.strategies import parse_strategy

    out.check_formats(format, tables)
    strategies = strategy or list(DEFAULT_STRATEGIES)
    built = scenario_of(scenario, locals(), "single")
    if baseline is not None:
        find_baseline(baseline, [parse_strategy(each).label() for each in strategies])
    with folders.claimed_report(report), folders.claimed(output) as folder:
        with progress_bar("strategies", quiet) as progress:
            comparison = run(built, strategies, jobs=None, progress=progress)
        if report is not None:
            html_report(comparison, report, baseline)
        if folder is not None:
            folders.write_comparison(comparison, folder, tables, baseline)
    out.show_comparison(comparison, format, baseline)


def scenario_of(file: Any, given: dict[str, Any], strategy: str | None) -> "Scenario":
    """The scenario that a file and options describe."""
    from ttcsim.simulator.scenario import make_scenario

    fields = o.scenario_fields(file, given)
    if strategy is not None:
        fields["strategy"] = strategy
    if "strategy" not in fields:
        raise InputError("--strategy is missing (see `ttcsim strategies`)")
    if fields.get("scorer_placement") == "same_engine":
        if "scorer" in fields:
            raise InputError("scorer: with scorer_placement same_engine the generator scores")
    else:
        o.add_scorer(fields)
    return make_scenario(str(file) if file else "options", fields)
