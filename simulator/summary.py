"""From tables to the numbers that answer "what does a question cost?"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttcsim.simulator.cluster import Cluster
from ttcsim.simulator.device import Device
from ttcsim.simulator.plans import Plan
from ttcsim.simulator.results import Table
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.step_row import joules, seconds
from ttcsim.workloads.trace import Trace

ENGINE_VERSION = "vllm 0.32.0"
"""Engine whose schedule is simulated."""


@dataclass(frozen=True)
class RunFacts:
    """What a run consisted of."""

    scenario: Scenario
    trace: Trace
    plans: list[Plan]
    clusters: dict[str, Cluster]
    devices: list[Device]
    horizon: int

    @property
    def engines(self) -> list[tuple[str, Any]]:
        """(deployment, engine) of every engine."""
        return [
            (name, engine) for name, cluster in self.clusters.items() for engine in cluster.engines
        ]


def summarise(run: RunFacts, questions: Table, calls: Table) -> dict[str, Any]:
    """Summary of a run; docs/results.md defines every key."""
    return {
        "strategy": run.scenario.strategy.label(),
        **_accuracy(run, questions),
        **_times(run, questions),
        **_tokens(run, questions),
        "prefix_cache_hit_rate": _hit_rate(calls),
        **_latencies(calls),
        **_engines(run),
        **_costs(run, questions),
        **_provenance(run),
    }


def _accuracy(run: RunFacts, questions: Table) -> dict[str, Any]:
    source = accuracy_source(run.scenario, run.trace)
    known = source is not None
    return {
        "accuracy": _mean_of_all(questions.columns["correct"]) if known else None,
        "accuracy_expected": (
            _mean_of_all(questions.columns["expected_accuracy"]) if known else None
        ),
        "accuracy_source": source,
        "oracle": run.scenario.strategy.oracle(),
    }


def accuracy_source(scenario: Scenario, trace: Trace) -> str | None:
    """Where an accuracy comes from: `trace`, `model:<name>`, or None if none can be stated."""
    strategy = scenario.strategy
    if trace.header.accuracy_source == "none":
        return None
    if not strategy.selects:
        return f"model:{strategy.accuracy_model}" if strategy.accuracy_model else None
    if strategy.scored() and not has_scores(trace):
        return "model:scorer"
    return trace.header.accuracy_source


def has_scores(trace: Trace) -> bool:
    """Whether every sample has a traced score."""
    return all(sample.score is not None for q in trace.questions for sample in q.samples)


def _mean_of_all(values: Sequence[Any]) -> float | None:
    """Mean if every value is known."""
    if not values or any(value is None for value in values):
        return None
    return float(np.mean([float(value) for value in values]))


def _times(run: RunFacts, questions: Table) -> dict[str, Any]:
    makespans = np.array(questions.columns["makespan_s"])
    horizon_s = seconds(run.horizon)
    p50, p95, p99 = np.percentile(makespans, (50, 95, 99)).tolist()
    return {
        "questions": len(questions),
        "horizon_s": horizon_s,
        "makespan_mean_s": float(makespans.mean()),
        "makespan_p50_s": p50,
        "makespan_p95_s": p95,
        "makespan_p99_s": p99,
        "questions_per_s": len(questions) / horizon_s if horizon_s else None,
        "answered_while_arriving": _answered_while_arriving(questions),
    }


def _answered_while_arriving(questions: Table) -> float | None:
    """Share of the questions answered before the last one was released.

    None if all came at once. Far below 1 means that work piled up: the load is more than can be
    served, or the run too short to tell.
    """
    released = np.asarray(questions.columns["released_s"])
    last = released.max()
    if last <= released.min():
        return None
    return float(np.mean(np.asarray(questions.columns["end_s"]) <= last))


def _tokens(run: RunFacts, questions: Table) -> dict[str, Any]:
    count = len(questions)
    total = {
        name: _total(questions, f"{name}_tokens")
        for name in (
            "output", "useful", "cancelled", "discarded", "recomputed", "prompt",
        )
    }  # fmt: skip
    horizon_s = seconds(run.horizon)
    return {
        "calls": _total(questions, "calls"),
        "output_tokens_per_question": total["output"] / count,
        "useful_tokens_per_question": total["useful"] / count,
        "cancelled_tokens_per_question": total["cancelled"] / count,
        "discarded_tokens_per_question": total["discarded"] / count,
        "recomputed_tokens_per_question": total["recomputed"] / count,
        "prompt_tokens_per_question": total["prompt"] / count,
        "output_throughput": total["output"] / horizon_s if horizon_s else None,
        "preemptions": _total(questions, "preemptions"),
    }


def _total(table: Table, column: str) -> int:
    return int(np.asarray(table.columns[column]).sum())


def _hit_rate(calls: Table) -> float | None:
    """Share of the generator's prompt tokens that were found in its prefix cache."""
    c = calls.columns
    own = np.array([name == "generator" for name in c["deployment"]], dtype=bool)
    prompt = int(np.asarray(c["prompt_tokens"])[own].sum())
    cached = int(np.asarray(c["cached_tokens"])[own].sum())
    return float(cached / prompt) if prompt else None


def _latencies(calls: Table) -> dict[str, Any]:
    """vLLM's words over finished generate calls: ttft, tpot (outputs > 1), e2el. [ms]"""
    c = calls.columns
    pairs = zip(c["kind"], c["state"], strict=True)
    kept = np.array([kind == "generate" and state == "finished" for kind, state in pairs], bool)
    sent = np.asarray(c["sent_s"])[kept]
    first = np.array(c["first_token_s"], dtype=float)[kept]
    end = np.asarray(c["end_s"])[kept]
    outputs = np.asarray(c["output_tokens"])[kept]
    many = outputs > 1
    found: dict[str, Any] = {}
    for name, values in (
        ("ttft", first - sent),
        ("tpot", (end - first)[many] / (outputs - 1)[many]),
        ("e2el", end - sent),
    ):
        for key, value in _statistics(values * 1e3).items():
            found[f"{key}_{name}_ms"] = value
    return found


def _statistics(values: Any) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys(("mean", "median", "p99"))
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "p99": float(np.percentile(values, 99)),
    }


def _engines(run: RunFacts) -> dict[str, Any]:
    """KV use of the generator's engines and how busy all devices were."""
    engines = run.clusters["generator"].engines
    usable = sum(engine.scheduler.pool.usable_blocks for engine in engines)
    horizon = max(run.horizon, 1)
    busy = sum(device.busy_ticks / device.stages for device in run.devices)
    return {
        "kv_blocks": usable,
        "kv_peak": max(e.series.peak_blocks / e.scheduler.pool.usable_blocks for e in engines),
        "kv_mean": sum(e.series.block_ticks for e in engines) / horizon / usable,
        "running_mean": sum(e.series.running_ticks for e in engines) / horizon,
        "steps": sum(engine.ledger.steps for _, engine in run.engines),
        "device_utilisation": busy / horizon / len(run.devices),
        "generator_utilisation": (
            sum(e.device.busy_ticks / e.device.stages for e in engines) / horizon / len(engines)
        ),
    }


def _costs(run: RunFacts, questions: Table) -> dict[str, Any]:
    """Joules and dollars; idle time of every device is paid for."""
    active = joules(sum(engine.ledger.total for _, engine in run.engines))
    idle = sum(d.idle_w * seconds(d.stages * run.horizon - d.busy_ticks) for d in run.devices)
    by_questions = float(np.asarray(questions.columns["energy_j"]).sum())
    hours = seconds(run.horizon) / 3600
    colocated = run.scenario.scorer_placement == "colocated"
    plans = [plan for plan in run.plans if not (colocated and plan.name == "scorer")]
    usd = sum(plan.usd_per_hour for plan in plans) * hours
    count = len(questions)
    return {
        "energy_j": active + idle,
        "energy_questions_j": by_questions,
        "energy_unattributed_j": active - by_questions,
        "energy_idle_j": idle,
        "energy_per_question_j": (active + idle) / count,
        "cost_usd": usd,
        "cost_per_question_usd": usd / count,
        "devices": sum(plan.devices for plan in plans),
    }


def _provenance(run: RunFacts) -> dict[str, Any]:
    """How far to trust the numbers, and what was assumed."""
    scenario, generator = run.scenario, run.plans[0]
    uses_model = scenario.strategy.scored() and not (
        scenario.strategy.selects and has_scores(run.trace)
    )
    return {
        "deployments": _deployments(run),
        "scorer_placement": scenario.scorer_placement if "scorer" in run.clusters else None,
        "time_level": {plan.name: plan.time_level for plan in run.plans},
        "energy_level": {plan.name: plan.energy_level for plan in run.plans},
        "time_error": {plan.name: plan.time_error for plan in run.plans},
        "energy_error": {plan.name: plan.calibration.power.error for plan in run.plans},
        "engine_version": ENGINE_VERSION,
        "trace": run.trace.header.name,
        "transferred_from": _transferred(run.trace, generator),
        "mixed_samples": any(
            len(s.calls) > 1 and s.written_by != s.calls[0].model
            for q in run.trace.questions
            for s in q.samples
        ),
        "resampled": scenario.resample
        and any(scenario.strategy.samples() > len(q.samples) for q in run.trace.questions),
        "scorer_dprime": scenario.dprime if uses_model else None,
    }


def _deployments(run: RunFacts) -> dict[str, Any]:
    """What served, by name."""
    return {
        plan.name: {
            "model": plan.model.name,
            "hardware": plan.profile.name,
            "replicas": plan.deployment.replicas,
            "tensor_parallel": plan.deployment.tensor_parallel,
            "pipeline_parallel": plan.deployment.pipeline_parallel,
            "data_parallel": plan.deployment.data_parallel,
        }
        for plan in run.plans
    }


def _transferred(trace: Trace, generator: Plan) -> list[str] | None:
    """Models that wrote the trace, if another one is served and the trace knows answers."""
    if trace.header.accuracy_source != "trace":
        return None
    own = _plain_name(generator.model.name)
    same = all(_plain_name(model) == own for model in trace.header.models)
    return None if same else list(trace.header.models)


def _plain_name(model: str) -> str:
    """A model's name without organisation, and without what names one model in several ways."""
    name = model.rpartition("/")[2].lower()
    return name.removeprefix("meta-").removesuffix("-instruct")


def engine_table(run: RunFacts) -> Table:
    """State of every engine over time."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "deployment", "replica", "time_s", "running", "waiting", "kv_use", "energy_j",
        )
    }  # fmt: skip
    for name, engine in run.engines:
        usable = engine.scheduler.pool.usable_blocks
        for tick, running, waiting, blocks, energy in engine.series.points:
            row = (
                name, engine.replica, seconds(tick), running, waiting, blocks / usable,
                joules(energy),
            )  # fmt: skip
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return Table(columns)
