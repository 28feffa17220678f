"""Golden schedules of the real vLLM scheduler: the file format and what its short forms stand for.

A golden file (`schedule-golden/1`, docs/scheduling.md) holds a workload and everything the real
scheduler decided about it. Prompts and outputs are written as rules, not as tokens; only the block
keys matter here, and equal prefixes get equal keys.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from ttcsim.errors import InputError
from ttcsim.simulator.scheduler import SchedulerConfig

FORMAT = "schedule-golden/1"
STOP_TOKEN = 2

Record = dict[str, Any]


def base_tokens(seed: int, count: int) -> list[int]:
    """Token k of a `base` prompt segment is 10 + (seed*7919 + k*104729) mod 30000.

    >>> base_tokens(1, 3)
    [7929, 22658, 7387]
    """
    return [10 + (seed * 7919 + k * 104729) % 30000 for k in range(count)]


def output_token(request_id: str, index: int, stop_at: int | None) -> int:
    """Output token of the golden rule: 32-bit FNV-1a of "<id>:<index>", or the stop token.

    >>> output_token("a", 3, stop_at=3)
    2
    """
    if index == stop_at:
        return STOP_TOKEN
    value = 2166136261
    for byte in f"{request_id}:{index}".encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return 1000 + (value & 0xFFFFFF)


class _Prompts:
    """Expands golden prompts to tokens, and tokens to block keys (equal prefix, equal key)."""

    def __init__(self, requests: Iterable[Record], block_size: int) -> None:
        self._by_id = {request["id"]: request for request in requests}
        self._block_size = block_size
        self._prompts: dict[str, list[int]] = {}
        self._keys: dict[str, list[int]] = {}
        self._key_of: dict[tuple[int, bytes], int] = {}

    def keys(self, request_id: str) -> list[int]:
        """Keys of all full blocks of prompt and output, in order."""
        if request_id not in self._keys:
            self._keys[request_id] = self._chain(request_id)
        return self._keys[request_id]

    def _chain(self, request_id: str) -> list[int]:
        outputs = self._outputs(request_id, self._by_id[request_id]["max_tokens"])
        tokens = self._prompt(request_id) + outputs
        keys, parent = [], 0
        for start in range(0, len(tokens) - self._block_size + 1, self._block_size):
            block = ",".join(map(str, tokens[start : start + self._block_size])).encode()
            parent = self._key_of.setdefault((parent, block), len(self._key_of) + 1)
            keys.append(parent)
        return keys

    def _outputs(self, request_id: str, count: int) -> list[int]:
        stop_at = self._by_id[request_id]["stop_at"]
        return [output_token(request_id, index, stop_at) for index in range(count)]

    def _prompt(self, request_id: str) -> list[int]:
        if request_id not in self._prompts:
            request = self._by_id[request_id]
            tokens: list[int] = []
            for kind, what, *count in request["prompt"]:
                if kind == "base":
                    tokens += base_tokens(what, *count)
                elif kind == "prompt":
                    tokens += self._prompt(what)
                else:
                    tokens += self._outputs(what, *count)
            self._prompts[request_id] = tokens[: request["prompt_len"]]
        return self._prompts[request_id]


class Golden:
    """One golden schedule: the workload, the step records, and the block keys of its requests.

    Attributes:
        name: Of the workload.
        config: Scheduler settings it ran under.
        queue_depth: Most batches in flight.
        requests: In the order in which they are added.
        steps: One record per loop iteration.
        complete: False if a step limit cut the recording.
        end: Facts about the free list after the last step.
        stops: Whether a stop token ends some request before its length does.
        shares_outputs: Whether some prompt contains outputs of another request.
        names_blocks: Whether the step records say which physical blocks requests gained.
    """

    def __init__(self, document: Record) -> None:
        names = {field.name for field in fields(SchedulerConfig)}
        config = {key: value for key, value in document["config"].items() if key in names}
        self.name = str(document["name"])
        self.config = SchedulerConfig(**config)
        self.queue_depth: int = document["queue_depth"]
        self.requests: list[Record] = document["requests"]
        self.steps: list[Record] = document["steps"]
        self.complete: bool = document["complete"]
        self.end: Record = document["end"]
        self.stops = any(_stops_early(r, self.config.max_model_len) for r in self.requests)
        self.shares_outputs = any(s[0] == "output" for r in self.requests for s in r["prompt"])
        self.names_blocks = True
        self._prompts = _Prompts(self.requests, self.config.block_size)

    def keys(self, request_id: str) -> list[int]:
        """Keys of the full blocks of a request, outputs included; none with caching off."""
        return self._prompts.keys(request_id) if self.config.enable_prefix_caching else []


def load_golden(path: Path) -> Golden:
    """Read a golden file, gzip or plain.

    Raises:
        InputError: If the file cannot be read or is not of the golden format.
    """
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a golden schedule: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not a golden schedule (expected format {FORMAT})")
    try:
        return Golden(document)
    except KeyError as error:
        raise InputError(f"{path}: golden schedule without {error}") from error


def comparable(record: Record) -> Record:
    """The order in which requests are scheduled matters, so it becomes part of the value."""
    return {
        key: list(value.items()) if key in ("sched", "admit", "blocks") else value
        for key, value in record.items()
    }


def joined(records: list[Record]) -> Record:
    """One record for several steps: what each scheduled if they agree, blocks gained, the end.

    Anything that a quiet stretch must not contain stays in the result and so differs.
    """
    first, last = records[0], records[-1]
    result = {key: value for record in records for key, value in record.items()}
    result |= {"step": first["step"], "last": last["step"], "free": last["free"]}
    if any(list(a["sched"].items()) != list(b["sched"].items()) for a, b in pairwise(records)):
        result["sched"] = {record["step"]: record["sched"] for record in records}
    early = [r["update"] for r in records[:-1] if set(r["update"]) != {"of", "free"}]
    if early:
        result["early"] = early
    gained: dict[str, list[int]] = {}
    for record in records:
        for request_id, blocks in record.get("blocks", {}).items():
            gained.setdefault(request_id, []).extend(blocks)
    if gained:
        result["blocks"] = dict(sorted(gained.items()))
    return result


def _stops_early(request: Record, max_model_len: int) -> bool:
    """Whether the stop token comes before the last token that the length allows."""
    longest = min(request["max_tokens"], max_model_len - request["prompt_len"])
    return request["stop_at"] is not None and request["stop_at"] + 1 < longest
