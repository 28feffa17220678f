"""The directory that `ttcsim measure` writes: `campaign.json`, and a file for each run.

campaign.json          plan, server (version, flags, settings), machine
runs/0007_NAME.json.gz one run: what the client saw, who disturbed, every step of the engine
"""

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ttcsim.analysis.measure.campaign import Campaign, Rules, Workload, make_campaign
from ttcsim.analysis.measure.recording import RecordedSchedule, parse_schedule
from ttcsim.analysis.measure.speed import slowdowns
from ttcsim.errors import InputError
from ttcsim.simulator.results import Table
from ttcsim.workloads.trace import Trace

Json = dict[str, Any]

CAMPAIGN_FORMAT = "ttcsim-campaign/1"
RUN_FORMAT = "ttcsim-run/1"


@dataclass(frozen=True)
class MeasuredRun:
    """One run of one workload.

    Attributes:
        path: Its file.
        workload: What was run.
        number: Of the run in the campaign.
        rejected: Why it does not count, None if it does.
        wall_s: From its start to the last answer. [s]
        disturbance: Share of the wall time that the host and others took, None if unknown.
        questions, calls: What the client saw, a row each.
        document: All of the file.
    """

    path: Path
    workload: Workload
    number: int
    rejected: str | None
    wall_s: float
    disturbance: float | None
    questions: Table
    calls: Table
    document: Json

    @property
    def accepted(self) -> bool:
        """Whether it counts."""
        return self.rejected is None

    @cached_property
    def schedule(self) -> RecordedSchedule | None:
        """What the engine did, if it was recorded."""
        found = self.document.get("schedule")
        return None if found is None else parse_schedule(str(self.path), found)

    @property
    def mean_makespan_s(self) -> float:
        """Mean makespan of the questions. [s]"""
        spans = self.questions.columns["makespan_s"]
        return float(sum(spans)) / len(spans)

    @property
    def output_tokens_per_s(self) -> float:
        """Output tokens of all calls, cancelled ones included, over the wall time. [1/s]"""
        return float(sum(self.calls.columns["output_tokens"])) / self.wall_s


@dataclass(frozen=True)
class MeasuredCampaign:
    """A campaign with its runs, in the order in which they were made.

    Attributes:
        path, campaign, server, machine: Where it lies, what was asked of what.
        runs: All of them, rejected ones included.
        trace: The questions, where no scenario can name them.
    """

    path: Path
    campaign: Campaign
    server: Json
    machine: Json
    runs: tuple[MeasuredRun, ...]
    trace: Trace | None = None

    def accepted(self, workload: str) -> list[MeasuredRun]:
        """The runs of a workload that count."""
        return [run for run in self.runs if run.workload.name == workload and run.accepted]


def campaign_document(campaign: Campaign, server: Json, machine: Json) -> Json:
    """What `campaign.json` holds."""
    return {
        "format": CAMPAIGN_FORMAT,
        "campaign": campaign.to_dict(),
        "server": server,
        "machine": machine,
    }


def write_json(path: Path, document: Json) -> None:
    """Write plain data, gzipped if the name says so; nothing half-written is left behind."""
    text = json.dumps(document, separators=(",", ":") if path.suffix == ".gz" else None,
                      indent=None if path.suffix == ".gz" else 1)  # fmt: skip
    raw = text.encode() + b"\n"
    if path.suffix == ".gz":
        raw = gzip.compress(raw, compresslevel=9, mtime=0)
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(raw)
        os.replace(staged, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def read_json(path: Path, format_: str) -> Json:
    """Read plain data of a format.

    Raises:
        InputError: If the file is missing, cut short or something else.
    """
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}: cannot be read as a measurement: {reason}") from None
    if not isinstance(document, dict) or document.get("format") != format_:
        raise InputError(f"{path}: not a measurement (expected format {format_})")
    return document


def run_path(folder: Path, number: int, workload: str) -> Path:
    """Where a run is written."""
    return folder / "runs" / f"{number:04d}_{workload}.json.gz"


def load_campaign_runs(folder: Path) -> MeasuredCampaign:
    """Read a directory that `ttcsim measure` has written.

    Raises:
        InputError: If it is none, or a file of it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory of measured runs")
    head = folder / "campaign.json"
    document = read_json(head, CAMPAIGN_FORMAT)
    try:
        campaign = planned(folder)
        server, machine = document["server"], document["machine"]
    except KeyError as error:
        raise InputError(f"{head}: {error} is missing") from None
    paths = sorted((folder / "runs").glob("[0-9]*.json.gz"))
    runs = judged([load_run(path, campaign) for path in paths], campaign.rules)
    return MeasuredCampaign(folder, campaign, server, machine, tuple(runs))


def judged(runs: Sequence[MeasuredRun], rules: Rules) -> list[MeasuredRun]:
    """The runs with those rejected in which the machine was slower or faster than usual.

    What is usual, all runs say together, so the verdict on one may change as others are added.
    """
    found = []
    times = [run.document.get("decode_steps_us") for run in runs]
    for run, slowdown in zip(runs, slowdowns(times), strict=True):
        rejected: str | None = run.document.get("rejected")
        if rejected is None and slowdown is not None and abs(slowdown) > rules.max_slowdown:
            way = "slower" if slowdown > 0 else "faster"
            rejected = f"the machine was {abs(slowdown):.0%} {way} than usual"
        found.append(replace(run, rejected=rejected))
    return found


def planned(folder: Path) -> Campaign:
    """The plan that a directory was begun with.

    Raises:
        InputError: If the directory holds no campaign.
    """
    head = folder / "campaign.json"
    document = read_json(head, CAMPAIGN_FORMAT)
    if not isinstance(document.get("campaign"), dict):
        raise InputError(f"{head}: campaign is missing")
    return make_campaign(str(head), document["campaign"])


def load_run(path: Path, campaign: Campaign) -> MeasuredRun:
    """Read one run of a campaign.

    Raises:
        InputError: If it cannot be read or lacks something.
    """
    document = read_json(path, RUN_FORMAT)
    try:
        return MeasuredRun(
            path,
            campaign.workload(document["workload"]),
            document["number"],
            document["rejected"],
            document["wall_s"],
            document["disturbance"],
            Table(document["questions"]),
            Table(document["calls"]),
            document,
        )
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing") from None
