"""Run a campaign against a live vLLM server: in turn, watched, repeated, and resumable."""

import asyncio
import datetime
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from ttcsim.analysis.measure import machine
from ttcsim.analysis.measure.campaign import Campaign, Rules, Workload
from ttcsim.analysis.measure.endpoint import Endpoint
from ttcsim.analysis.measure.live_run import LiveResult, run_live
from ttcsim.analysis.measure.noise import calibration_totals, noise, variation, work_s
from ttcsim.analysis.measure.recording import (
    Log,
    parse_schedule,
    recorded_schedule,
    unfinished,
)
from ttcsim.analysis.measure.run_files import (
    CAMPAIGN_FORMAT,
    RUN_FORMAT,
    MeasuredCampaign,
    MeasuredRun,
    campaign_document,
    judged,
    load_campaign_runs,
    load_run,
    read_json,
    run_path,
    write_json,
)
from ttcsim.analysis.measure.server import SERVER_LOG, Server, launched, pinned
from ttcsim.analysis.measure.speed import decode_times
from ttcsim.analysis.measure.texts import Texts
from ttcsim.errors import InputError, StuckError
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.simulate import questions_of

Json = dict[str, Any]
Tell = Callable[[str], None]
Progress = Callable[[int, int], None]

SETTLE_S = 0.3
"""Pause between runs, for the server to finish what was cancelled. [s]"""
SETTLE_LIMIT_S = 30.0
_READ_BYTES = 1 << 24  # the first line of a stream repeats the prompt's token ids


@dataclass(frozen=True)
class Launch:
    """How to start a server: vLLM's Python, whether to record its steps and to pin its engine."""

    python: Path
    record: bool = True
    pin: bool = True


def measure(
    campaign: Campaign,
    folder: str | Path,
    *,
    url: str | None = None,
    scorer_url: str | None = None,
    launch: Launch | None = None,
    served_model: str | None = None,
    resume: bool = False,
    tell: Tell | None = None,
    progress: Progress | None = None,
) -> MeasuredCampaign:
    """Run a campaign and write it to a directory; return what is there in the end.

    Args:
        campaign: The plan.
        folder: Where to write; it must be new, unless a campaign is resumed.
        url: Address of a running server that serves the generator.
        scorer_url: Address of one that serves the scorer, if it has its own.
        launch: Start a server instead, and stop it in the end.
        served_model: Name under which a running server serves the generator, if not the model's.
        resume: Go on with what the directory holds; rules of the plan may have changed.
        tell: Called with a line for people as runs end.
        progress: Called with (accepted runs, runs that the plan asks for).

    Raises:
        InputError: If there is no usable server, or the directory cannot be used.
        StuckError: If the server goes away.
    """
    folder = Path(folder)
    tell, progress = tell or _ignore, progress or _ignore
    _claim(folder, resume)
    if resume:
        _check_same_workloads(campaign, load_campaign_runs(folder))
    with (
        _server(campaign, url, served_model, launch, folder) as (server, places),
        asyncio.Runner() as runner,
    ):
        work = _Work(campaign, folder, server, scorer_url, places, tell, progress)
        try:
            runner.run(work.to_the_end())
        except BaseExceptionGroup as group:
            raise _first(group) from None
    return load_campaign_runs(folder)


def _ignore(*_: Any) -> None:
    """Nobody wants to know."""


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first plain exception of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _claim(folder: Path, resume: bool) -> None:
    there = folder / "campaign.json"
    if resume and not there.exists():
        raise InputError(f"--resume: {folder} holds no campaign")
    held = [path for path in folder.glob("*") if path.name != SERVER_LOG]
    if not resume and held:
        raise InputError(f"--output {folder}: is not empty; use --resume to go on with it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be written: {error.strerror}") from None


def _check_same_workloads(campaign: Campaign, before: MeasuredCampaign) -> None:
    """Runs of a workload that the plan has changed since must not be mixed with new ones."""
    for name in {run.workload.name for run in before.runs}:
        was, now = before.campaign.workload(name).scenario, campaign.workload(name).scenario
        if was.to_dict() != now.to_dict():
            raise InputError(
                f"--resume: {before.path}: workload {name} was another one when its runs were"
                f" made; begin another directory, or remove runs/????_{name}.json.gz"
            )


@contextmanager
def _server(
    campaign: Campaign,
    url: str | None,
    served_model: str | None,
    launch: Launch | None,
    folder: Path,
) -> Iterator[tuple[Server, dict[str, list[int]]]]:
    plan = plans_of(campaign.workloads[0].scenario)[0]
    if launch is None:
        if url is None:
            raise InputError("give the address of a server (--base-url), or --launch one")
        yield Server(url, served_model or plan.model.name), {}
        return
    if url is not None:
        raise InputError("--base-url and --launch exclude each other")
    with launched(plan, launch.python, campaign.server_flags, launch.record, folder) as server:
        if not launch.pin or plan.profile.kind != "cpu":
            yield server, {}
            return
        with pinned(server) as places:
            yield server, places


class _Work:
    """A campaign under way."""

    def __init__(
        self,
        campaign: Campaign,
        folder: Path,
        server: Server,
        scorer_url: str | None,
        places: dict[str, list[int]],
        tell: Tell,
        progress: Progress,
    ) -> None:
        self._campaign = campaign
        self._folder = folder
        self._server = server
        self._scorer_url = scorer_url
        self._places = places
        self._tell = tell
        self._progress = progress
        self._log: Log | None = None
        self._runs: list[MeasuredRun] = []
        self._nonce = secrets.token_hex(8)  # a server that goes on keeps the prefixes it has seen
        self._started = time.monotonic()

    async def to_the_end(self) -> None:
        """Check the servers, then go round until no workload needs another run."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        # vLLM closes connections idle for 5 s; one that is taken again just then fails its call.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, read_bufsize=_READ_BYTES
        ) as session:
            endpoints = self._endpoints(session)
            found = await endpoints["generator"].check()
            if "scorer" in endpoints and endpoints["scorer"] is not endpoints["generator"]:
                await endpoints["scorer"].check()
            if self._server.log is not None:
                self._log = Log(self._server.log)
                self._log.read()  # the settings, and what the check has asked
            paths = sorted((self._folder / "runs").glob("[0-9]*.json.gz"))
            runs = [load_run(path, self._campaign) for path in paths]
            self._runs = judged(runs, self._campaign.rules)
            self._write_head(found)
            await self._warm_up(endpoints)
            while await self._round(endpoints):
                pass

    def _endpoints(self, session: aiohttp.ClientSession) -> dict[str, Endpoint]:
        own = Endpoint(self._server.url, self._server.model, session)
        endpoints = {"generator": own}
        for workload in self._campaign.workloads:
            scenario = workload.scenario
            if scenario.prefiller is not None:
                raise InputError(
                    f"workload {workload.name}: prefiller: one server cannot play two engines"
                )
            if "scorer" not in scenario.strategy.deployments():
                continue
            if scenario.scorer_placement == "same_engine":
                endpoints["scorer"] = own
            elif self._scorer_url is not None and scenario.scorer is not None:
                model = load_model(scenario.scorer.model).name
                endpoints["scorer"] = Endpoint(self._scorer_url, model, session)
            else:
                raise InputError(
                    f"workload {workload.name}: strategy {scenario.strategy.name} scores: give"
                    " --scorer-base-url, or set scorer_placement to same_engine"
                )
        return endpoints

    def _write_head(self, found: str) -> None:
        server = {
            "vllm": found,
            "model": self._server.model,
            "launched": self._server.process is not None,
            "flags": list(self._server.flags),
            "environment": dict(self._server.environment),
            "settings": None if self._log is None else self._log.config,
            "pinned_to": self._places,
            "client": {name: version(name) for name in ("ttcsim", "aiohttp")},
        }
        path = self._folder / "campaign.json"
        if path.exists():
            self._check_same(path, server)
        document = campaign_document(self._campaign, server, machine.machine_facts())
        write_json(path, document)

    def _check_same(self, path: Path, server: Json) -> None:
        """Runs of another engine, or on another machine, must not be mixed with these."""
        before = read_json(path, CAMPAIGN_FORMAT)
        facts = machine.machine_facts()
        now = {"server": server, "machine": {"processor": facts["processor"]}}
        for part, names in (
            ("server", ("vllm", "model", "flags", "settings")),
            ("machine", ("processor",)),
        ):
            for name in names:
                old, new = before.get(part, {}).get(name), now[part].get(name)
                if old != new:
                    raise InputError(
                        f"--resume: {path}: its {part} had {name} {old}, this one has {new}; begin"
                        " another directory"
                    )

    async def _warm_up(self, endpoints: dict[str, Endpoint]) -> None:
        name = self._campaign.warm_up
        if name is not None:
            self._tell(f"warm-up {name}")
            await self._live(self._campaign.workload(name), endpoints, -1)
            await self._settled()

    async def _round(self, endpoints: dict[str, Endpoint]) -> bool:
        """Run every workload that still needs runs once; return whether any did."""
        rules = self._campaign.rules
        ran = False
        for workload in shuffled(self._campaign.workloads, len(self._runs)):
            if time.monotonic() - self._started > rules.wall_time_s:
                self._tell(f"stopped after {rules.wall_time_s:.0f} s, the limit of the plan")
                return False
            if needs_runs(self._campaign, workload, self._runs):
                await self._run(workload, endpoints)
                ran = True
        return ran

    async def _run(self, workload: Workload, endpoints: dict[str, Endpoint]) -> None:
        number = 1 + max((run.number for run in self._runs), default=0)
        pids = sorted({*self._server.pids, *machine.descendants(os.getpid())})
        if self._log is not None:
            self._log.read()
        before, at = machine.cpu_times(pids), datetime.datetime.now(datetime.UTC)
        result = await self._live(workload, endpoints, number)
        after = machine.cpu_times(pids)
        lines = await self._settled()
        used = None if before is None or after is None else after - before
        local = self._server.process is not None
        disturbance = _disturbance(used, result.wall_s) if local else None
        document: Json = {
            "format": RUN_FORMAT,
            "workload": workload.name,
            "number": number,
            "started_at": at.isoformat(timespec="seconds"),
            "rejected": _verdict(self._campaign.rules, result, disturbance),
            "wall_s": result.wall_s,
            "disturbance": disturbance,
            "steal_s": None if used is None else round(used.steal_s, 2),
            "foreign_s": None if used is None or not local else round(used.foreign_s, 2),
            "load_1min": machine.load(),
            "questions": dict(result.questions.columns),
            "calls": dict(result.calls.columns),
            "schedule": None,
        }
        if self._log is not None:
            name = f"{workload.name}.{number}"
            document["schedule"] = recorded_schedule(name, self._log.config, lines, result.start)
            schedule = parse_schedule(name, document["schedule"])
            document["decode_steps_us"] = decode_times(schedule)
        path = run_path(self._folder, number, workload.name)
        write_json(path, document)
        self._runs = judged([*self._runs, load_run(path, self._campaign)], self._campaign.rules)
        self._report(workload, document)
        if not self._server.alive or await self._gone(endpoints):
            raise StuckError(
                f"the server has gone in run {number} ({workload.name}); --resume goes on with"
                f" {self._folder}"
            )

    async def _gone(self, endpoints: dict[str, Endpoint]) -> bool:
        if self._runs[-1].rejected is None:
            return False
        try:
            await endpoints["generator"].check()
        except InputError:
            return True
        return False

    async def _live(
        self, workload: Workload, endpoints: dict[str, Endpoint], number: int
    ) -> LiveResult:
        scenario = workload.scenario
        vocabulary = load_model(scenario.generator.model).vocab
        texts = Texts(vocabulary, scenario.seed, self._nonce, workload.name, number)
        return await run_live(scenario, questions_of(scenario), endpoints, texts)

    async def _settled(self) -> list[Json]:
        """Wait until the engine has nothing to do; return what it has written since last time."""
        await asyncio.sleep(SETTLE_S)
        lines = [] if self._log is None else self._log.read()
        end = time.monotonic() + SETTLE_LIMIT_S
        while self._log is not None and unfinished(lines) and time.monotonic() < end:
            if not self._server.alive:
                break
            await asyncio.sleep(SETTLE_S)
            lines += self._log.read()
        return lines

    def _report(self, workload: Workload, document: Json) -> None:
        accepted = sum(r.accepted for r in self._runs if r.workload.name == workload.name)
        wanted = self._campaign.rules.repeats
        verdict = self._runs[-1].rejected or f"accepted {accepted}/{wanted}"
        self._progress(
            sum(run.accepted for run in self._runs), wanted * len(self._campaign.workloads)
        )
        result_s = document["wall_s"]
        done = sum(not needs_runs(self._campaign, w, self._runs) for w in self._campaign.workloads)
        self._tell(
            f"run {document['number']:3d} {workload.name:<32} {result_s:5.1f} s  {verdict}"
            f"  ({done}/{len(self._campaign.workloads)} workloads done)"
        )


def shuffled(workloads: Sequence[Workload], key: int) -> list[Workload]:
    """Another order for every round, so that none always follows the same one; the same by key."""
    return [workloads[i] for i in np.random.default_rng(key).permutation(len(workloads))]


def needs_runs(campaign: Campaign, workload: Workload, runs: Sequence[MeasuredRun]) -> bool:
    """Whether a workload has too few accepted runs, or scatters too much, and may be repeated."""
    rules = campaign.rules
    own = [run for run in runs if run.workload.name == workload.name]
    accepted = [work_s(run) for run in own if run.accepted]
    if len(accepted) >= rules.max_repeats or len(own) >= 2 * rules.max_repeats:
        return False
    if len(accepted) < rules.repeats:
        return True
    if rules.repeats < 2:
        return False
    if variation(accepted) > rules.max_variation:
        return True
    totals = calibration_totals(campaign, runs)
    if len(totals) < rules.repeats:
        totals = []  # what the calibration adds to the noise cannot be told yet
    return noise(accepted, totals) > rules.max_noise


def _disturbance(used: machine.CpuTimes | None, wall_s: float) -> float | None:
    """Share of the wall time in which the host or others had a processor."""
    if used is None or wall_s <= 0:
        return None
    return round((used.steal_s + used.foreign_s) / wall_s, 4)


def _verdict(rules: Rules, result: LiveResult, disturbance: float | None) -> str | None:
    """Why a run does not count by itself, None if it does."""
    failed = sum(state == "failed" for state in result.calls.columns["state"])
    if failed:
        return f"{failed} calls failed"
    if disturbance is not None and disturbance > rules.max_disturbance:
        return f"disturbed: {disturbance:.1%} of its time"
    return None
