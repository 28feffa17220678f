"""Latency of server and client around the engine, from the two clocks of a local server.

Client and engine share the machine's monotonic clock, so what lies between them can be seen.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from ttcsim.analysis.measure.recording import RecordedSchedule
from ttcsim.analysis.measure.run_files import MeasuredRun
from ttcsim.hwprofiles.curves import FrontEndLatency

BURST_S = 0.002
"""Requests that are sent within this time of one another count as a burst. [s]"""


def front_end_latency(runs: Sequence[MeasuredRun], source: str) -> FrontEndLatency | None:
    """Medians over the calls of these runs; None if no engine was recorded or none was idle."""
    ingests: list[float] = []
    gaps: list[float] = []
    outputs: list[float] = []
    for run in runs:
        schedule = run.schedule
        if schedule is not None:
            sent = _by_call(run, "sent_s")
            ingests += _ingests(schedule, sent)
            gaps += _gaps(schedule, sent)
            outputs += _outputs(schedule, _by_call(run, "end_s"))
    if not ingests or not outputs:
        return None
    return FrontEndLatency(
        ingest_s=round(max(0.0, median(ingests)), 6),
        ingest_gap_s=round(max(0.0, median(gaps)), 6) if gaps else 0.0,
        output_s=round(max(0.0, median(outputs)), 6),
        source=source,
        error=f"medians of {len(ingests)} idle arrivals, {len(gaps)} burst gaps and"
        f" {len(outputs)} ends; middle half of the ingest {_half(ingests)}",
    )


def _half(values: list[float]) -> str:
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return f"{ordered[quarter] * 1e3:.1f} to {ordered[-1 - quarter] * 1e3:.1f} ms"


def _by_call(run: MeasuredRun, column: str) -> dict[str, float]:
    columns = run.calls.columns
    rows = zip(columns["question_id"], columns["call"], columns[column], strict=True)
    return {f"{question}/{call}": moment for question, call, moment in rows if moment is not None}


def _ingests(schedule: RecordedSchedule, sent: dict[str, float]) -> list[float]:
    """From sending to the engine's input, of requests that found the engine idle."""
    found = []
    busy_until = 0.0
    step = 0
    for request, added_s in zip(schedule.requests, schedule.added_s, strict=True):
        while step < len(schedule.starts_s) and schedule.starts_s[step] < added_s:
            busy_until = schedule.starts_s[step] + schedule.durations_s[step]
            step += 1
        call = schedule.calls[request["id"]]
        if added_s > busy_until and call in sent:
            found.append(added_s - sent[call])
            busy_until = added_s + BURST_S  # what comes with it does not find it idle
    return found


def _gaps(schedule: RecordedSchedule, sent: dict[str, float]) -> list[float]:
    """Between arrivals in the front end of requests that were sent together."""
    arrivals = sorted(
        (request["time"], sent[schedule.calls[request["id"]]])
        for request in schedule.requests
        if schedule.calls[request["id"]] in sent
    )
    return [
        later - earlier
        for (earlier, sent_first), (later, sent_next) in pairwise(arrivals)
        if 0 <= sent_next - sent_first < BURST_S
    ]


def _outputs(schedule: RecordedSchedule, ended: dict[str, float]) -> list[float]:
    """From the end of the last step of a call to the client."""
    found = []
    for record, end_s in zip(schedule.steps, schedule.ends_s, strict=True):
        for name, _ in record.get("update", {}).get("finish", ()):
            call = schedule.calls[name]
            if call in ended:
                found.append(ended[call] - end_s)
    return found
