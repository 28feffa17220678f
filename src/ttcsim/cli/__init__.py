"""The command line: `ttcsim VERB ...`. Tables for people on stdout, logs on stderr.

Exit codes: 0 success, 1 the simulation could not go on or a check failed, 2 bad input, 3 no plan
meets the objectives.
"""

import os
import sys
from typing import cast

import typer

from ttcsim.cli import catalogue, check, estimate, measured, plan, run, whatif
from ttcsim.errors import InputError, StuckError

app = typer.Typer(
    name="ttcsim",
    help="What test-time compute costs: seconds, tokens, joules and dollars per question.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(run.simulate)
app.command()(run.compare)
app.command()(estimate.estimate)
app.command()(plan.plan)
app.command()(whatif.whatif)
app.command()(measured.measure)
app.command()(measured.calibrate)
app.command()(measured.validate)
app.command()(catalogue.profiles)
app.command()(catalogue.models)
app.command()(catalogue.traces)
app.command()(catalogue.strategies)
app.command()(check.conformance)


# Typer brings a click of its own, whose base exception has no public name.
_ClickError = cast(type[Exception], typer.BadParameter.__mro__[2])


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run() -> int:
    """Run the command line; every failure is one line on stderr."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as error:
        code = error.exit_code
    except _ClickError as error:
        code = _usage(error)
    except InputError as error:
        code = _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", 130)
    except StuckError as error:
        code = _fail(str(error), 1)
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> int:
    message = error.format_message()  # type: ignore[attr-defined]
    if message.startswith("Usage:"):  # no arguments at all: help is what was wanted
        print(message)
        return 2
    return _fail(message, 2)


def _fail(message: str, code: int) -> int:
    print(f"ttcsim: {' '.join(message.split())}", file=sys.stderr)
    return code
