"""The command line: `ttcsim VERB ...`. Tables for people on stdout, logs on stderr.

Exit codes: 0 success, 1 the simulation could not go on, 2 bad input, 3 no feasible plan.
"""

import sys

import click
import typer

from ttcsim.cli import catalogue, run
from ttcsim.errors import InputError, NoFeasiblePlanError

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
app.command()(catalogue.profiles)
app.command()(catalogue.models)
app.command()(catalogue.traces)
app.command()(catalogue.strategies)


def main() -> None:
    """Run the command line; every failure is one line on stderr."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        code = _fail(error.format_message(), 2)
    except InputError as error:
        code = _fail(str(error), 2)
    except NoFeasiblePlanError as error:
        code = _fail(str(error), 3)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted", 130)
    except RuntimeError as error:
        if type(error).__name__ != "StuckError":  # its module is heavy to import
            raise
        code = _fail(str(error), 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    print(f"ttcsim: {' '.join(message.split())}", file=sys.stderr)
    return code
