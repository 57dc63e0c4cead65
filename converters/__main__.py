"""Convert one model and install it.

    python -m converters sentence-transformer NAME --output DIR
    python -m converters clip NAME PRETRAINED --output DIR

For programs there is `--progress json`: one JSON object per line on stdout, of which the last is
`{"result": ...}` or `{"error": KIND, "message": ...}`. Everything for people goes to stderr.
"""

import argparse
import gc
import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, get_args

from converters.causes import is_disk_full, is_out_of_memory
from converters.clip import pipeline as clip
from converters.errors import ConversionError, InvalidModel, NoMemory, NoSpace, describe
from converters.job import Request
from converters.progress import BarProgress, JsonProgress, Progress
from converters.sentence_transformer import pipeline as sentence_transformer
from converters.verification.budget import check_seconds
from triton_models.contract.accuracy import Precision
from triton_models.contract.names import InvalidModelName

_NO_MEMORY = "the conversion needs more memory than there is; free some, or convert where there is more"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit status: 0 after a conversion, 1 after an error."""
    options = _parser().parse_args(arguments)
    _be_first_to_go()
    collect_seldom()
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    # Libraries print to stdout, and their output must not mix with the lines of the protocol.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # torch reads this when it is imported. Threads that spin while they wait take cores from the processes
    # that serve. On busy cores they wait for each other: a step of about a second then took up to 29 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    progress: Progress = JsonProgress(stream) if options.progress == "json" else BarProgress(stream)
    if (problem := _problem_of_settings()) is not None:
        progress.result({"error": ConversionError.kind, "message": problem})
        return 1
    request = Request(
        model_name=options.name,
        output=options.output,
        revision=getattr(options, "revision", None),
        sources=[Path(directory) for directory in options.sources.split(os.pathsep) if directory],
        trust_remote_code=getattr(options, "trust_remote_code", False),
        threads=options.threads,
        locked=options.locked,
        beside=options.beside,
        precision=options.precision,
    )
    return _run(request, getattr(options, "pretrained", None), progress)


def _run(request: Request, pretrained: str | None, progress: Progress) -> int:
    """Convert, and report the result or the error; errors become messages to the caller only here."""
    try:
        if pretrained is None:
            converted = sentence_transformer.run(request, progress)
        else:
            converted = clip.run(request, pretrained, progress)
        outcome = {
            "triton_names": list(converted),
            "versions": [manifest.version for manifest in converted.values()],
            "min_cosine": [manifest.check.get("min_cosine") for manifest in converted.values()],
        }
    except InvalidModelName as error:
        progress.result({"error": "not_found", "message": str(error)})
    except ConversionError as error:
        traceback.print_exc()
        if is_out_of_memory(error):
            progress.result({"error": NoMemory.kind, "message": _NO_MEMORY})
        else:
            progress.result({"error": error.kind, "message": str(error)})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the caller must get an answer, whatever happens
        traceback.print_exc()
        progress.result(_unforeseen(error))
    else:
        progress.result({"result": outcome})
        return 0
    return 1


def _unforeseen(error: BaseException) -> dict[str, object]:
    """Return the message to the caller for an error that no code foresees."""
    if not isinstance(error, Exception):
        message = "a library failed on the model's files without an error of its own; they are broken"
        return {"error": InvalidModel.kind, "message": message}
    if is_disk_full(error):
        return {"error": NoSpace.kind, "message": "there is no room on the disk for the conversion"}
    if is_out_of_memory(error):
        return {"error": NoMemory.kind, "message": _NO_MEMORY}
    message = f"the server itself failed in the conversion, not the model: {describe(error)}"
    return {"error": "internal", "message": message}


def _problem_of_settings() -> str | None:
    """Return why a variable cannot be used here, before the long work; None if all can."""
    try:
        check_seconds()
    except ValueError as error:
        return f"CHECK_SECONDS: {error}"
    engine = os.environ.get("ENGINE", "auto")
    if engine == "auto":
        return None
    from triton_models.backends.onnxruntime.sessions import problem_of

    problem = problem_of(engine)
    return problem and f"ENGINE: {problem}"


def _be_first_to_go() -> None:
    """Make the kernel kill this process, and none that serves, when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m converters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="family", required=True)
    command = commands.add_parser("sentence-transformer", help="a text model")
    command.add_argument("name", help="the model's name, 'name' or 'owner/name'")
    command.add_argument("--revision", help="branch, tag or commit on the Hub")
    command.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that the model brings along; never for a request",
    )
    _add_common(command)
    command = commands.add_parser("clip", help="a model of open_clip: text and images")
    command.add_argument("name", help="open_clip's name of the architecture, or 'hf-hub:owner/name'")
    command.add_argument(
        "pretrained",
        nargs="?",
        default="",
        help="open_clip's tag, or the name of a checkpoint file in a source directory; none for 'hf-hub:'",
    )
    _add_common(command)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--precision", choices=get_args(Precision), default="fp32", help="of the weights; fp16 is for GPUs"
    )
    command.add_argument("--output", type=Path, required=True, help="the model repository's directory")
    command.add_argument(
        "--sources",
        default=os.environ.get("MODEL_SOURCES", ""),
        help="directories that hold models by name, ':'-separated; $MODEL_SOURCES by default",
    )
    command.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of the engine in the check; as in serving"
    )
    command.add_argument("--progress", choices=("json", "bar"), default="bar")
    command.add_argument("--locked", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)


def collect_seldom() -> None:
    """Make garbage collection rare during a conversion.

    Nearly all objects of torch, its exporter and the libraries live until the end. Scanning them again and
    again took a quarter of the time of a small model and freed hardly any memory.
    """
    gc.set_threshold(100_000, 50, 100)


def _end(status: int) -> NoReturn:
    """Exit at once: everything is reported and closed, and unloading the libraries takes seconds."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main())
