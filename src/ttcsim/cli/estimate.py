"""The verb `estimate`: closed forms instead of a simulation."""

from typing import TYPE_CHECKING, Annotated

import typer

from ttcsim.cli import options as o
from ttcsim.cli.run import DEFAULT_STRATEGIES, scenario_of

if TYPE_CHECKING:
    from ttcsim.analysis.estimate.figures import Estimates

HEADS = {
    "calls": ("calls", ""),
    "output_tokens": ("output tokens", ""),
    "prompt_tokens": ("prompt tokens computed", ""),
    "flops": ("arithmetic", "FLOP"),
    "hbm_bytes": ("memory traffic", "B"),
    "eflops": ("eFLOPs", "FLOP"),
    "kv_peak_bytes": ("KV at most", "B"),
    "makespan_lower_s": ("alone, at least", "s"),
    "makespan_s": ("alone", "s"),
    "makespan_p95_s": ("alone, p95", "s"),
    "makespan_upper_s": ("alone, no overlap", "s"),
    "alone_energy_j": ("alone, energy", "J"),
    "alone_cost_usd": ("alone, cost", "$"),
    "saturated_questions_per_s": ("full load, rate", "/s"),
    "saturated_batch": ("full load, batch", ""),
    "saturated_energy_j": ("full load, energy", "J"),
    "saturated_cost_usd": ("full load, cost", "$"),
    "balanced_energy_j": ("all busy, energy", "J"),
    "balanced_cost_usd": ("all busy, cost", "$"),
}
"""Heading and unit of each figure."""


def estimate(
    scenario: o.SCENARIO = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="A strategy; give it once for each (default: three common ones)."),
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
    seed: o.SEED = None,
    set_: o.SET = None,
    format: o.FORMAT = "table",
) -> None:
    """Say in closed form what a question costs: bounds, makespan alone, rate at full load."""
    from ttcsim.analysis.estimate.estimate import QUESTIONS
    from ttcsim.analysis.estimate.estimate import estimate as run
    from ttcsim.cli.formats import check_format, to_csv, to_json

    check_format(format)
    strategies = strategy or [DEFAULT_STRATEGIES[0], DEFAULT_STRATEGIES[2], DEFAULT_STRATEGIES[5]]
    built = scenario_of(scenario, locals(), strategies[0])
    found = run(built, strategies, questions=max(questions or 0, QUESTIONS))
    if format == "json":
        print(to_json(found.to_dict()))
    elif format == "csv":
        print(to_csv(found.to_dict()["rows"]), end="")
    else:
        _print(found)


def _print(found: "Estimates") -> None:
    from ttcsim.analysis.estimate.figures import FORMULAS
    from ttcsim.cli.formats import print_rows

    print(found.scene)
    print(
        f"a question, on average over {found.questions} of the trace; formulas: docs/estimate.md\n"
    )
    rows = []
    for name, (head, unit) in HEADS.items():
        cells = {row.strategy: scaled(getattr(row, name), unit) for row in found.rows}
        rows.append({"": head, **cells, "formula": FORMULAS[name]})
        if name == "saturated_batch":
            limits = {row.strategy: row.limited_by for row in found.rows}
            rows.append({"": "full load, limited by", **limits, "formula": ""})
    print_rows(rows)
    print(f"\ntimes: {found.time_level}; joules: {found.energy_level}")


def scaled(value: float, unit: str) -> str:
    """A number of three digits with its unit, thousands as k, M, G, T, P, E."""
    if unit == "$":
        return f"${value:.3g}" if value >= 0.001 else f"${value:.1e}"
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    step = 0
    while abs(value) >= 999.5 and step < len(prefixes) - 1 and unit in ("FLOP", "B", "J"):
        value /= 1000
        step += 1
    digits = f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
    return f"{digits} {prefixes[step]}{unit}".rstrip()
