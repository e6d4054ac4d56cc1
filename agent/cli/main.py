"""The `qeil` command: names its subcommands without importing them, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from agent import __version__
from agent.cli import failures
from agent.errors import ConfigError, QeilError

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
"""What other packages would add to the validation of settings is not wanted, and looking for it takes time."""
EXIT_FAILED = 1
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h; systemd does not restart on it (RestartPreventExitStatus=78)."""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("agent.cli.run:run_command", "Run the agent in the foreground."),
    "check": ("agent.cli.check:check_command", "Check settings, policies, device profiles and scenarios."),
    "schema": ("agent.cli.schema:schema_command", "Print the JSON Schema of a file, for editors."),
    "doctor": ("agent.cli.doctor:doctor_command", "Look for what is missing or wrong on this machine."),
    "detect": ("agent.cli.detect:detect_command", "Show this machine as a device profile."),
    "calibrate": ("agent.cli.calibrate:calibrate_command", "Measure what this machine's accelerators achieve."),
    "heat": ("agent.cli.heat:heat_command", "Identify how a board warms and cools from a recording of it."),
    "models": ("agent.cli.models:models_command", "List, add and inspect models."),
    "plan": ("agent.cli.plan:plan_command", "Search placements of a model, on any board."),
    "explain": ("agent.cli.explain:explain_command", "Say why a model runs where it runs, down to the sources."),
    "simulate": ("agent.cli.simulate:simulate_command", "Compare placements of many models on boards, by a scenario."),
    "validate": ("agent.cli.validate:validate_command", "Compare predictions with a table of measurements."),
    "evaluate": ("agent.cli.evaluate:evaluate_command", "Score a served model and what repeated samples are worth."),
    "infer": ("agent.cli.infer:infer_command", "Send one request to the running agent."),
    "generate": ("agent.cli.generate:generate_command", "Write text with a decoder folder."),
    "status": ("agent.cli.status:status_command", "Show what the running agent is doing."),
    "top": ("agent.cli.top:top_command", "Watch the running agent live in the terminal."),
    "report": ("agent.cli.report:report_command", "Write a period of telemetry as an HTML page with plots."),
    "diag": ("agent.cli.diag:diag_command", "Pack what helps to find a fault, without secrets."),
    "fleet": ("agent.cli.fleet:fleet_command", "Keys, controller, boards and rollouts of a fleet."),
    "demo": ("agent.cli.demo:demo_command", "The whole product on this machine in a few minutes."),
}
"""Name → (module:attribute, one line for --help)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they run, so that `--help` and completion stay fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The imported command; None for an unknown name, which click turns into a usage error."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The list in --help, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qeil")
def cli() -> None:
    """Places, runs, guards and measures AI models on the accelerators of an edge board."""


def exit_code(error: QeilError) -> int:
    """78 for a wrong file or setting, 1 for everything else that failed."""
    return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0 ok, 1 failed, 2 usage, 78 configuration)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not _does_nothing(given):
        from agent.service import logs

        logs.configure("warning")  # stdout belongs to the command's own output
    as_json = "--json" in given
    try:
        result = cli.main(args=given, prog_name="qeil", standalone_mode=False)
    except QeilError as error:
        print(failures.line(error, as_json), file=sys.stderr)
        return exit_code(error)
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # none in click before 8.2
            print(error.format_message(), file=sys.stderr)
            return error.exit_code
        print(failures.line(error, as_json), file=sys.stderr)
        return error.exit_code
    except click.Abort:
        print("qeil: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; there is nobody to tell
        return EXIT_FAILED
    except OSError as error:
        # Whoever reads or writes a named file says so itself; what is left is our own output.
        where = f"{error.filename}: " if error.filename else "the output could not be written: "
        print(f"qeil: {where}{error.strerror or error}", file=sys.stderr)
        _forget_output()
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def _does_nothing(given: Sequence[str]) -> bool:
    """Whether help or a completion is asked for: nothing runs, so nothing logs, and nobody should wait for loggers."""
    return "_QEIL_COMPLETE" in os.environ or not {"-h", "--help", "--version"}.isdisjoint(given) or not given


def _forget_output() -> None:
    """What could not be written must not be tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
