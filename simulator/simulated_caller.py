"""The simulated caller: what a strategy says becomes requests, in virtual time."""

from collections.abc import Sequence

from ttcsim.errors import InputError
from ttcsim.simulator.agenda import NORMAL, Agenda, Due
from ttcsim.simulator.cluster import Cluster
from ttcsim.simulator.engine import Engine
from ttcsim.simulator.request import Request, Status
from ttcsim.simulator.step_row import TICKS_PER_S
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller
from ttcsim.workloads.context import new_serial


class CallRecord:
    """A call under way, in ticks of the client's clock.

    Attributes:
        number: Its number within the question.
        question: Identity of the question.
        sent: When it was sent.
        submitted: Whether the engine has it.
        prefill: Its request to a prefiller, if there is one; `request` comes after it.
        sample_model: Who wrote the sample, if the trace says.
        first_token: When its first token reached the client.
        end: When it was finished or dropped.
        finished_as: Place among all finished calls of the question.
        waits: What waits for it.
    """

    __slots__ = (
        "call", "caller", "end", "engine", "finished_as", "first_token", "number", "prefill",
        "prefill_engine", "prefilling", "question", "request", "sample_model", "sent", "submitted",
        "waits",
    )  # fmt: skip

    def __init__(
        self, number: int, call: Call, question: str, sent: int, caller: "SimulatedCaller"
    ) -> None:
        self.number = number
        self.call = call
        self.question = question
        self.sent = sent
        self.caller: SimulatedCaller | None = caller
        self.engine: Engine | None = None
        self.request: Request | None = None
        self.prefill: Request | None = None
        self.prefill_engine: Engine | None = None
        self.prefilling = False
        self.submitted = False
        self.sample_model: str | None = None
        self.first_token: int | None = None
        self.end: int | None = None
        self.finished_as = -1
        self.waits: list[Wait] = []

    def close(self) -> None:
        """It has been written down: let go of everything that points back to it."""
        if self.request is not None:
            self.request.tag = None
        if self.prefill is not None:
            self.prefill.tag = None
        self.call.owner = None
        self.caller = None
        self.waits = []


class Waiter(Due):
    """Who goes on when a wait has come true."""

    __slots__ = ()

    def wake(self, done: list[Call]) -> None:
        """The wait has come true; `done` is its value."""
        raise NotImplementedError


class Wait:
    """Comes true when `needed` of the calls are finished; its value are those, in that order."""

    __slots__ = ("_calls", "_missing", "_waiter", "value")

    def __init__(self, calls: list[Call], needed: int) -> None:
        self._calls = calls
        self._waiter: Waiter | None = None
        self.value: list[Call] | None = None
        running: list[CallRecord] = []
        finished = 0
        for call in calls:
            if call.state == "finished":
                finished += 1
            elif call.state == "running":
                running.append(call.owner)
        self._missing = needed - finished
        if self._missing <= 0:
            self.value = self._finished()
            return
        for record in running:
            record.waits.append(self)

    def then(self, waiter: Waiter) -> None:
        """Wake `waiter` with its value when it comes true; it has not yet."""
        self._waiter = waiter

    def finished_one(self) -> None:
        """One of the calls has been finished."""
        self._missing -= 1
        if self._missing == 0:
            self.value = self._finished()
            if self._waiter is not None:
                self._waiter.wake(self.value)

    def _finished(self) -> list[Call]:
        done = [call for call in self._calls if call.state == "finished"]
        if len(done) > 1:
            done.sort(key=_finished_as)
        return done


def _finished_as(call: Call) -> int:
    record: CallRecord = call.owner
    return record.finished_as


class SimulatedCaller(Caller):
    """Caller of one question (see `ttcsim.workloads.caller.Caller`).

    Args:
        agenda: The clock, in attoseconds.
        clusters: Deployments by name.
        asked: The question.
        output: Latency after the engines. [as]
    """

    def __init__(
        self,
        agenda: Agenda,
        clusters: dict[str, Cluster],
        asked: Asked,
        output: int,
    ) -> None:
        super().__init__(asked)
        self._agenda = agenda
        self._clusters = clusters
        self._id = asked.id
        self._output = output
        self._finished = 0
        self.dropped = False  # a call was cancelled before it was finished
        self.calls: list[CallRecord] = []

    # -- vocabulary ----------------------------------------------------------------------------

    def wait(self, seconds: float) -> Call:
        """Let time pass."""
        call = Call("wait", seconds=seconds)
        record = self._open(call)
        at = self._agenda.now + round(seconds * TICKS_PER_S)
        self._agenda.call(at, NORMAL, lambda: self._arrived(record))
        return call

    def _wait_for(self, calls: list[Call], needed: int) -> Wait:
        return Wait(calls, needed)

    def _stop(self, call: Call) -> None:
        record: CallRecord = call.owner
        if record.request is None:
            self._close(record)
        elif record.submitted and record.engine is not None:
            record.engine.cancel(record.request)
        elif record.prefilling and record.prefill is not None:
            assert record.prefill_engine is not None
            record.prefill_engine.cancel(record.prefill)

    def cancel_all(self) -> None:
        """Stop whatever still runs."""
        for record in self.calls:
            if record.call.state == "running":
                self.cancel([record.call])

    # -- requests ------------------------------------------------------------------------------

    def _open(self, call: Call) -> CallRecord:
        record = CallRecord(len(self.calls), call, self._id, self._agenda.now, self)
        call.owner = record
        self.calls.append(record)
        return record

    def _send(self, call: Call) -> None:
        cluster = self._clusters.get(call.on)
        if cluster is None:
            raise InputError(
                f"the strategy calls the deployment '{call.on}', the scenario has none"
                f" (have: {', '.join(self._clusters)})"
            )
        assert call.prompt is not None
        config = cluster.config
        if call.prompt.tokens + call.tokens > config.max_model_len:
            raise InputError(
                f"question {self.asked.id}: {call.prompt.tokens} + {call.tokens} tokens exceed"
                f" max_model_len {config.max_model_len} of {cluster.plan.model.name}"
            )
        record = self._open(call)
        if call.kind == "generate":
            assert call.output is not None
            output_keys = call.output.serial << 32
            if call.sample is not None:
                traced = self.asked.sample(call.sample)
                record.sample_model = traced.written_by if traced.calls else traced.model
        else:
            output_keys = new_serial() << 32
        caching = config.enable_prefix_caching
        keys: Sequence[int] = ()
        if caching and call.reuse_prefix:
            keys = call.prompt.block_keys(config.block_size)
        elif caching:  # as with vLLM's cache_salt: a text that nothing else starts with
            own = new_serial() << 32
            keys = range(own, own + call.prompt.tokens // config.block_size)
        record.engine = cluster.route(self._id)
        record.engine.announced += 1
        record.request = Request(
            f"{self._id}/{record.number}",
            call.prompt.tokens,
            call.tokens,
            keys,
            output_keys=output_keys if caching else None,
            tag=record,
        )
        if cluster.prefiller is not None and call.kind == "generate":
            self._prefill_elsewhere(record, cluster.prefiller)
        at = cluster.reaches_engine(self._agenda.now, record.engine, call.prompt.tokens)
        if at > self._agenda.now:
            self._agenda.call(at, NORMAL, lambda: self._submit(record))
        else:
            self._submit(record)

    def _prefill_elsewhere(self, record: CallRecord, prefiller: Cluster) -> None:
        """Let a prefiller do the prompt first."""
        request = record.request
        assert request is not None
        request.prefilled = request.prompt_tokens
        engine = prefiller.route(self._id)
        engine.announced += 1
        record.prefill_engine = engine
        record.prefill = Request(
            f"{request.id}/prefill",
            request.prompt_tokens,
            1,
            request.keys,
            output_keys=request.output_keys,
            tag=record,
        )

    def _submit(self, record: CallRecord) -> None:
        """The call has come out of the front end."""
        assert record.engine is not None
        assert record.request is not None
        if record.prefill is not None and record.prefill_engine is not None:
            record.prefill_engine.announced -= 1
            if record.call.state == "running":
                record.prefilling = True
                record.prefill_engine.submit(record.prefill)
                return
        self._hand_over(record)

    def _hand_over(self, record: CallRecord) -> None:
        """The engine that generates gets the request."""
        assert record.engine is not None
        assert record.request is not None
        record.engine.announced -= 1
        if record.call.state == "running":
            record.submitted = True
            record.engine.submit(record.request)
        else:
            record.request.status = Status.ABORTED
            self._close(record)

    def got_first_token(self, record: CallRecord, request: Request) -> None:
        """An engine has delivered the first token of a request; a prefiller's is thrown away."""
        if record.first_token is None and request is record.request:
            record.first_token = self._agenda.now + self._output

    def ended(self, record: CallRecord, request: Request) -> None:
        """An engine has finished or dropped a request."""
        if request is record.prefill:
            record.prefilling = False
            self._hand_over(record)
        elif record.call.state == "cancelled":
            self._close(record)
        elif not self._output:
            self._arrived(record)
        else:
            self._agenda.call(
                self._agenda.now + self._output, NORMAL, lambda: self._arrived(record)
            )

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
            record.end = self._agenda.now
            if record.call.state == "cancelled" and record.request is not None:
                self.dropped = True
