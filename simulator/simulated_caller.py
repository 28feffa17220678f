"""The simulated caller: what a strategy says becomes requests, in virtual time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import simpy

from ttcsim.errors import InputError
from ttcsim.simulator.cluster import Cluster
from ttcsim.simulator.engine import Engine
from ttcsim.simulator.request import Request, Status
from ttcsim.simulator.scenario import FrontEnd
from ttcsim.simulator.step_row import TICKS_PER_S
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call
from ttcsim.workloads.context import Context


@dataclass(eq=False, slots=True)
class CallRecord:
    """A call under way, in ticks of the client's clock."""

    number: int
    call: Call
    question: str
    sent: int
    engine: Engine | None = None
    request: Request | None = None
    submitted: bool = False
    sample_model: str | None = None  # who wrote the sample, if the trace says
    first_token: int | None = None
    end: int | None = None
    finished_as: int = -1  # place among all finished calls
    waits: list["Wait"] = field(default_factory=list)
    caller: "SimulatedCaller | None" = None


class Wait:
    """Comes true when `needed` of the calls are finished; its value are those, in that order."""

    __slots__ = ("_calls", "_missing", "_resume", "value")

    def __init__(self, calls: Sequence[Call], needed: int) -> None:
        self._calls = calls
        self._missing = needed - sum(call.state == "finished" for call in calls)
        self._resume: Callable[[Wait], None] | None = None
        self.value: list[Call] | None = None
        if self._missing <= 0:
            self.value = self._finished()
            return
        for call in calls:
            if call.state == "running":
                call.owner.waits.append(self)

    def then(self, resume: Callable[["Wait"], None]) -> None:
        """Call `resume` when it comes true; it has not yet."""
        self._resume = resume

    def finished_one(self) -> None:
        """One of the calls has been finished."""
        self._missing -= 1
        if self._missing == 0:
            self.value = self._finished()
            if self._resume is not None:
                self._resume(self)

    def _finished(self) -> list[Call]:
        done = [call for call in self._calls if call.state == "finished"]
        return sorted(done, key=lambda call: call.owner.finished_as)


class SimulatedCaller:
    """Caller of one question (see `ttcsim.workloads.caller.Caller`).

    Args:
        env: The clock, in attoseconds.
        clusters: Deployments by name.
        asked: The question.
        front_end: Latency around the engines.
        record: Called with every call that ends.
    """

    def __init__(
        self,
        env: simpy.Environment,
        clusters: dict[str, Cluster],
        asked: Asked,
        front_end: FrontEnd,
        record: Callable[[CallRecord], None],
    ) -> None:
        self._env = env
        self._clusters = clusters
        self._asked = asked
        self._ingest = round(front_end.ingest_s * TICKS_PER_S)
        self._output = round(front_end.output_s * TICKS_PER_S)
        self._record = record
        self._finished = 0
        self.calls: list[CallRecord] = []

    # -- vocabulary ----------------------------------------------------------------------------

    def generate(
        self,
        context: Context,
        *,
        sample: int | None = None,
        tokens: int | None = None,
        on: str = "generator",
    ) -> Call:
        """Continue a text on a deployment."""
        if tokens is None:
            if sample is None:
                raise InputError("generate() needs a sample or a number of tokens")
            tokens = self._asked.sample(sample).output_tokens
        output = context.append(tokens)
        call = Call("generate", on, context, sample, tokens, output=output)
        return self._send(call, output.serial << 32)

    def score(self, context: Context, *, reuse_prefix: bool = True, on: str = "scorer") -> Call:
        """Read a text on a deployment."""
        call = Call("score", on, context, tokens=1, reuse_prefix=reuse_prefix, output=context)
        return self._send(call, context.append(1).serial << 32)

    def wait(self, seconds: float) -> Call:
        """Let time pass."""
        call = Call("wait", seconds=seconds)
        record = self._open(call)
        done = self._env.timeout(round(seconds * TICKS_PER_S))
        assert done.callbacks is not None
        done.callbacks.append(lambda _: self._arrived(record))
        return call

    def all(self, calls: Iterable[Call]) -> Wait:
        """Wait for every call."""
        listed = list(calls)
        return Wait(listed, len(listed))

    def first(self, k: int, calls: Sequence[Call]) -> Wait:
        """Wait for `k` of the calls."""
        if k > len(calls):
            raise InputError(f"first({k}, ...) of {len(calls)} calls can never come true")
        return Wait(list(calls), k)

    def cancel(self, calls: Iterable[Call]) -> None:
        """Stop calls that still run."""
        for call in calls:
            if call.state == "running":
                call.state = "cancelled"
                record: CallRecord = call.owner
                if record.request is None:
                    self._close(record)
                elif record.submitted and record.engine is not None:
                    record.engine.cancel(record.request)

    # -- requests ------------------------------------------------------------------------------

    def _open(self, call: Call) -> CallRecord:
        record = CallRecord(len(self.calls), call, self._asked.id, self._now, caller=self)
        call.owner = record
        self.calls.append(record)
        return record

    def _send(self, call: Call, output_keys: int) -> Call:
        cluster = self._clusters.get(call.on)
        if cluster is None:
            raise InputError(
                f"the strategy calls the deployment '{call.on}', the scenario has none"
                f" (have: {', '.join(self._clusters)})"
            )
        assert call.prompt is not None
        config = cluster.plan.scheduler
        if call.prompt.tokens + call.tokens > config.max_model_len:
            raise InputError(
                f"question {self._asked.id}: {call.prompt.tokens} + {call.tokens} tokens exceed"
                f" max_model_len {config.max_model_len} of {cluster.plan.model.name}"
            )
        record = self._open(call)
        if call.sample is not None:
            record.sample_model = self._asked.sample(call.sample).written_by
        caching = config.enable_prefix_caching and call.reuse_prefix
        record.engine = cluster.route(self._asked.id)
        record.engine.announced += 1
        record.request = Request(
            f"{self._asked.id}/{record.number}",
            call.prompt.tokens,
            call.tokens,
            call.prompt.block_keys(config.block_size) if caching else (),
            output_keys=output_keys if caching else None,
            tag=record,
        )
        self._later(self._ingest, lambda: self._submit(record))
        return call

    def _submit(self, record: CallRecord) -> None:
        assert record.engine is not None
        assert record.request is not None
        record.engine.announced -= 1
        if record.call.state == "running":
            record.submitted = True
            record.engine.submit(record.request)
        else:
            record.request.status = Status.ABORTED
            self._close(record)

    def got_first_token(self, record: CallRecord) -> None:
        """The engine has delivered the first token of a request."""
        if record.first_token is None:
            record.first_token = self._now + self._output

    def ended(self, record: CallRecord) -> None:
        """The engine has finished or dropped a request."""
        if record.call.state == "cancelled":
            self._close(record)
        else:
            self._later(self._output, lambda: self._arrived(record))

    def _arrived(self, record: CallRecord) -> None:
        """A finished call has reached the client."""
        if record.call.state != "running":
            self._close(record)
            return
        record.call.state = "finished"
        record.finished_as = self._finished
        self._finished += 1
        self._close(record)
        for wait in record.waits:
            wait.finished_one()

    def _close(self, record: CallRecord) -> None:
        if record.end is None:
            record.end = self._now
            self._record(record)

    def _later(self, delay: int, then: Callable[[], None]) -> None:
        if delay:
            event = self._env.timeout(delay)
            assert event.callbacks is not None
            event.callbacks.append(lambda _: then())
        else:
            then()

    @property
    def _now(self) -> int:
        return self._env.now  # type: ignore[return-value]
