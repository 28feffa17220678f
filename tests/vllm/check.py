"""Is our schedule that of the vLLM in this environment? Fresh workloads, and a live engine.

Random workloads run through vLLM's own scheduler; what it decided is replayed on ours in every way
of `ttcsim conformance`. Then a real engine runs a small model, and its schedule is replayed, too.
Exit code 1 at the first difference, which is printed with both sides.
"""

import argparse
import json
import multiprocessing
import os
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
import generate
import live
import oracle
import vllm

from ttcsim.analysis.conformance import VARIANTS, ConformanceReport, VariantReport
from ttcsim.analysis.golden import Golden
from ttcsim.analysis.replay import Replay, Variant, replay


@dataclass(frozen=True)
class Checked:
    """How one workload fared in every way of running it that covers it.

    `document` is the encoded golden file if something differs; `missing` says why this release
    could not run the workload.
    """

    seed: int
    large: bool
    name: str
    steps: int = 0
    replays: tuple[tuple[Variant, Replay], ...] = ()
    document: bytes | None = None
    missing: str | None = None

    @property
    def identical(self) -> bool:
        """Whether it ran and nothing differs."""
        return self.document is None and self.missing is None


def check_workload(job: tuple[int, bool]) -> Checked:
    """Record one random workload with vLLM's scheduler and replay it on ours."""
    seed, large = job
    workload = generate.make(seed, large)
    try:
        raw = oracle.encode(oracle.record(workload))
    except oracle.MissingSettingError as error:
        return Checked(seed, large, workload["name"], missing=str(error))
    golden = Golden(json.loads(raw))
    replays = replay_all(golden)
    same = all(outcome.difference is None for _, outcome in replays)
    document = None if same else raw
    return Checked(seed, large, golden.name, len(golden.steps), replays, document)


def replay_all(golden: Golden) -> tuple[tuple[Variant, Replay], ...]:
    """Replay a schedule in every way that covers it."""
    return tuple((v, replay(golden, v)) for v in VARIANTS if v.covers(golden))


def report(outcomes: list[tuple[Variant, Replay]]) -> ConformanceReport:
    """The report that `ttcsim conformance` would print."""
    return ConformanceReport(
        tuple(
            VariantReport(variant, tuple(found for way, found in outcomes if way == variant))
            for variant in VARIANTS
        )
    )


# -- workloads -------------------------------------------------------------------------------------


def check_workloads(options: argparse.Namespace) -> bool:
    """Check random workloads; return whether all are identical."""
    checked: list[Checked] = []
    for found in _in_parallel(options):
        checked.append(found)
        if not found.identical and not options.keep_going:
            break
    checked.sort(key=lambda one: (not one.large, one.seed))
    print(report([outcome for one in checked for outcome in one.replays]))
    for reason in sorted({one.missing for one in checked if one.missing}):
        count = sum(one.missing == reason for one in checked)
        print(f"{reason}: {count} workloads not run")
    if different := [one for one in checked if one.document is not None]:
        _keep(different, options.out)
    identical = sum(one.identical for one in checked)
    steps = sum(one.steps for one in checked if one.identical)
    print(f"identical {identical}/{len(checked)} workloads, {steps} steps", flush=True)
    return identical == len(checked) == options.count


def _in_parallel(options: argparse.Namespace) -> Iterator[Checked]:
    """Check the workloads in child processes, the large ones first, as they take longest."""
    jobs = [(options.seed + k, k < options.large) for k in range(options.count)]
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        yield from pool.imap_unordered(check_workload, jobs)


def _keep(different: list[Checked], out: Path) -> None:
    """Write the golden files that differ, and say how to see the first difference again."""
    for one in different:
        assert one.document is not None
        oracle.write(one.document, out / f"{one.name}.json.gz")
    first = different[0]
    print(f"ttcsim conformance {out / first.name}.json.gz shows the difference again")
    print(f"to record it again: --count 1 --seed {first.seed} --large {int(first.large)}")


# -- the live engine -------------------------------------------------------------------------------


def check_engine(options: argparse.Namespace) -> bool:
    """Check a run of a real engine; return whether it is identical."""
    log = options.out / "live.jsonl"
    live.run_engine(options.seed, log)
    golden = live.load_live(log)
    result = report(list(replay_all(golden)))
    if not result.identical:
        print(f"{result}\nrecorded run: {log}")
        return False
    preemptions = sum(len(step.get("preempt", ())) for step in golden.steps)
    hits = sum(sum(step.get("admit", {}).values()) for step in golden.steps)
    total = len(golden.steps)
    print(
        f"live engine: identical {total}/{total} steps, {preemptions} preemptions, "
        f"{hits} cache-hit tokens"
    )
    if not (preemptions and hits):
        print("but without preemptions and cache hits this says little: look at live.py")
    return bool(preemptions and hits)


def main() -> int:
    options = _options()
    print(
        f"vLLM {vllm.__version__}, base seed {options.seed}: {options.count} random workloads, "
        f"{options.large} of them large",
        flush=True,
    )
    start = time.monotonic()
    same = check_workloads(options)
    if same or options.keep_going:
        same = check_engine(options) and same
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if same else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="compare our schedule with vLLM's")
    parser.add_argument("--count", type=int, default=320, help="random workloads")
    parser.add_argument("--large", type=int, default=16, help="how many of them are large")
    parser.add_argument("--seed", type=int, help="of the first workload (default: a random one)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a difference")
    parser.add_argument("--out", type=Path, default=Path("out/vllm"), help="for what differs")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = secrets.randbelow(10**9)
    return options


if __name__ == "__main__":
    sys.exit(main())
