"""Where a strategy's time and joules go, from the tables of its result."""

import numpy as np

from ttcsim.simulator.results import Result


def energy_split(result: Result) -> dict[str, float]:
    """Joules per question by what they were spent on; they sum to `energy_per_question_j`. [J]

    Each is rounded to a microjoule: what belongs to no call is a difference of large sums.
    """
    columns, s = result.calls.columns, result.summary
    energy = np.asarray(columns["energy_j"], dtype=float)
    scores = np.array([kind == "score" for kind in columns["kind"]], dtype=bool)
    used = np.array([bool(each) for each in columns["used"]], dtype=bool)
    total = {
        "calls the answer rests on": float(energy[~scores & used].sum()),
        "other calls": float(energy[~scores & ~used].sum()),
        "scoring": float(energy[scores].sum()),
        "idle devices": float(s["energy_idle_j"]),
        "steps of no call": float(s["energy_unattributed_j"]),
    }
    return {name: round(joules / s["questions"], 6) for name, joules in total.items()}


def time_split(result: Result) -> dict[str, float]:
    """Mean seconds of a question: waiting for its turn, then being worked on. [s]"""
    columns = result.questions.columns
    released, started, end = (
        np.asarray(columns[name], dtype=float) for name in ("released_s", "started_s", "end_s")
    )
    return {
        "waiting for its turn": float(np.mean(started - released)),
        "under way": float(np.mean(end - started)),
    }
