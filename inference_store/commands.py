"""The subcommands on a directory of records: ls, show, verify, prune."""

import argparse
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from inference_store.directory import DAMAGED, RecordFiles
from inference_store.identity import describe, describe_call, identity
from inference_store.protocol import INFER, METHODS, STREAM, InferRequest
from inference_store.record import Record, UnreadableRecord, decode

COMMANDS = {
    "ls": "one line a record",
    "show": "one record's index, and its tensors with --tensors",
    "verify": "read every record whole; status 1 where one is not what it should be",
    "prune": "remove records",
}


class CommandError(ValueError):
    """The command cannot be done; the message is one line."""


def add_commands(parsers: Any) -> None:  # noqa: ANN401 - argparse's own is private
    """Add a parser for each command."""
    for name, text in COMMANDS.items():
        parser = parsers.add_parser(name, help=text, description=text)
        parser.add_argument(
            "--path", type=Path, default=Path("inference_files"), help="directory of the records"
        )
        parser.set_defaults(command=name)
        if name == "show":
            parser.add_argument("key", help="the record's SHA-256, or its beginning")
            parser.add_argument("--tensors", action="store_true", help="the messages too, as JSON")
        if name in ("ls", "prune"):
            parser.add_argument("--model", help="of this model alone")
        if name == "prune":
            parser.add_argument(
                "--older-than", type=_age, help="recorded longer ago than 30d, 12h or 5m", metavar="AGE"
            )
            parser.add_argument("--errors", action="store_true", help="recorded errors")
            parser.add_argument("--damaged", action="store_true", help="what was set aside as damaged")
            parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def run_command(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit status.

    Raises:
        CommandError: The command cannot be done.
    """
    if not arguments.path.is_dir():
        raise CommandError(f"{arguments.path}: no such directory")
    files = RecordFiles(arguments.path)
    if arguments.command == "ls":
        return _ls(files, arguments.model)
    if arguments.command == "show":
        return _show(files, arguments.key, tensors=arguments.tensors)
    if arguments.command == "verify":
        return _verify(files)
    return _prune(files, arguments)


def _ls(files: RecordFiles, model: str | None) -> int:
    status = 0
    for key in sorted(files.keys()):
        try:
            index = files.index(key)
        except (UnreadableRecord, OSError) as error:
            _say(f"{key[:12]}  {error}")
            status = 1
            continue
        request, answer = index["request"], index["answer"]
        if model is None or request.get("model") == model:
            inputs = " ".join(
                f"{each['name']}:{each['datatype']}{each['shape']}" for each in request.get("inputs", [])
            )
            words = [
                key[:12],
                index["recorded"],
                f"{index['took_ms']:.1f}ms",
                request["method"],
                request.get("model", "-"),
            ]
            _say("  ".join([*words, request.get("version", "-"), answer["status"], inputs]).rstrip())
    return status


def _show(files: RecordFiles, beginning: str, *, tensors: bool) -> int:
    record, index = _one(files, beginning)
    _say(json.dumps(index, indent=2, ensure_ascii=False))
    if tensors:
        method = METHODS[record.description["method"]]
        _say(f"request:\n{method.request.FromString(record.request)}")
        for answer in record.outcome.answers:
            _say(f"answer:\n{method.answer.FromString(answer)}")
    return 0


def _one(files: RecordFiles, beginning: str) -> tuple[Record, dict[str, Any]]:
    found = [key for key in sorted(files.keys()) if key.startswith(beginning)]
    if len(found) != 1:
        raise CommandError(f"{len(found) or 'no'} records begin with {beginning}")
    try:
        return decode(files.file(found[0]).read_bytes(), found[0]), files.index(found[0])
    except (UnreadableRecord, OSError) as error:
        raise CommandError(str(error)) from error


def _verify(files: RecordFiles) -> int:
    """Check all records and name the damaged ones; they stay where they are."""
    wrong, keys = 0, sorted(files.keys())
    for key in keys:
        try:
            _check(decode(files.file(key).read_bytes(), key))
        except (UnreadableRecord, OSError) as error:
            _say(str(error))
            wrong += 1
    for file in sorted(files.path.glob(f"*{DAMAGED}")):
        _say(f"{file.name} was set aside as damaged")
        wrong += 1
    for name in files.foreign():
        _say(f"{name} is no record")
    _say(f"{len(keys)} records, {wrong} damaged or unreadable")
    return 1 if wrong else 0


def _check(record: Record) -> None:
    """Compute the record's identity again from the request in it.

    Raises:
        UnreadableRecord: The identity is not the record's name.
    """
    method = record.description["method"]
    request = METHODS[method].request.FromString(record.request)
    if method in (INFER, STREAM):
        description = describe(InferRequest.FromString(record.request), method)
        if "after" in record.description:
            description["after"] = record.description["after"]
    else:
        description = describe_call(method, request)
    if identity(description) != record.key:
        raise UnreadableRecord(f"record {record.key} does not hold the request that it is named by")


def _prune(files: RecordFiles, arguments: argparse.Namespace) -> int:
    if not (arguments.model or arguments.older_than or arguments.errors or arguments.damaged):
        raise CommandError("prune needs --model, --older-than, --errors or --damaged")
    doomed = sorted(files.path.glob(f"*{DAMAGED}")) if arguments.damaged else []
    if arguments.model or arguments.older_than or arguments.errors:
        for key in sorted(files.keys()):
            try:
                index = files.index(key)
            except UnreadableRecord as error:
                _say(f"{error}; left alone")
                continue
            if _is_doomed(index, arguments):
                doomed.append(files.file(key))
    for file in doomed:
        if not arguments.dry_run:
            file.unlink(missing_ok=True)
        _say(f"{'would remove' if arguments.dry_run else 'removed'} {file.name}")
    return 0


def _is_doomed(index: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Return whether a record meets all the given conditions."""
    if arguments.model and index["request"].get("model") != arguments.model:
        return False
    if arguments.errors and index["answer"]["status"] == "OK":
        return False
    recorded = datetime.fromisoformat(index["recorded"])
    return not arguments.older_than or datetime.now(UTC) - recorded > arguments.older_than


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError("must be a number and s, m, h or d, as in 30d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
