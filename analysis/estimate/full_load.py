"""All deployments together with as much as they can hold: what limits the rate, and power."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttcsim.analysis.estimate.lone_engine import Work
from ttcsim.analysis.estimate.lone_question import LoneQuestion
from ttcsim.analysis.estimate.saturated import Saturated, saturated
from ttcsim.simulator.plans import Plan
from ttcsim.simulator.run import in_flight_limit
from ttcsim.simulator.scenario import Scenario


@dataclass(frozen=True)
class FullLoad:
    """All replicas of all deployments with as much as they can hold.

    Attributes:
        rate: Questions per second. [1/s]
        rates: Of each deployment alone. [1/s]
        batch: Sequences that each generator decodes.
        limited_by: What limits the rate.
        power_w: Power of all devices at that rate. [W]
        balanced_j: Joules a question if every device were busy. [J]
    """

    rate: float
    rates: tuple[float, ...]
    batch: float
    limited_by: str
    power_w: float
    balanced_j: float


def full_load(
    scenario: Scenario, works: Sequence[tuple[Plan, Work]], asked: Sequence[LoneQuestion]
) -> FullLoad:
    """On devices of their own the slowest deployment sets the rate; colocated ones take turns."""
    limit = in_flight_limit(scenario.model_copy(update={"arrivals": None}))
    lone_s = sum(each.makespan_s for each in asked)
    found: list[Saturated] = []
    for plan, work in works:
        batch = math.inf
        if limit < math.inf and work.steps:
            decoders = work.decoded / work.steps * work.busy_s / lone_s
            batch = limit / plan.engines * decoders
        found.append(saturated(plan, work, len(asked), batch))
    rates = tuple(
        plan.engines * each.questions_per_s for (plan, _), each in zip(works, found, strict=True)
    )
    colocated = scenario.scorer_placement == "colocated" and len(found) > 1
    if colocated:
        rate, limited_by = 1 / sum(1 / each for each in rates), "shared devices"
    else:
        slowest = rates.index(min(rates))
        rate = rates[slowest]
        limited_by = works[slowest][0].name if slowest else found[0].limited_by
    in_flight = limit * len(asked) / lone_s
    if in_flight < rate:
        rate, limited_by = in_flight, "questions in flight"
    shares = [rate / own for own in rates]
    power_w = balanced_j = 0.0
    for (plan, _), each, own, share in zip(works, found, rates, shares, strict=True):
        balanced_j += plan.engines * each.power_w / own
        power_w += plan.engines * share * each.power_w
        if not (colocated and plan.name == "scorer"):
            busy = sum(shares) if colocated else share
            power_w += plan.engines * (1 - min(1.0, busy)) * idle_w(plan)
    return FullLoad(rate, rates, found[0].batch, limited_by, power_w, balanced_j)


def idle_w(plan: Plan) -> float:
    """Power of the devices of one engine that runs nothing. [W]"""
    return plan.cost.idle_w * plan.deployment.pipeline_parallel
