"""The CLIP comparison by one command: `benchmarks/run clip`.

The command makes the model, installs infinity-emb, measures in rounds, and writes tables and JSON. Progress
goes to standard error, the tables to standard output.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.compare import command
from benchmarks.compare.clip import stress
from benchmarks.compare.clip.contestants import DIRECTORY, INFINITY, MODEL, OURS, STALL_SERVER
from benchmarks.compare.clip.targets import CLIP, LOADS
from benchmarks.compare.environments import in_process, output_of, python, say
from benchmarks.compare.inputs import SAMPLE_SEED, Inputs
from benchmarks.compare.rounds import run_server, version_directory
from benchmarks.compare.servers import Server, ServerFailed, running
from benchmarks.compare.targets import Round
from triton_models.client.requests import image_request
from triton_models.contract.names import clip_triton_names
from triton_models.repository.repository import Repository

_MODULE = "benchmarks.compare.clip.in_process"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = command.parser("benchmarks/run clip", "CLIP: compare with infinity-emb and the towers alone.")
    options = parser.parse_args(arguments)
    return command.run(CLIP, options, [OURS, INFINITY], _run_round, full=not options.quick)


def _make_model() -> None:
    """Make the checkpoint and its other forms, once."""
    made = DIRECTORY / "made"
    if not made.is_file():
        say("making ViT-B-32 with random weights, for transformers and with fixed 77 tokens too (once) ...")
        output_of([python(""), "-m", "benchmarks.compare.clip.model", DIRECTORY])
        made.touch()


def _run_round(servers: Sequence[Server], number: int, seconds: float) -> Round:
    """Measure the towers in process, every server, and the gateway under stress."""
    _make_model()
    arguments = (str(number), str(seconds / 3))
    say(f"round {number}: open_clip in process")
    open_clip = in_process(_MODULE, "open_clip", *arguments)
    say(f"  {open_clip['images']['best']:.1f} images/s, {open_clip['captions']:.0f} captions/s")
    say(f"round {number}: the text tower with fixed 77 tokens on ONNX Runtime in process")
    fixed = in_process(_MODULE, "fixed77", *arguments)
    say(f"  {fixed['best']:.1f} captions/s")
    measures: Round = {
        "open_clip": {"images": open_clip["images"], "captions": {"rate": open_clip["captions"]}},
        "fixed77": {"texts": fixed},
    }
    for server in servers:
        measures[server.name] = run_server(CLIP, server, LOADS, number, seconds)
        if server.ours and "failure" not in measures["ours"]:
            measures["ours"] |= {"wire": {"bytes": _wire_bytes()}, **_stress(number, seconds)}
            say(f"round {number}: the engines in process")
            version = version_directory(OURS.repository, clip_triton_names(**MODEL).image)
            measures["engine"] = {"images": in_process(_MODULE, "engine", *arguments, version)}
            say(f"  {measures['engine']['images']['best']:.1f} images/s")
    return measures


def _stress(number: int, seconds: float) -> dict[str, Any]:
    say(f"round {number}: this server with a clock on its event loop")
    inputs = Inputs(SAMPLE_SEED + number)
    try:
        with running(STALL_SERVER) as up:
            found = {"stall": stress.stall(up, inputs, seconds), "memory": stress.memory(up, inputs)}
    except (ServerFailed, OSError) as error:
        reason = {"failure": str(error) or repr(error)}
        return {"stall": reason, "memory": reason}
    say(f"  stall: {found['stall']}\n  memory: {found['memory']}")
    return found


def _wire_bytes() -> int:
    """Return the number of bytes that the gateway sends to Triton as the content of one image."""
    name = clip_triton_names(**MODEL).image
    manifest = Repository(OURS.repository).manifest(name)
    assert manifest.image is not None
    pixels = np.zeros((1, manifest.image.height, manifest.image.width, 3), np.uint8)
    return len(image_request(name, manifest.version, pixels).raw_input_contents[0])


if __name__ == "__main__":
    sys.exit(main())
