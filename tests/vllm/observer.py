"""Writes down what a vLLM scheduler decides, as step records of the golden format.

Only what the scheduler returns or shows is read; nothing is worked out by rules of our own, so that
a record says what vLLM did and not what we think it does.
"""

from typing import Any

Json = dict[str, Any]


class Observer:
    """Describes the calls of one scheduler, the oldest first."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._held: dict[str, int] = {}  # blocks already reported, per request
        self._shown: dict[str, list[str]] = {"running": [], "waiting": []}

    @property
    def free(self) -> int:
        """Free KV blocks."""
        return int(self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def scheduled(self, output: Any) -> Json:
        """What a call of `schedule()` decided; to be asked right after it."""
        tokens = dict(output.num_scheduled_tokens)
        record: Json = {"sched": tokens}
        if admitted := _admitted(output):
            record["admit"] = admitted
        if output.preempted_req_ids:
            record["preempt"] = sorted(output.preempted_req_ids)
        if output.finished_req_ids:
            record["flush"] = sorted(output.finished_req_ids)
        for queue in ("running", "waiting"):
            ids = [request.request_id for request in getattr(self._scheduler, queue)]
            if ids != self._shown[queue]:
                record[queue] = self._shown[queue] = ids
        record["free"] = self.free
        if blocks := self._gained(tokens, admitted):
            record["blocks"] = blocks
        return record

    def _gained(self, tokens: dict[str, int], admitted: dict[str, int]) -> dict[str, list[int]]:
        """Blocks that each request of the batch gained since it was last scheduled."""
        gained: dict[str, list[int]] = {}
        for request_id in tokens:
            blocks = self._scheduler.kv_cache_manager.get_block_ids(request_id)[0]
            known = 0 if request_id in admitted else self._held[request_id]
            if len(blocks) > known:
                gained[request_id] = list(blocks[known:])
            self._held[request_id] = len(blocks)
        return gained

    def updated(self, output: Any, result: Any) -> Json:
        """What `update_from_output()` made of a batch."""
        record: Json = {}
        outputs = delivered(result)
        tokens = {request_id for request_id, (ids, _) in outputs.items() if ids}
        if silent := [rid for rid in output.num_scheduled_tokens if rid not in tokens]:
            record["silent"] = silent
        if finish := [[rid, reason] for rid, (_, reason) in outputs.items() if reason]:
            record["finish"] = finish
        record["free"] = self.free
        return record


def delivered(result: Any) -> dict[str, tuple[list[int], str | None]]:
    """New tokens and, if it ended, the reason, of each request in a scheduler's result."""
    return {
        output.request_id: (list(output.new_token_ids), _reason(output.finish_reason))
        for group in result.values()
        for output in group.outputs
    }


def _reason(reason: Any) -> str | None:
    return None if reason is None else str(reason).split(".")[-1].lower()


def _admitted(output: Any) -> dict[str, int]:
    """Cache-hit tokens of the requests taken from the waiting queue, in scheduled order."""
    hits = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    cached = output.scheduled_cached_reqs
    for request_id, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
        if request_id in cached.resumed_req_ids:
            hits[request_id] = computed
    return {rid: hits[rid] for rid in output.num_scheduled_tokens if rid in hits}
