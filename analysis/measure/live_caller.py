"""The live caller: what a strategy says becomes calls of a real server, in real time.

It takes the same lengths and scores from the trace as the simulated caller, so both make the same
calls and only the clock differs.
"""

import asyncio
import time
from dataclasses import dataclass, field

from ttcsim.analysis.measure.endpoint import CallFailedError, Endpoint
from ttcsim.analysis.measure.texts import Texts
from ttcsim.errors import InputError
from ttcsim.workloads import draws
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller

Clock = time.monotonic
"""The clock of the engine's recorder, too, if it runs on the same machine. [s]"""


@dataclass(eq=False)
class LiveRecord:
    """A call under way, in seconds of `Clock`."""

    number: int
    call: Call
    sent_s: float
    first_token_s: float | None = None
    end_s: float | None = None
    tokens: int = 0
    error: str | None = None
    finished_as: int = -1
    task: asyncio.Task[None] | None = None
    waits: list["LiveWait"] = field(default_factory=list)


class LiveWait:
    """Comes true when `needed` of the calls are finished, or can never come true."""

    def __init__(self, calls: list[Call], needed: int) -> None:
        self._calls = calls
        self._needed = needed
        self._changed = asyncio.Event()
        for call in calls:
            if call.state == "running":
                call.owner.waits.append(self)

    def changed(self) -> None:
        """One of the calls has ended."""
        self._changed.set()

    async def done(self) -> list[Call]:
        """Wait; the value are the finished calls, in order of finish.

        Raises:
            CallFailedError: If a call that was needed has failed.
        """
        while True:
            finished = [call for call in self._calls if call.state == "finished"]
            if len(finished) >= self._needed:
                return sorted(finished, key=lambda call: call.owner.finished_as)
            running = sum(call.state == "running" for call in self._calls)
            if len(finished) + running < self._needed:
                raise CallFailedError("a call that the strategy waits for has failed")
            self._changed.clear()
            await self._changed.wait()


class LiveCaller(Caller):
    """Caller of one question (see `ttcsim.workloads.caller.Caller`).

    Args:
        endpoints: Servers by name of the deployment.
        asked: The question.
        texts: Token ids of contexts.
        seed: Of the server's sampling, together with question and call; None leaves it to the
            server (vLLM 0.32 on CPUs ends with an error when a large batch samples with seeds).
    """

    def __init__(
        self, endpoints: dict[str, Endpoint], asked: Asked, texts: Texts, seed: int | None
    ) -> None:
        super().__init__(asked)
        self._endpoints = endpoints
        self._texts = texts
        self._seed = seed
        self._finished = 0
        self.calls: list[LiveRecord] = []

    # -- vocabulary ----------------------------------------------------------------------------

    def wait(self, seconds: float) -> Call:
        """Let time pass."""
        record = self._open(Call("wait", seconds=seconds))
        record.task = asyncio.create_task(self._sleep(record))
        return record.call

    def _wait_for(self, calls: list[Call], needed: int) -> LiveWait:
        return LiveWait(calls, needed)

    def _stop(self, call: Call) -> None:
        """Close its stream."""
        record: LiveRecord = call.owner
        record.end_s = Clock()
        assert record.task is not None
        record.task.cancel()

    async def cancel_all(self) -> None:
        """Stop whatever still runs, and wait until every stream is closed."""
        self.cancel(record.call for record in self.calls)
        tasks = [record.task for record in self.calls if record.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- calls ---------------------------------------------------------------------------------

    def _open(self, call: Call) -> LiveRecord:
        record = call.owner = LiveRecord(len(self.calls), call, Clock())
        self.calls.append(record)
        return record

    def _send(self, call: Call) -> None:
        if call.on not in self._endpoints:
            raise InputError(
                f"the strategy calls the deployment '{call.on}', there is no server for it"
                f" (have: {', '.join(self._endpoints)})"
            )
        record = self._open(call)
        record.task = asyncio.create_task(self._stream(record))

    async def _stream(self, record: LiveRecord) -> None:
        call = record.call
        assert call.prompt is not None
        assert call.output is not None
        prompt = self._texts.tokens(call.prompt)
        name = f"{self.asked.id}/{record.number}"
        salt = None if call.reuse_prefix else f"{draws.bits(0, name):x}"  # no "/" allowed
        seed = None
        if self._seed is not None:
            seed = draws.bits(self._seed, self.asked.id, record.number, "live sampling") >> 33
        written: list[int] = []
        record.sent_s = Clock()
        try:
            stream = self._endpoints[call.on].complete(
                prompt, call.tokens, seed, salt=salt, name=name
            )
            async for chunk in stream:
                if record.first_token_s is None and chunk.token_ids:
                    record.first_token_s = Clock()
                written += chunk.token_ids
                record.tokens = len(written)
                if chunk.last:
                    record.end_s = Clock()
            if len(written) != call.tokens:
                raise CallFailedError(f"asked for {call.tokens} tokens, got {len(written)}")
        except Exception as error:  # whatever it is, nobody may wait for this call for ever
            self._failed(record, str(error) or type(error).__name__)
            return
        if call.kind == "generate":
            self._texts.put(call.output, written)
        self._end(record)

    async def _sleep(self, record: LiveRecord) -> None:
        await asyncio.sleep(record.call.seconds)
        self._end(record)

    def _failed(self, record: LiveRecord, why: str) -> None:
        if record.call.state != "running":
            return
        record.call.state = "failed"
        record.error = why
        record.end_s = Clock()
        self._tell(record)

    def _end(self, record: LiveRecord) -> None:
        if record.call.state != "running":
            return
        if record.end_s is None:
            record.end_s = Clock()
        record.call.state = "finished"
        record.finished_as = self._finished
        self._finished += 1
        self._tell(record)

    def _tell(self, record: LiveRecord) -> None:
        for wait in record.waits:
            wait.changed()
        record.waits = []
