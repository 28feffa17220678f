"""Random scheduling workloads, reproducible from an integer seed.

A workload is a scheduler configuration and a list of *templates*. A template becomes a request when
its arrival is known: a fixed step (`arrive`), or relative to other requests (`after`: all of `ids`
have ended, plus `delay` steps). The oracle resolves `after` while it runs and writes the resolved
step into the golden file, so a replay never has to resolve anything.

Every family aims at some rules of docs/scheduling.md; asynchronous scheduling, prefix caching and
the model runner vary inside all families. The order of the random draws is part of the format: a
seed must go on meaning the same workload.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Json = dict[str, Any]
Segment = list[Any]
T = TypeVar("T")

DEFAULT_CONFIG: Json = {
    "num_blocks": 1000,
    "block_size": 16,
    "max_num_seqs": 128,
    "max_num_active_seqs": None,
    "max_num_batched_tokens": 2048,
    "max_model_len": 4096,
    "policy": "fcfs",
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
    "async_scheduling": False,
    "pipeline_parallel_size": 1,
    "model_runner": "v2",
}


class Builder:
    """Draws the configuration and the requests of one workload."""

    def __init__(self, seed: int, large: bool) -> None:
        self.rng = random.Random(seed)
        self.large = large
        self.reqs: list[Json] = []
        self.by_id: dict[str, Json] = {}
        self.cfg: Json = {}
        self._parents = 0

    # -- draws ---------------------------------------------------------------------------------

    def pick(self, small: Sequence[T], big: Sequence[T] | None = None) -> T:
        """One of `small`; of `big`, if given, in a large workload."""
        return self.rng.choice(big if self.large and big is not None else small)

    def n(self, low: int, high: int, big_high: int | None = None) -> int:
        """A count, both ends included."""
        return self.rng.randint(low, big_high if self.large and big_high else high)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def plen(self, fraction: float = 1.0) -> int:
        """A prompt length, at most a fraction of the context."""
        return self.rng.randint(1, max(1, int((self.cfg["max_model_len"] - 2) * fraction)))

    def config(self, room: float | None = None, **fixed: Any) -> Json:
        """Draw the settings; `fixed` ones are as given.

        `room` is the KV capacity in multiples of one sequence of full length.
        """
        c = dict(DEFAULT_CONFIG)
        c["block_size"] = self.pick([4, 8, 16, 16, 32], [16, 16, 32])
        c["max_model_len"] = self.pick([128, 256, 512, 1024], [1024, 2048, 4096])
        c["max_num_seqs"] = self.pick([4, 8, 16, 32, 64], [32, 64, 128, 256])
        c["max_num_batched_tokens"] = self.pick(
            [64, 128, 256, 512, 2048], [256, 512, 1024, 2048, 8192]
        )
        c["enable_prefix_caching"] = self.chance(0.85)
        c["async_scheduling"] = self.chance(0.4)
        c["model_runner"] = "v2" if self.chance(0.7) else "v1"
        c.update(fixed)
        if c["pipeline_parallel_size"] > 1:
            c["model_runner"] = "v2"
        c["max_num_batched_tokens"] = max(c["max_num_batched_tokens"], c["max_num_seqs"])
        if not c["enable_chunked_prefill"]:
            c["max_num_batched_tokens"] = max(c["max_num_batched_tokens"], c["max_model_len"])
        if "num_blocks" not in fixed:
            need = -(-c["max_model_len"] // c["block_size"])
            room = self.rng.choice([2, 4, 8, 20]) if room is None else room
            c["num_blocks"] = 1 + need + int(need * max(room - 1, 0))
        self.cfg = c
        return c

    # -- requests ------------------------------------------------------------------------------

    def base(self, tokens: int, seed: int | None = None) -> Segment:
        """A prompt segment of its own; the same seed gives the same tokens."""
        return ["base", self.rng.randrange(10**6) if seed is None else seed, max(0, tokens)]

    def follow(self, rid: str, extra: int) -> list[Segment] | None:
        """Prompt of a follow-up: the whole context of `rid`, then `extra` new tokens.

        None when it would not fit into the context.
        """
        out = self._outputs(rid)
        if self.by_id[rid]["prompt_len"] + out + extra > self.cfg["max_model_len"] - 3:
            return None
        return [["prompt", rid], ["output", rid, out]] + ([self.base(extra)] if extra else [])

    def _outputs(self, rid: str) -> int:
        """Output tokens that a request will produce."""
        request = self.by_id[rid]
        most = min(request["max_tokens"], self.cfg["max_model_len"] - request["prompt_len"])
        return most if request["stop_at"] is None else min(most, request["stop_at"] + 1)

    def seg_len(self, segment: Segment) -> int:
        """Tokens of a prompt segment."""
        return self.by_id[segment[1]]["prompt_len"] if segment[0] == "prompt" else segment[2]

    def abort_between(self, first: int, last: int, probability: float) -> Json | None:
        """With the given probability, an abort in one of these steps."""
        if not self.chance(probability):
            return None
        return {"step": self.n(first, last), "phase": self.pick(["pre", "mid"])}

    def add(
        self,
        rid: str,
        prompt: list[Segment],
        max_tokens: int,
        *,
        arrive: int | None = None,
        after: list[str] | None = None,
        delay: int = 0,
        time_offset: float = 0.0,
        priority: int = 0,
        stop_at: int | None = None,
        abort: Json | None = None,
    ) -> str:
        """Add a template; return its id."""
        total = sum(self.seg_len(segment) for segment in prompt)
        template = {
            "id": rid,
            "arrive": arrive,
            "after": None if after is None else {"ids": list(after), "delay": delay},
            "time_offset": time_offset,
            "priority": priority,
            "prompt": prompt,
            "prompt_len": max(1, min(total, self.cfg["max_model_len"] - 2)),
            "max_tokens": max(1, max_tokens),
            "stop_at": stop_at,
            "abort": abort,
        }
        self.reqs.append(template)
        self.by_id[rid] = template
        return rid

    def reply(
        self,
        rid: str,
        prompt: list[Segment],
        tokens: int,
        after: list[str],
        delay: int,
        stop_p: float,
    ) -> str:
        """Add a request that comes `delay` steps after the end of others; return its id."""
        stop_at = self.rng.randrange(tokens) if self.chance(stop_p) else None
        return self.add(rid, prompt, tokens, after=after, delay=delay, stop_at=stop_at)

    def group(
        self,
        n: int,
        prompt: list[Segment],
        max_tokens: int,
        vary: bool = True,
        stop_p: float = 0.2,
        **more: Any,
    ) -> list[str]:
        """Children of one parallel-sampling request, named "<i>_<parent>" as vLLM does."""
        name, ids = f"p{self._parents}", []
        self._parents += 1
        for child in range(n):
            tokens = self.rng.randint(1, max_tokens) if vary and self.chance(0.5) else max_tokens
            stop = self.rng.randrange(tokens) if self.chance(stop_p) else None
            rid = f"{child}_{name}" if n > 1 else name
            ids.append(self.add(rid, prompt, tokens, stop_at=stop, **more))
        return ids


def burst(g: Builder) -> None:
    """Independent requests in bursts."""
    g.config()
    at, hi = 0, g.n(8, 36, 300)
    while len(g.reqs) < hi:
        at += g.pick([0, 0, 1, 3, 20])
        for _ in range(g.n(1, 10, 60)):
            g.group(1, [g.base(g.plen(0.6))], g.n(1, 80, 600), arrive=at)


def starved(g: Builder) -> None:
    """Long outputs in little KV room: preemptions."""
    c = g.config(room=g.pick([1, 1.05, 1.3, 1.7]), max_num_seqs=g.pick([8, 16, 32], [64, 128]))
    at = 0
    for _ in range(g.n(6, 20, 120)):
        at += g.pick([0, 0, 0, 1, 7])
        g.group(
            1, [g.base(g.plen(0.25))], int(c["max_model_len"] * g.rng.uniform(0.2, 0.8)), arrive=at
        )


def best_of_n(g: Builder) -> None:
    """Siblings with one prompt, some of whose parents share a prefix."""
    g.config(room=g.pick([1.3, 2, 4, 10], [2, 4, 10]))
    shared, at = g.base(g.plen(0.3)), 0
    for _ in range(g.n(1, 4, 8)):
        at += g.pick([0, 1, 5, 30])
        head = [shared] if g.chance(0.4) else []
        g.group(
            g.pick([2, 4, 8, 16], [8, 32, 64, 64]),
            [*head, g.base(g.plen(0.4))],
            g.n(5, 100, 900),
            vary=g.chance(0.7),
            arrive=at,
        )


def chunked(g: Builder) -> None:
    """Long prompts in small chunks, sometimes with chunking off."""
    c = g.config(
        max_num_batched_tokens=g.pick([16, 32, 48, 64, 128], [64, 256, 512]),
        max_num_seqs=g.pick([4, 8, 16]),
        long_prefill_token_threshold=g.pick([0, 0, 8, 20, 100]),
        long_prefill_token_threshold_adaptive=g.chance(0.4),
        enable_chunked_prefill=True,
    )
    if g.chance(0.2):
        g.config(
            enable_chunked_prefill=False, room=g.pick([1.3, 3]), max_num_seqs=c["max_num_seqs"]
        )
    at = 0
    for _ in range(g.n(5, 24, 100)):
        at += g.pick([0, 1, 2, 5, 30])
        g.group(
            1, [g.base(g.plen(0.97) if g.chance(0.6) else g.n(1, 30))], g.n(1, 30, 200), arrive=at
        )


def priority(g: Builder) -> None:
    """A few priorities, ties included, some preemptions."""
    g.config(policy="priority", room=g.pick([1.05, 1.3, 2, 6]))
    at = 0
    for k in range(g.n(6, 16, 60)):
        at += g.pick([0, 0, 1, 2, 9])
        g.group(
            g.pick([1, 1, 1, 3, 12]),
            [g.base(g.plen(0.5))],
            g.n(2, 90, 400),
            priority=g.n(0, 3),
            arrive=at,
            time_offset=0.0 if g.chance(0.5) else k * 0.001,
        )


def abort(g: Builder) -> None:
    """Clients that go away, and first-finish search."""
    g.config(room=g.pick([1.3, 2, 5]))
    at = 0
    for _ in range(g.n(4, 12, 40)):
        at += g.pick([0, 1, 4, 15])
        n = g.pick([1, 4, 8], [1, 16, 64])
        ids = g.group(n, [g.base(g.plen(0.4))], g.n(5, 120, 600), arrive=at)
        if n > 1 and g.chance(0.7):  # first-finish search: the first answer cancels its siblings
            for rid in ids:
                g.by_id[rid]["abort"] = {
                    "first_of": [i for i in ids if i != rid],
                    "delay": g.n(0, 2),
                    "phase": g.pick(["pre", "mid"]),
                }
        else:
            for rid in ids:
                if g.chance(0.5):
                    g.by_id[rid]["abort"] = {
                        "step": at + g.n(0, 60, 400),
                        "phase": g.pick(["pre", "mid"]),
                    }


def async_sched(g: Builder) -> None:
    """Asynchronous scheduling, with stop tokens that nobody foresees."""
    g.config(async_scheduling=True, room=g.pick([1.05, 1.3, 2, 8]))
    at = 0
    for _ in range(g.n(4, 14, 60)):
        at += g.pick([0, 0, 1, 3, 12])
        g.group(
            g.pick([1, 1, 2, 8]),
            [g.base(g.plen(0.5))],
            g.n(1, 80, 500),
            stop_p=0.5,
            arrive=at,
            abort=g.abort_between(at, at + 40, 0.1),
        )


def pipeline(g: Builder) -> None:
    """Several batches in flight."""
    g.config(
        pipeline_parallel_size=g.pick([2, 2, 3, 4]),
        async_scheduling=g.chance(0.6),
        room=g.pick([1.05, 1.3, 3]),
        policy="priority" if g.chance(0.2) else "fcfs",
    )
    at = 0
    for _ in range(g.n(4, 14, 60)):
        at += g.pick([0, 0, 1, 3, 12])
        g.group(
            g.pick([1, 1, 2, 8]),
            [g.base(g.plen(0.5))],
            g.n(1, 60, 300),
            stop_p=0.3,
            arrive=at,
            priority=g.n(0, 2),
        )


def multi_turn(g: Builder) -> None:
    """Conversations: each turn reuses the generated tokens of the one before."""
    g.config(room=g.pick([1.2, 2, 6]), enable_prefix_caching=g.chance(0.92))
    system, at = g.base(g.plen(0.15)), 0
    for s in range(g.n(2, 7, 40)):
        at += g.pick([0, 1, 6])
        rid = g.add(f"s{s}t0", [system, g.base(g.n(1, 40))], g.n(4, 40, 200), arrive=at)
        for turn in range(1, g.n(2, 6, 10)):
            prompt = g.follow(rid, g.pick([0, 1, 7, 25]))
            if prompt is None:
                break
            tokens, delay = g.n(4, 40, 200), g.pick([0, 0, 2, 15, 60])
            rid = g.reply(f"s{s}t{turn}", prompt, tokens, [rid], delay, 0.3)


def tree(g: Builder) -> None:
    """Every node that ends spawns children whose prompt is its own prompt plus its own output."""
    g.config(room=g.pick([1.2, 2, 5, 12]), enable_prefix_caching=g.chance(0.92))
    cap = g.n(10, 40, 400)
    for k in range(g.n(1, 3, 6)):
        level = [g.add(f"n{k}", [g.base(g.plen(0.3))], g.n(4, 30, 120), arrive=k * g.n(0, 9))]
        while level:
            level = [child for rid in level for child in _children(g, rid, cap)]


def _children(g: Builder, rid: str, cap: int) -> list[str]:
    """Add the children of a node of the tree, none beyond `cap` requests."""
    children: list[str] = []
    for branch in range(g.n(0 if len(g.reqs) > cap // 2 else 1, 3, 4)):
        prompt = g.follow(rid, g.pick([0, 0, 5]))
        if prompt is None or len(g.reqs) >= cap:
            break
        tokens, delay = g.n(4, 30, 120), g.pick([0, 0, 0, 1, 4])
        children.append(g.reply(f"{rid}.{branch}", prompt, tokens, [rid], delay, 0.25))
    return children


def beam(g: Builder) -> None:
    """Level-synchronous search: a level starts when all of the one before has ended."""
    g.config(room=g.pick([1.3, 2, 5, 12]), enable_prefix_caching=g.chance(0.92))
    keep, width = g.pick([1, 2, 4], [4, 8]), g.pick([2, 3, 4], [4, 8])
    for k in range(g.n(1, 2, 4)):
        level = g.group(keep * width, [g.base(g.plen(0.3))], g.n(4, 30, 100), arrive=k * g.n(0, 20))
        for depth in range(1, g.n(2, 5, 10)):
            level = _next_level(g, f"b{k}.{depth}", level, keep, width)
            if not level or len(g.reqs) > 400:
                break


def _next_level(g: Builder, name: str, level: list[str], keep: int, width: int) -> list[str]:
    """Expand some of a level of the beam; the others only hold it up."""
    kept, delay = g.rng.sample(level, min(keep, len(level))), g.pick([0, 0, 1, 8])
    children: list[str] = []
    for rid in [rid for rid in kept for _ in range(width)]:
        if (prompt := g.follow(rid, 0)) is not None:
            tokens = g.n(4, 30, 100)
            children.append(g.reply(f"{name}.{len(children)}", prompt, tokens, level, delay, 0.3))
    return children


def knobs(g: Builder) -> None:
    """Watermark, admission gate, long-prefill threshold and the cap of active requests."""
    g.config(
        room=g.pick([1, 1.3, 2]),
        watermark=g.pick([0.0, 0.01, 0.05, 0.2]),
        scheduler_reserve_full_isl=g.chance(0.5),
        long_prefill_token_threshold=g.pick([0, 8, 20, 100]),
        long_prefill_token_threshold_adaptive=g.chance(0.4),
        max_num_seqs=g.pick([8, 16, 32]),
        max_num_active_seqs=g.pick([None, 1, 3, 7]),
        max_num_batched_tokens=g.pick([32, 64, 128, 512]),
    )
    at = 0
    for _ in range(g.n(5, 16, 80)):
        at += g.pick([0, 0, 1, 5, 30])
        g.group(g.pick([1, 1, 2, 6]), [g.base(g.plen(0.7))], g.n(1, 80, 400), arrive=at)


def watermark(g: Builder) -> None:
    """Long prompts against a watermark, often on an idle engine (where it must not apply)."""
    g.config(
        room=g.pick([1, 1, 1.1, 1.4]),
        watermark=g.pick([0.05, 0.1, 0.2, 0.3]),
        max_num_seqs=g.pick([4, 8, 16]),
        scheduler_reserve_full_isl=g.chance(0.6),
    )
    at = 0
    for _ in range(g.n(5, 14, 60)):
        at += g.pick([0, 1, 8, 40, 120])
        g.group(
            g.pick([1, 1, 1, 4]),
            [g.base(g.plen(g.pick([0.3, 0.97, 0.97])))],
            g.n(1, 60, 300),
            arrive=at,
            priority=g.n(0, 2),
        )


def pipeline_tight(g: Builder) -> None:
    """Batches in flight and little KV room: preempted with output still on its way."""
    c = g.config(
        pipeline_parallel_size=g.pick([2, 3, 4]),
        async_scheduling=g.chance(0.8),
        room=g.pick([1, 1.05, 1.2]),
        max_num_seqs=g.pick([8, 16, 32]),
        max_model_len=g.pick([128, 256, 512]),
        policy="priority" if g.chance(0.35) else "fcfs",
        enable_prefix_caching=g.chance(0.6),
        scheduler_reserve_full_isl=g.chance(0.4),
    )
    if c["pipeline_parallel_size"] == 2:
        c["async_scheduling"] = True
    at = 0
    for _ in range(g.n(5, 14, 40)):
        at += g.pick([0, 0, 1, 2, 7])
        g.group(
            g.pick([1, 2, 4, 8]),
            [g.base(g.plen(0.35))],
            g.n(4, 70, 120),
            stop_p=0.5,
            arrive=at,
            priority=g.n(0, 3),
            abort=g.abort_between(at + 1, at + 60, 0.25),
        )


def mixed(g: Builder) -> None:
    """Everything at once, outputs longer than the context included."""
    c = g.config(
        room=g.pick([1, 1.02, 1.3, 2, 4]),
        pipeline_parallel_size=g.pick([1, 1, 1, 2, 3]),
        async_scheduling=g.chance(0.5),
        policy=g.pick(["fcfs", "fcfs", "priority"]),
        enable_prefix_caching=g.chance(0.8),
        max_num_seqs=g.pick([1, 3, 8, 32, 64]),
        max_num_batched_tokens=g.pick([16, 48, 64, 128, 256, 512, 2048]),
        long_prefill_token_threshold=g.pick([0, 0, 0, 20, 100]),
        long_prefill_token_threshold_adaptive=g.chance(0.3),
        watermark=g.pick([0.0, 0.0, 0.01, 0.05, 0.2]),
        scheduler_reserve_full_isl=g.chance(0.7),
    )
    if g.chance(0.2):
        c["max_num_active_seqs"] = g.rng.randint(1, c["max_num_seqs"])
    longest, at, most = c["max_model_len"], 0, g.n(4, 36, 300)
    prefixes = [g.rng.randrange(10**6) for _ in range(3)]
    while len(g.reqs) < most:
        at += g.pick([0, 0, 0, 1, 2, 5, 30])
        prompt = _mixed_prompt(g, prefixes)
        room = longest - min(sum(g.seg_len(s) for s in prompt), longest - 2)
        tokens = g.rng.randint(1, max(1, min(room, g.pick([2, 20, 100, longest]))))
        tokens = longest * 2 if g.chance(0.1) else tokens  # then it ends at max_model_len
        g.group(
            g.pick([1, 1, 1, 2, 4, 8, 16]),
            prompt,
            tokens,
            stop_p=0.3,
            arrive=at,
            priority=g.n(0, 3),
            time_offset=0.0 if g.chance(0.5) else len(g.reqs) * 0.001,
            abort=g.abort_between(at, at + 40, 0.08),
        )


def _mixed_prompt(g: Builder, prefixes: list[int]) -> list[Segment]:
    """A fresh prompt, one with a shared prefix, or the context of another request."""
    if g.chance(0.3) and g.reqs:
        # It may arrive before that other request has ended.
        prompt = g.follow(g.rng.choice(g.reqs)["id"], g.pick([0, 1, 20]))
        if prompt is not None:
            return prompt
    if g.chance(0.5):
        return [g.base(g.plen())]
    return [g.base(g.plen(), g.rng.choice(prefixes)), g.base(g.pick([0, 0, 1, 7, 40]))]


def tight_priority(g: Builder) -> None:
    """Little room, small budget, few priorities: victims that this very step scheduled."""
    g.config(
        policy="priority",
        room=g.pick([1, 1.1, 1.3, 1.5]),
        max_num_seqs=g.pick([8, 16]),
        max_num_batched_tokens=g.pick([16, 24, 48]),
        long_prefill_token_threshold=g.pick([0, 8, 16]),
        scheduler_reserve_full_isl=g.chance(0.6),
        enable_prefix_caching=g.chance(0.8),
        max_model_len=g.pick([128, 256, 512]),
    )
    at = 0
    for k in range(g.n(3, 9, 30)):
        at += g.pick([0, 0, 0, 1, 5])
        g.group(
            g.pick([1, 1, 2, 4, 12]),
            [g.base(g.plen(0.7))],
            g.n(2, 60, 200),
            priority=g.n(0, 3),
            arrive=at,
            time_offset=0.0 if g.chance(0.5) else k * 0.001,
        )


FAMILIES: list[Callable[[Builder], None]] = [
    burst,
    starved,
    best_of_n,
    chunked,
    priority,
    abort,
    async_sched,
    pipeline,
    multi_turn,
    tree,
    beam,
    knobs,
    mixed,
    tight_priority,
    watermark,
    pipeline_tight,
]


def make(seed: int, large: bool = False) -> Json:
    """The workload of a seed; the large variant has more requests, fan-out and output."""
    family = FAMILIES[seed % len(FAMILIES)]
    builder = Builder(seed, large)
    family(builder)
    return {
        "name": f"{family.__name__}-{seed}",
        "family": family.__name__,
        "seed": seed,
        "large": large,
        "config": builder.cfg,
        "requests": builder.reqs[:400],
    }
