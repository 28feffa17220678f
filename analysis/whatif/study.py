"""What if a field were another? Many simulations of one scenario, side by side, and resumable."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttcsim.analysis.whatif.elasticity import device_fields, elasticities
from ttcsim.analysis.whatif.execute import Executor, check_executor, outcomes_of
from ttcsim.analysis.whatif.points import MODES, Mode, Point, points_of
from ttcsim.analysis.whatif.store import Store
from ttcsim.analysis.whatif.vary import read_varies
from ttcsim.errors import InputError, unknown_name
from ttcsim.simulator.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Study:
    """Outcome of a what-if study. The same study gives the same bytes, however it was run.

    Attributes:
        scenario: The base, as plain data.
        mode: How fields were varied.
        fields: What was varied.
        rows: One row a scenario, in the order of the grid: the varied fields, `error` (why it
            cannot run, None if it can), then every key of the summary (None if it cannot).
        reused: Rows that were in the store already.
    """

    scenario: dict[str, Any]
    mode: Mode
    fields: tuple[str, ...]
    rows: list[dict[str, Any]]
    reused: int = field(default=0, compare=False)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The rows that have a summary."""
        return [row for row in self.rows if row["error"] is None]

    def elasticities(self) -> list[dict[str, Any]]:
        """Elasticities of the main numbers to each field, see `elasticity.elasticities`."""
        return elasticities(self.rows, self.fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "whatif",
            "scenario": self.scenario,
            "mode": self.mode,
            "fields": list(self.fields),
            "rows": self.rows,
            "elasticities": self.elasticities(),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row a scenario."""
        import pandas as pd

        return pd.DataFrame(self.rows)


def whatif(
    scenario: Scenario,
    vary: Mapping[str, Any] | Sequence[str] = (),
    *,
    mode: Mode = "grid",
    jobs: int | None = None,
    executor: Executor = "local",
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Study:
    """Run a scenario with some of its fields varied.

    Args:
        scenario: The base.
        vary: What is varied: texts such as "hardware.memory.hbm.bytes_per_s=1x..4x", or values by
            field, such as {"strategy.n": [1, 4, 16]}.
        mode: `grid`, every combination; `one_at_a_time`; or `elasticity`, one at a time with the
            main numbers of the generator's device at 1 and 1.25 times as well.
        jobs: Processes; None for one a core (with Ray, of the cluster).
        executor: `local`, or `ray` for a Ray cluster.
        store: SQLite file that keeps outcomes. Those that are there are not computed again, so
            the same call after an interruption goes on where it was.
        progress: Called with (scenarios done, scenarios).

    Raises:
        InputError: If something cannot be varied as asked for; nothing has run then.
    """
    points = points_to_run(scenario, vary, mode)
    check_executor(executor)
    cases = {point.case.key: point.case for point in points}
    with Store(Path(store)) if store is not None else nullcontext() as kept:
        outcomes = kept.outcomes(cases) if kept is not None else {}
        reused = len(outcomes)
        missing = {key: case for key, case in cases.items() if key not in outcomes}
        tell = progress or (lambda done, total: None)
        tell(reused, len(cases))
        for key, outcome in outcomes_of(missing, jobs, executor):
            outcomes[key] = outcome
            if kept is not None:
                kept.put(key, cases[key].definition, outcome)
            tell(len(outcomes), len(cases))
    rows = _rows(points, outcomes)
    return Study(scenario.to_dict(), mode, tuple(points[0].values), rows, reused)


def points_to_run(
    scenario: Scenario, vary: Mapping[str, Any] | Sequence[str], mode: Mode
) -> list[Point]:
    """The scenarios of a study, checked.

    Raises:
        InputError: If something cannot be varied as asked for.
    """
    if mode not in MODES:
        raise unknown_name("--mode", mode, MODES)
    varies = read_varies(vary)
    if mode == "elasticity":
        given = [each.path for each in varies]
        varies += [each for each in read_varies(device_fields(scenario)) if each.path not in given]
    if not varies:
        raise InputError(
            "whatif needs something to vary: --vary PATH=VALUES (or --mode elasticity)"
        )
    return points_of(scenario, varies, mode)


def _rows(points: Sequence[Point], outcomes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of the table; a varied field stands before a key of the summary of the same name."""
    read = [json.loads(outcomes[point.case.key]) for point in points]
    keys = next((list(each["summary"]) for each in read if "summary" in each), [])
    rows = []
    for point, outcome in zip(points, read, strict=True):
        summary = outcome.get("summary") or dict.fromkeys(keys)
        values = dict(point.values)
        rows.append({**values, "error": outcome.get("error"), **(summary | values)})
    return rows
