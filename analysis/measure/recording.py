"""What the recorder in the engine wrote, as the golden schedule of one run with the times of its
steps. Token ids become block keys: equal prefixes, equal keys.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttcsim.analysis.golden import FORMAT, Golden
from ttcsim.errors import InputError

Json = dict[str, Any]

_US = 1e6


class RecordedSchedule(Golden):
    """A golden schedule with block keys instead of rules, and with times.

    Attributes:
        starts_s: When `schedule()` was entered, from the start of the run. [s]
        ends_s: When its tokens had been handed over. [s]
        durations_s: From start to start of the next step, or to the end if nothing followed. [s]
        added_s: When the engine saw each request, in the order of `requests`. [s]
        calls: The client's name of each request, `question/number`.
    """

    def __init__(self, document: Json) -> None:
        super().__init__(document)
        self.shares_outputs = True  # the keys know all tokens, so it does not matter who shares
        self.names_blocks = document.get("names_blocks", False)
        self.starts_s = [start / _US for start in document["starts_us"]]
        self.ends_s = [end / _US for end in document["ends_us"]]
        self.durations_s = [duration / _US for duration in document["durations_us"]]
        self.added_s = [added / _US for added in document["added_us"]]
        self.calls: dict[str, str] = document["calls"]
        self._block_keys: dict[str, list[int]] = document["keys"]

    def keys(self, request_id: str) -> list[int]:
        """Keys of the full blocks of a request, outputs included; none with caching off."""
        return self._block_keys[request_id] if self.config.enable_prefix_caching else []


class Log:
    """The recorder's file, read a run at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.config: Json = {}

    def read(self) -> list[Json]:
        """The lines written since the last time."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        end = raw.rfind(b"\n") + 1
        self._offset += end
        lines = [json.loads(line) for line in raw[:end].splitlines()]
        if lines and lines[0]["event"] == "config":
            self.config = {k: v for k, v in lines.pop(0).items() if k not in ("event", "t")}
        return lines


def unfinished(lines: list[Json]) -> bool:
    """Whether some request of these lines is still in the engine."""
    left: set[str] = set()
    for line in lines:
        if line["event"] == "add":
            left.add(line["id"])
        left -= _ended(line)
    return bool(left)


def _ended(line: Json) -> set[str]:
    """Requests that a line says to be gone."""
    if line["event"] == "abort":
        return set(line["ids"] or ())
    return {request_id for request_id, _ in line.get("finish", ())}


@dataclass
class _Iteration:
    """One round of the engine's loop: it may decide a batch, and one may come back."""

    schedule: Json | None = None
    update: Json | None = None
    abort_pre: list[str] = field(default_factory=list)
    abort_mid: list[str] = field(default_factory=list)


def _iterations(lines: list[Json]) -> tuple[list[_Iteration], dict[str, int]]:
    """(rounds of the loop, the round before which each request was added).

    An engine that decides ahead has rounds in which no batch comes back, and, when nothing is left
    to decide, rounds in which one only comes back.
    """
    rounds: list[_Iteration] = []
    added: dict[str, int] = {}
    aborts: list[str] = []
    gone: set[str] = set()
    for line in lines:
        event = line["event"]
        if event == "add":
            added[line["id"]] = len(rounds)
        elif event == "abort":  # of two, the second has no effect
            new = [name for name in line["ids"] or () if name in added and name not in gone]
            aborts += dict.fromkeys(new)
        elif event == "schedule":
            rounds.append(_Iteration(schedule=line, abort_pre=aborts))
            aborts = []
        elif event == "update":
            if not rounds or rounds[-1].update is not None:
                rounds.append(_Iteration())
            rounds[-1].update, rounds[-1].abort_mid = line, aborts
            aborts = []
        gone |= _ended(line)
    return rounds, added


def recorded_schedule(
    name: str, config: Json, lines: list[Json], start: float, *, blocks: bool = False
) -> Json:
    """Condense the lines of one run, which began at `start` on the engine's clock [s].

    With `blocks` the physical blocks of requests are kept, too. Which ones a run gets depends on
    the runs before it, so that makes sense for the first run of an engine only.
    """
    begin = next((n for n, line in enumerate(lines) if line["event"] == "add"), len(lines))
    lines = lines[begin:]  # before it, the engine may still report the end of something else
    rounds, added = _iterations(lines)
    adds = [line for line in lines if line["event"] == "add"]
    short = {line["id"]: str(number) for number, line in enumerate(adds)}
    starts, ends, durations = _times(lines, rounds, start)
    return {
        "format": FORMAT,
        "name": name,
        "config": config,
        "queue_depth": _queue_depth(config),
        "complete": False,  # the step that would report the last finish may be missing
        "requests": _requests(adds, rounds, added, short),
        "names_blocks": blocks,
        "steps": [_renamed(step, short) for step in _steps(rounds, blocks)],
        "end": {},
        "calls": {short[full]: _call_name(full) for full in short},
        "keys": _keys(lines, short, config["block_size"]),
        "added_us": [round((line["t"] - start) * _US) for line in adds],
        "starts_us": starts,
        "ends_us": ends,
        "durations_us": durations,
    }


def _queue_depth(config: Json) -> int:
    return 2 if config["async_scheduling"] else int(config["pipeline_parallel_size"])


def _call_name(full: str) -> str:
    """`question/number` out of vLLM's request id `cmpl-question/number-0-suffix`."""
    return full.removeprefix("cmpl-").rsplit("-", 2)[0]


def _requests(
    adds: list[Json], rounds: list[_Iteration], added: dict[str, int], short: dict[str, str]
) -> list[Json]:
    """The requests in the order in which they were added, and when each was aborted."""
    aborts: dict[str, Json] = {}
    for number, each in enumerate(rounds):
        aborts |= {full: {"step": number, "phase": "pre"} for full in each.abort_pre}
        aborts |= {full: {"step": number, "phase": "mid"} for full in each.abort_mid}
    return [
        {
            "id": short[line["id"]],
            "arrive": added[line["id"]],
            "time": line["arrival"],
            "priority": line["priority"],
            "prompt": [],
            "prompt_len": len(line["prompt"]),
            "max_tokens": line["max_tokens"],
            "stop_at": None,
            "abort": aborts.get(line["id"]),
        }
        for line in adds
    ]


def _steps(rounds: list[_Iteration], blocks: bool) -> list[Json]:
    """The step records of the golden format."""
    left_out = ("event", "t", "t0", "tokens", "step", *(() if blocks else ("blocks",)))
    number_of = {
        each.schedule["step"]: number
        for number, each in enumerate(rounds)
        if each.schedule is not None
    }
    steps = []
    for number, each in enumerate(rounds):
        record: Json = {"step": number}
        if each.abort_pre:
            record["abort_pre"] = each.abort_pre
        record |= {k: v for k, v in (each.schedule or {}).items() if k not in left_out}
        if each.update is not None and each.update["of"] in number_of:
            update = {k: v for k, v in each.update.items() if k not in left_out}
            update["of"] = number_of[update["of"]]
            if each.abort_mid:
                update["abort_mid"] = each.abort_mid
            record["update"] = update
        steps.append(record)
    return steps


def _renamed(record: Json, short: dict[str, str]) -> Json:
    """A step record with short names of requests."""
    found: Json = {}
    for key, value in record.items():
        if key in ("sched", "admit", "blocks"):
            found[key] = {short[name]: tokens for name, tokens in value.items()}
        elif key in ("preempt", "flush"):
            found[key] = sorted(short[name] for name in value if name in short)
        elif key in ("abort_pre", "abort_mid"):
            found[key] = sorted((short[name] for name in value), key=int)
        elif key in ("running", "waiting", "silent"):
            found[key] = [short[name] for name in value]
        elif key == "finish":
            found[key] = [[short[name], reason] for name, reason in value]
        elif key == "update":
            found[key] = _renamed(value, short)
        else:
            found[key] = value
    return found


def _keys(lines: list[Json], short: dict[str, str], block_size: int) -> dict[str, list[int]]:
    """Block keys of prompts and outputs; a salt makes a text of its own."""
    tokens: dict[str, list[int]] = {}
    salts: dict[str, str | None] = {}
    for line in lines:
        if line["event"] == "add":
            tokens[line["id"]] = list(line["prompt"])
            salts[line["id"]] = line["cache_salt"]
        for full, new in line.get("tokens", {}).items():
            tokens[full] += new
    key_of: dict[tuple[Any, ...], int] = {}
    keys: dict[str, list[int]] = {}
    for full, text in tokens.items():
        parent: Any = salts[full] or 0
        chain = keys[short[full]] = []
        for begin in range(0, len(text) - block_size + 1, block_size):
            block = (parent, *text[begin : begin + block_size])
            parent = key_of.setdefault(block, len(key_of) + 1)
            chain.append(parent)
    return keys


def _times(
    lines: list[Json], rounds: list[_Iteration], start: float
) -> tuple[list[int], list[int], list[int]]:
    """(starts, ends, durations) of the rounds. [us]"""
    busy_after = _busy_after(lines)
    starts, ends, durations = [], [], []
    for each, following in zip(rounds, [*rounds[1:], None], strict=True):
        first, last = each.schedule or each.update, each.update or each.schedule
        assert first is not None
        assert last is not None
        begin, end = first["t0"], last["t"]
        until = end
        if following is not None and busy_after[last["t"]]:
            next_ = following.schedule or following.update
            assert next_ is not None
            until = next_["t0"]
        starts.append(round((begin - start) * _US))
        ends.append(round((end - start) * _US))
        durations.append(round((until - begin) * _US))
    return starts, ends, durations


def _busy_after(lines: list[Json]) -> dict[float, bool]:
    """Whether the engine had something to do right after each line, by the line's time."""
    left: set[str] = set()
    busy = {}
    for line in lines:
        if line["event"] == "add":
            left.add(line["id"])
        left -= _ended(line)
        busy[line["t"]] = bool(left)
    return busy


def parse_schedule(where: str, document: Json) -> RecordedSchedule:
    """A recorded schedule from plain data.

    Raises:
        InputError: If something is missing.
    """
    try:
        return RecordedSchedule(document)
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: recorded schedule is not complete: {error}") from None
