"""`python -m inference_store`: serve, collect, auto run a store; ls, show, verify, prune manage records."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from inference_store.backends import BackendUnavailable
from inference_store.commands import CommandError, add_commands, run_command
from inference_store.service import run
from inference_store.settings import SettingsError, add_options, read_settings
from inference_store.store import Mode

_NAME = "python -m inference_store"
_MODES = {
    Mode.AUTO: "replay what is recorded, pass on and record the rest (the default)",
    Mode.SERVE: "replay alone: what is not recorded is an error",
    Mode.COLLECT: "always ask the server, and record",
}


def command_line() -> argparse.ArgumentParser:
    """Make the parser of a command line that begins with a mode or a command."""
    made = argparse.ArgumentParser(
        prog=_NAME, description="Record a Triton once, replay it everywhere.", epilog="Without COMMAND: auto."
    )
    parsers = made.add_subparsers(metavar="COMMAND", required=True)
    for mode, text in _MODES.items():
        store = parsers.add_parser(mode, help=text, description=text)
        store.set_defaults(command=None, mode=mode.value)
        add_options(store)
    add_commands(parsers)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run a command or a store, and return the exit status."""
    if arguments and (not arguments[0].startswith("-") or arguments[0] in ("-h", "--help")):
        parsed = command_line().parse_args(arguments)
    else:
        # Without a command, the mode comes from `--mode`, the environment or the file.
        options_alone = argparse.ArgumentParser(prog=_NAME)
        options_alone.set_defaults(command=None)
        add_options(options_alone)
        parsed = options_alone.parse_args(arguments)
    try:
        if parsed.command is not None:
            return run_command(parsed)
        options = {name: value for name, value in vars(parsed).items() if name != "command"}
        settings = read_settings(options, os.environ)
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        )
        asyncio.run(run(settings))
    except (SettingsError, CommandError, BackendUnavailable) as error:
        sys.stderr.write(f"inference_store: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
