"""Below the closed loop: is the schedule the same, and is the time of a step right?"""

from collections.abc import Sequence

import numpy as np

from ttcsim.analysis.measure.batches import predicted_s, recorded_batches
from ttcsim.analysis.measure.recording import RecordedSchedule
from ttcsim.analysis.replay import Variant, replay
from ttcsim.analysis.validate.report import ScheduleCheck, TimeCheck
from ttcsim.simulator.step_cost import StepCost

_STEP_BY_STEP = Variant("step by step")


def check_schedule(schedules: Sequence[RecordedSchedule]) -> ScheduleCheck:
    """Replay the recorded arrivals and cancellations, every run up to its first difference."""
    outcomes = [replay(schedule, _STEP_BY_STEP) for schedule in schedules]
    first = next((each.difference for each in outcomes if each.difference is not None), None)
    return ScheduleCheck(
        sum(each.steps for each in outcomes),
        sum(len(schedule.steps) for schedule in schedules),
        None if first is None else str(first),
    )


def check_times(schedules: Sequence[RecordedSchedule], cost: StepCost) -> TimeCheck:
    """Run the recorded batches through the cost model."""
    rows = [
        (measured, predicted_s(cost, batch))
        for schedule in schedules
        for batch, measured in recorded_batches(schedule)
    ]
    measured, predicted = np.asarray(rows).T
    errors = np.abs(predicted / measured - 1)
    return TimeCheck(
        float(np.median(errors)),
        float(errors.mean()),
        float(predicted.sum() / measured.sum() - 1),
        len(rows),
    )
