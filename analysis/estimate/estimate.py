"""What strategies cost, in closed form: tokens, FLOPs, bytes, makespan, rate, joules, money."""

import math
from collections.abc import Iterable, Mapping, Sequence

from ttcsim.analysis.estimate.averages import mean, percentile
from ttcsim.analysis.estimate.bounds import mean_steps_s, speed_of_light_s, without_overlap
from ttcsim.analysis.estimate.figures import Estimate, Estimates
from ttcsim.analysis.estimate.full_load import full_load, idle_w
from ttcsim.analysis.estimate.kinetics import kinetics_flops
from ttcsim.analysis.estimate.lone_question import ask_alone, lone_engines
from ttcsim.analysis.estimate.spread import spread
from ttcsim.analysis.estimate.traffic import bytes_of, flops_of
from ttcsim.errors import InputError
from ttcsim.simulator.plans import Plan, plans_of
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulate import questions_of
from ttcsim.workloads.question import Question
from ttcsim.workloads.strategies import parse_strategy
from ttcsim.workloads.strategy import Strategy
from ttcsim.workloads.trace import Trace

QUESTIONS = 48
"""Questions that an estimate asks, spread evenly over the trace by length."""


def estimate(
    scenario: Scenario,
    strategies: Iterable[Strategy | str] | None = None,
    *,
    trace: Trace | None = None,
    questions: int = QUESTIONS,
) -> Estimates:
    """Say in closed form what strategies cost; nothing is simulated.

    Args:
        scenario: What serves and what is asked. Its arrivals do not matter: the figures are those
            of a question alone, and of engines that have as much as they can hold.
        strategies: Strategies, or texts such as "best_of_n:n=8"; by default the scenario's.
        trace: Questions to use instead of the scenario's.
        questions: Most questions to ask; they are spread evenly over the trace by length.

    Raises:
        InputError: If a strategy cannot be run on this scenario.
    """
    given = [strategies] if isinstance(strategies, str) else strategies or ()
    chosen = [parse_strategy(each) if isinstance(each, str) else each for each in given]
    asked = trace or questions_of(scenario)
    found = []
    plans: list[Plan] = []
    standing: dict[str, Plan] = {}
    for strategy in chosen or [scenario.strategy]:
        own = scenario.model_copy(update={"strategy": strategy})
        plans = plans_of(own)
        standing |= {plan.name: plan for plan in plans}
        few = spread(asked.questions[: own.questions], own, questions)
        found.append(_estimate(own, plans, few))
    if not found:
        raise InputError("estimate needs at least one strategy")
    generator = plans[0]
    scene = _scene(standing, asked)
    return Estimates(tuple(found), scene, len(few), generator.time_level, generator.energy_level)


def _scene(plans: Mapping[str, Plan], trace: Trace) -> str:
    """Deployments with devices and price, and the trace; whose lengths, if another model's."""
    parts = [
        f"{plan.name} {plan.model.name} on {plan.devices} x {plan.profile.name}"
        f" (${plan.usd_per_hour:.2f}/h)"
        for plan in plans.values()
    ]
    models = ", ".join(trace.header.models)
    return f"{'; '.join(parts)}; questions and lengths of {trace.header.name} ({models})"


def _estimate(scenario: Scenario, plans: Sequence[Plan], questions: Sequence[Question]) -> Estimate:
    engines = lone_engines(scenario, plans)
    asked = [ask_alone(scenario.strategy, scenario, each, engines) for each in questions]
    count = len(asked)
    works = [(plan, engines[plan.name].work) for plan in plans]
    lone_s = mean([each.makespan_s for each in asked])
    standing = plans[:1] if scenario.scorer_placement == "colocated" else plans
    usd_per_s = sum(plan.usd_per_hour for plan in standing) / 3600
    resting_w = sum(idle_w(plan) * plan.engines for plan in standing)
    busy_s = sum(work.busy_s for _, work in works) / count
    busy_w = sum(plan.cost.idle_w * work.busy_s for plan, work in works) / count
    active_j = sum(work.joules for _, work in works) / count
    pause_s = max(0.0, lone_s - busy_s)  # no engine runs: tools, front end
    lower_s = max(speed_of_light_s(plan, work) for plan, work in works) / count
    upper_s = sum(mean_steps_s(without_overlap(plan), work) for plan, work in works) / count
    full = full_load(scenario, works, asked)
    samples = max(1, scenario.strategy.samples())
    written = mean([float(each.output_tokens) for each in asked])
    prompt = mean([float(each.prompt_tokens) for each in questions])
    return Estimate(
        strategy=scenario.strategy.label(),
        calls=mean([float(each.calls) for each in asked]),
        output_tokens=written,
        prompt_tokens=sum(work.prefilled for _, work in works) / count,
        flops=sum(flops_of(plan, work) for plan, work in works) / count,
        hbm_bytes=sum(bytes_of(plan, work) for plan, work in works) / count,
        eflops=sum(kinetics_flops(plans[0].model, prompt, written / samples, samples)),
        kv_peak_bytes=works[0][1].kv_peak * plans[0].kv_bytes_per_token * _ranks(plans[0]),
        makespan_lower_s=lower_s + pause_s,
        makespan_s=lone_s,
        makespan_p50_s=percentile([each.makespan_s for each in asked], 0.5),
        makespan_p95_s=percentile([each.makespan_s for each in asked], 0.95),
        makespan_upper_s=max(upper_s + pause_s, lone_s),
        alone_energy_j=active_j + resting_w * lone_s - busy_w,
        alone_cost_usd=usd_per_s * lone_s,
        saturated_questions_per_s=full.rate,
        generator_rate=full.rates[0],
        scorer_rate=full.rates[1] if len(full.rates) > 1 else math.inf,
        saturated_batch=full.batch,
        limited_by=full.limited_by,
        saturated_energy_j=full.power_w / full.rate,
        saturated_cost_usd=usd_per_s / full.rate,
        balanced_energy_j=full.balanced_j,
        balanced_cost_usd=sum(
            plan.usd_per_hour / 3600 / own for (plan, _), own in zip(works, full.rates, strict=True)
        ),
    )


def _ranks(plan: Plan) -> int:
    return plan.deployment.tensor_parallel * plan.deployment.pipeline_parallel
