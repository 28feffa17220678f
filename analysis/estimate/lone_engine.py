"""An engine that serves one question: its steps follow from lengths alone, so they are sums.

Nothing queues and no KV is short, so whoever decodes gets a token in every step. Between two events
(a call ends, a prompt comes) a stretch of N steps of D decoders with summed context C has closed
sums: seconds `N·fixed + slope·(N·C + D·N·(N-1)/2)`, and so for joules (docs/cost-model.md).
"""

import math
from collections import deque
from dataclasses import dataclass, field

from ttcsim.simulator.plans import Plan
from ttcsim.simulator.step_cost import Prefill
from ttcsim.simulator.step_row import StepRow, joules, seconds
from ttcsim.workloads.caller import Call
from ttcsim.workloads.context import Context


@dataclass
class Work:
    """What an engine did, summed over its steps.

    Attributes:
        steps: Engine steps.
        busy_s: Seconds in which it ran one. [s]
        decoded: Output tokens made by decode steps. [tokens]
        prefilled: Prompt tokens computed. [tokens]
        prefills: Prompts computed.
        prefill_steps: Steps with a part of a prompt.
        read: Context read by decoders, summed over steps. [tokens]
        read_in_windows: The same in a layer with a sliding window. [tokens]
        pairs: Query-context pairs of prefills. [tokens^2]
        pairs_in_windows: The same in a layer with a sliding window. [tokens^2]
        continued: Prompt tokens found cached because a finished call had written them. [tokens]
        kv: KV held, what calls share counted once, summed over decode steps. [tokens]
        kv_peak: Most of it at a time. [tokens]
        experts: Routed experts read in each layer, summed over steps.
        joules: Energy of all steps. [J]
    """

    steps: int = 0
    busy_s: float = 0.0
    decoded: float = 0.0
    prefilled: int = 0
    prefills: int = 0
    prefill_steps: int = 0
    read: float = 0.0
    read_in_windows: float = 0.0
    pairs: float = 0.0
    pairs_in_windows: float = 0.0
    continued: int = 0
    kv: float = 0.0
    kv_peak: float = 0.0
    experts: float = 0.0
    joules: float = 0.0


def drafting(plan: Plan) -> tuple[int, float]:
    """(draft tokens a decoder verifies in a step, tokens that a step brings it on average)."""
    speculative = plan.deployment.engine.speculative_config
    if speculative is None:
        return 0, 1.0
    rate, drafts = speculative.acceptance_rate, speculative.num_speculative_tokens
    return drafts, math.fsum(rate**place for place in range(drafts + 1))  # Leviathan et al., eq. 1


@dataclass
class _Job:
    """A call on the engine: prompt left to compute, and output tokens left to make."""

    call: Call
    prompt: int
    cached: int
    new: int
    left: int
    made: int = 0
    wait_steps: int = 0

    @property
    def context(self) -> int:
        """Tokens whose KV it needs in its next decode step."""
        return self.prompt + self.made


@dataclass
class LoneEngine:
    """Steps of one engine while it has a single question.

    Attributes:
        plan: What it is.
        now_s: End of its latest step. [s]
        work: What it has done.
    """

    plan: Plan
    now_s: float = 0.0
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        config = self.plan.scheduler
        self._budget = config.max_num_batched_tokens
        self._block = config.block_size
        self._caching = config.enable_prefix_caching
        self._asynchronous = config.async_scheduling
        self._attention = self.plan.model.attention
        self._prompts: deque[_Job] = deque()
        self._decoders: list[_Job] = []
        self._known: dict[int, int] = {}
        self._written: set[int] = set()
        self._drafts, self._tokens_per_step = drafting(self.plan)

    def forget(self) -> None:
        """Be as new: no text is known, the clock is at 0; what was done stays in `work`."""
        self.now_s = 0.0
        self._prompts.clear()
        self._decoders.clear()
        self._known.clear()
        self._written.clear()

    @property
    def busy(self) -> bool:
        """Whether it has anything to do."""
        return bool(self._prompts or self._decoders)

    def submit(self, call: Call, at_s: float) -> None:
        """Take a call; one that meets a running engine waits for the steps under way."""
        assert call.prompt is not None
        idle = not self.busy
        if idle:
            self.now_s = max(self.now_s, at_s)
        prompt = call.prompt.tokens
        job = _Job(call, prompt, 0, prompt, call.tokens)
        job.wait_steps = 0 if idle or not self._asynchronous else 1
        self._prompts.append(job)

    def cancel(self, call: Call) -> int:
        """Drop a call; the output tokens that it had. [tokens]"""
        made = sum(job.made for job in self._decoders if job.call is call)
        self._decoders = [job for job in self._decoders if job.call is not call]
        self._prompts = deque(job for job in self._prompts if job.call is not call)
        return made

    def advance(self, until_s: float) -> list[Call]:
        """Run steps that begin before a time, up to the first that ends a call; those it ended."""
        while self.busy and self.now_s < until_s:
            ready = any(not job.wait_steps for job in self._prompts)
            done = self._mixed_step() if ready else self._decode_steps(until_s)
            if done:
                return done
        return []

    # -- steps -------------------------------------------------------------------------------------

    def _mixed_step(self) -> list[Call]:
        """One step with as much of the waiting prompts as the budget takes."""
        decoders = self._decoders
        room = self._budget - len(decoders)
        prefills, begun = [], []
        for job in [each for each in self._prompts if not each.wait_steps]:
            if job.new == job.prompt:
                self._look_up(job)
            tokens = min(room, job.new)
            if tokens <= 0:
                break
            room -= tokens
            job.new -= tokens
            whole = job.new == 0
            prior = job.prompt - job.new - tokens
            prefills.append(Prefill(tokens, prior, whole))
            self.work.prefilled += tokens
            self.work.pairs += tokens * (tokens / 2 + prior)
            self.work.pairs_in_windows += self._attention.pairs_in_window(tokens, prior)
            if whole:
                begun.append(job)
                self.work.prefills += 1
        context = sum(job.context for job in decoders)
        drafts = self._drafts * len(decoders)
        shared = self._shared_tokens()
        row = self.plan.cost.row(len(decoders), 0, prefills, drafts, context, shared)
        self._count(row, 1, context, len(decoders), sum(each.tokens for each in prefills))
        self.work.prefill_steps += 1
        for job in begun:
            self._prompts.remove(job)
        return self._made(decoders, 1) + self._made(begun, 1)

    def _decode_steps(self, until_s: float) -> list[Call]:
        """Decode steps until a call ends, a time has come, or a prompt may join."""
        decoders = self._decoders
        if not decoders:  # the prompts wait for a step that nothing is left to run
            for job in self._prompts:
                job.wait_steps = 0
            return []
        context = sum(job.context for job in decoders)
        cost, drafts = self.plan.cost, self._drafts * len(decoders)
        row = cost.row(len(decoders), 0, (), drafts, context, self._shared_tokens())
        shortest = min(job.left for job in decoders)
        steps = max(1, math.ceil(shortest / self._tokens_per_step))
        steps = min(steps, cost.steps_alike(len(decoders), context, self._growth(len(decoders))))
        if self._prompts:
            steps = 1
        elif until_s < math.inf:
            steps = self._steps_until(row, steps, context, until_s)
        self._count(row, steps, context, len(decoders))
        return self._made(decoders, steps)

    def _steps_until(self, row: StepRow, most: int, context: int, until_s: float) -> int:
        """Fewest steps that end at or after a time, at most `most`."""
        decoders = len(self._decoders)
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            if self.now_s + seconds(row.durations(middle, context, decoders)) >= until_s:
                high = middle
            else:
                low = middle + 1
        return low

    def _count(
        self, row: StepRow, steps: int, context: int, decoders: int, prompts: int = 0
    ) -> None:
        """Book steps: seconds, joules, what decoders read and what KV is held."""
        work = self.work
        growth = self._growth(decoders)
        took_s = seconds(row.durations(steps, context, growth))
        self.now_s += took_s
        work.steps += steps
        work.busy_s += took_s
        routed = self.plan.model.feed_forward.routed
        if routed is not None:
            tokens = (decoders * (1 + self._drafts) + prompts) * self.plan.deployment.data_parallel
            work.experts += steps * routed.touched(tokens)
        first = context
        for count, fixed, slope in row.energies(steps, context, growth):
            contexts = count * first + growth * count * (count - 1) // 2
            work.joules += joules(fixed * count + slope * contexts)
            first += growth * count
        grown = growth * steps * (steps - 1) / 2
        work.read += steps * context + grown
        in_windows = decoders * (self._attention.window or 0)
        work.read_in_windows += min(steps * context + grown, steps * in_windows)
        shared = self._shared_tokens()
        work.kv += steps * (context - shared) + grown
        work.kv_peak = max(work.kv_peak, context - shared + growth * steps)

    def _growth(self, decoders: int) -> int:
        """By how much their summed context grows in a step. [tokens]"""
        return round(decoders * self._tokens_per_step)

    def _shared_tokens(self) -> int:
        """KV that decoders have in common, beyond its one copy. [tokens]"""
        seen: set[int] = set()
        shared = 0
        for job in self._decoders:
            assert job.call.prompt is not None
            if job.cached and job.call.prompt.serial in seen:
                shared += job.cached
            seen.add(job.call.prompt.serial)
        return shared

    def _made(self, jobs: list[_Job], steps: int) -> list[Call]:
        """Give tokens to jobs; calls that have all of theirs end."""
        for waiting in self._prompts:
            waiting.wait_steps = max(0, waiting.wait_steps - steps)
        tokens = max(1, round(steps * self._tokens_per_step))
        decoding = jobs is self._decoders
        kept = []
        ended = []
        for job in jobs:
            made = min(tokens, job.left) if decoding else 1
            job.made += made
            job.left -= made
            self.work.decoded += made if decoding else 0
            if job.left > 0:
                kept.append(job)
                continue
            ended.append(job.call)
            if self._caching and job.call.output is not None:
                self._known[job.call.output.serial] = job.call.output.tokens - 1
                self._written.add(job.call.output.serial)
        if decoding:
            self._decoders = kept
        else:
            self._decoders = [*self._decoders, *kept]
        return ended

    # -- what is cached ----------------------------------------------------------------------------

    def _look_up(self, job: _Job) -> None:
        """Skip the part of a prompt whose KV is there, in whole blocks; the rest becomes known."""
        context = job.call.prompt
        assert context is not None
        if not (self._caching and job.call.reuse_prefix):
            return
        node: Context | None = context
        found = 0
        written = False
        while node is not None and not found:
            found = min(node.tokens, self._known.get(node.serial, 0))
            written = node.serial in self._written
            node = node.parent
        found = min(found, context.tokens - 1) // self._block * self._block
        self.work.continued += found if written else 0
        job.cached = found
        job.new -= found
        node = context
        while node is not None:
            self._known[node.serial] = max(node.tokens, self._known.get(node.serial, 0))
            node = node.parent
