"""Break one scheduling rule at a time and see that the tests notice: `python tests/mutations.py`.

The rules are those of docs/scheduling.md that are easy to get wrong. Each is broken in a temporary
copy of the source tree, where the scheduler tests then run. Exit status 1 if any rule survives.
With `--by-hand` only the hand-worked tests run, without golden schedules and random workloads.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("simulator", "analysis", "hwprofiles", "workloads", "src", "tests", "pyproject.toml")
BY_HAND = ("tests/test_kv_cache.py", "tests/test_scheduler.py")
TESTS = (*BY_HAND, "tests/test_conformance.py", "tests/test_lockstep.py")
SCHEDULER = "simulator/scheduler.py"
KV_CACHE = "simulator/kv_cache.py"


@dataclass(frozen=True)
class Mutation:
    """A wrong rule, as replacements of text that must occur exactly once in the file."""

    wrong: str
    file: str
    replacements: tuple[tuple[str, str], ...]

    def apply(self, tree: Path) -> None:
        """Break the rule in a copy of the tree; ValueError if the text is not there once."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8")
        for old, new in self.replacements:
            if text.count(old) != 1:
                times = text.count(old)
                raise ValueError(f"{self.wrong}: {old!r} occurs {times} times in {self.file}")
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def kv_cache(wrong: str, *replacements: tuple[str, str]) -> Mutation:
    return Mutation(wrong, KV_CACHE, replacements)


def scheduler(wrong: str, *replacements: tuple[str, str]) -> Mutation:
    return Mutation(wrong, SCHEDULER, replacements)


MUTATIONS = (
    kv_cache(
        "freed blocks without a hash go to the back",
        ("free.unhashed += unhashed", "free.unhashed[:0] = unhashed[::-1]"),
        ("self.free.unhashed += blocks", "self.free.unhashed[:0] = blocks"),
    ),
    kv_cache(
        "free head to tail",
        ("for block in reversed(blocks):", "for block in blocks:"),
        ("self.free.unhashed += blocks", "self.free.unhashed += reversed(blocks)"),
    ),
    scheduler(
        "register hashes when a step completes",
        (
            "self._register(request, min(base + tokens, request.known)",
            "self._register(request, (0)",
        ),
        (
            "            request.inflight -= tokens\n",
            "            request.inflight -= tokens\n"
            "            if request.status is Status.RUNNING:\n"
            "                full = min(request.computed, request.known)\n"
            "                self._register(request, full // self.config.block_size)\n",
        ),
    ),
    scheduler(
        "a hit may cover the last known token", ("(request.known - 1) //", "request.known //")
    ),
    kv_cache("no null block", ("self.fresh = num_blocks - 1", "self.fresh = num_blocks")),
    scheduler(
        "adopting an idle cached block costs nothing", ("free -= pool.idle(hits)", "free -= 0")
    ),
    scheduler(
        "no full-sequence admission gate",
        ("if config.scheduler_reserve_full_isl and", "if False and"),
    ),
    scheduler(
        "admit waiting requests in a step that preempted",
        ("if not batch.preempted:", "if True:"),
    ),
    scheduler(
        "preempted request to the tail of the queue",
        ("self.waiting.appendleft(request)", "self.waiting.append(request)"),
    ),
    scheduler("watermark always applied", ("            if self.running:", "            if True:")),
    scheduler("long-prefill cap also for a lone request", ("requests <= 1", "requests < 1")),
    kv_cache(
        "lookup returns the newest duplicate", ("block[0] if isinstance", "block[-1] if isinstance")
    ),
    scheduler(
        "asynchronous: no max_tokens look-ahead skip",
        ("if request.hold and request.computed + 2", "if False and request.computed + 2"),
    ),
    scheduler(
        "asynchronous: resume without draining stale output",
        ("if request.stale > 0 or request.fetching:", "if request.fetching:"),
    ),
    scheduler(
        "no decode cadence with pipelining",
        ("if self._calls < request.next_eligible_step:", "if False:"),
    ),
    scheduler(
        "limit max_model_len - computed",
        ("config.max_model_len - request.computed - 1", "config.max_model_len - request.computed"),
    ),
    scheduler(
        "priority victim's tokens not returned to the budget",
        ("budget += batch.scheduled.pop(victim) + self._slots", "batch.scheduled.pop(victim)"),
    ),
    scheduler(
        "preempt the first of running",
        ("return next(reversed(self.running))", "return next(iter(self.running))"),
    ),
    scheduler(
        "round a chunk that the budget cuts to block multiples",
        (
            "        tokens = min(tokens, budget)\n",
            "        if tokens > budget:\n"
            "            tokens = budget // block_size * block_size\n"
            "        if not tokens:\n"
            "            return 0\n",
        ),
    ),
    scheduler(
        "finished requests reported and freed in another order",
        (
            "finished: list[Request] = []\n        for request, tokens in batch.scheduled.items():",
            "finished: list[Request] = []\n"
            "        for request, tokens in reversed(batch.scheduled.items()):",
        ),
    ),
)


def copy_tree(target: Path) -> None:
    """Copy what the tests need; the links between the rooms stay links."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "traces", "_compiled")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(source, target / name)


def run_tests(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    options = ("-x", "-q", "-p", "no:cacheprovider", "--no-header")
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def noticed_by(mutation: Mutation | None, tests: tuple[str, ...]) -> str | None:
    """Break a rule (None: none) and run the tests; return the first that fails, if any.

    Raises:
        RuntimeError: If the tests did not run at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        if mutation is not None:
            mutation.apply(tree)
        outcome = run_tests(tree, tests)
    if outcome.returncode == 0:
        return None
    failed = [line for line in outcome.stdout.splitlines() if line.startswith("FAILED")]
    if outcome.returncode != 1 or not failed:
        raise RuntimeError(outcome.stdout + outcome.stderr)
    return failed[0].removeprefix("FAILED ").split(" - ")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--by-hand", action="store_true", help="only the hand-worked tests")
    parser.add_argument("--jobs", type=int, default=2, help="mutations tried at a time")
    arguments = parser.parse_args()
    tests = BY_HAND if arguments.by_hand else TESTS
    if failing := noticed_by(None, tests):
        print(f"the unbroken tree fails already: {failing}")
        return 1
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda mutation: noticed_by(mutation, tests), MUTATIONS))
    for mutation, test in zip(MUTATIONS, results, strict=True):
        print(f"{'caught  ' if test else 'SURVIVED'}  {mutation.wrong}  {test or ''}".rstrip())
    caught = sum(test is not None for test in results)
    print(f"caught {caught}/{len(MUTATIONS)}")
    return 0 if caught == len(MUTATIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
