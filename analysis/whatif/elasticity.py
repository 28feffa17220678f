"""How much a number of the result moves when a field moves: d ln(metric) / d ln(field)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttcsim.simulator.plans import make_plan
from ttcsim.simulator.scenario import Scenario

METRICS = (
    "makespan_p50_s",
    "questions_per_s",
    "output_throughput",
    "energy_per_question_j",
    "cost_per_question_usd",
)
"""Keys of the summary whose elasticities are worked out."""

STEP = "1x,1.25x"
"""By how much the device's numbers are changed."""

Row = Mapping[str, Any]


def device_fields(scenario: Scenario) -> list[str]:
    """What to vary to see where the next dollar goes: the main numbers of the generator's device.

    Raises:
        InputError: If the generator cannot stand as it is.
    """
    plan = make_plan("generator", scenario.generator)
    names = [f"peak_flops_per_s.{plan.cost.compute_dtype}", "memory.hbm.bytes_per_s"]
    names.append("memory.hbm.bytes")
    if plan.devices_per_replica > 1 and plan.profile.links.intra_node is not None:
        names.append("links.intra_node.bytes_per_s")
    return [f"hardware.{name}={STEP}" for name in (*names, "power.max_w")]


def elasticities(rows: Sequence[Row], fields: Sequence[str]) -> list[dict[str, Any]]:
    """Elasticities by field, the one that moves the makespan most first.

    A field's points are the rows in which all other fields are as in the first row. The slope is
    that of the least-squares line through their logarithms: with two points, of the line through
    both. It is None where a metric is not known, or not above 0.

    Args:
        rows: Varied fields, `error` and summary. Rows with an error are left out.
        fields: Names of the varied fields. Those whose values are not numbers above 0 are left out.
    """
    found = []
    for field in fields:
        points = [row for row in slice_of(rows, fields, field) if row["error"] is None]
        values = [row[field] for row in points]
        if len(set(values)) < 2 or not all(_positive(value) for value in values):
            continue
        slopes = {metric: _slope(points, field, metric) for metric in METRICS}
        found.append({"field": field, "from": min(values), "to": max(values), **slopes})
    return sorted(found, key=lambda each: -abs(each[METRICS[0]] or 0.0))


def slice_of(rows: Sequence[Row], fields: Sequence[str], *free: str) -> list[Row]:
    """The rows in which all fields but the free ones are as in the first row."""
    fixed = [field for field in fields if field not in free]
    return [row for row in rows if all(row[field] == rows[0][field] for field in fixed)]


def _slope(points: Sequence[Row], field: str, metric: str) -> float | None:
    values = [point[metric] for point in points]
    if not all(_positive(value) for value in values):
        return None
    x = np.log([float(point[field]) for point in points])
    y = np.log([float(value) for value in values])
    x -= x.mean()
    return float((x @ (y - y.mean())) / (x @ x))


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
