"""The command line: `python -m admodels COMMAND --help`."""

import errno

import typer

import admodels
from admodels.cli import deploy, hub, saved
from admodels.cli.benchmark import benchmark
from admodels.cli.compare import compare
from admodels.cli.distill import distill
from admodels.cli.evaluate import evaluate
from admodels.cli.fit import fit, predict
from admodels.cli.publish import publish
from admodels.cli.serve import serve
from admodels.cli.terminal import INTERRUPTED, complain, lenient_output
from admodels.cli.watch import watch
from admodels.runtime.memory import keep_freed_memory

app = typer.Typer(
    help="Industrial visual anomaly detection: fit on pictures of good parts, then score others.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (fit, predict, evaluate, compare, benchmark, distill):
    app.command()(command)
app.command("list")(saved.list_command)
for command in (saved.show, saved.threshold, saved.delete, saved.options):
    app.command()(command)
app.command()(serve)
app.command()(watch)
app.command()(deploy.export)
app.command()(deploy.page)
app.command("compare-runtimes")(deploy.compare_runtimes)
for command in (hub.push, publish, hub.pull, hub.search, hub.verify):
    app.command()(command)


def main() -> None:
    """Run the command line; what a user can act on is printed as one message, without a traceback."""
    keep_freed_memory()
    lenient_output()
    try:
        app()
    except admodels.AdmodelsError as error:
        complain(str(error))
        raise SystemExit(1) from error
    except OSError as error:
        if error.errno is None:  # not of the system: a mistake of ours
            raise
        if error.errno == errno.EPIPE:  # who reads the output has seen enough
            raise SystemExit(1) from error
        complain(f"{error}. Check the path, its permissions and the free space.")
        raise SystemExit(1) from error
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            complain("by Ctrl-C.", "Stopped", "bold")
        raise
