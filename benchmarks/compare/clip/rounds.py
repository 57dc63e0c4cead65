"""One round: the towers in process, then every server in turn, alone on the machine, under the same loads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import processes
from benchmarks.compare.clip import stress
from benchmarks.compare.clip.contestants import (
    DIRECTORY,
    MODEL,
    REPOSITORY,
    WATCHED,
    for_images,
    image_requests,
)
from benchmarks.compare.clip.inputs import Inputs, sample, uris
from benchmarks.compare.clip.targets import LOADS
from benchmarks.compare.rounds import LEAST_COSINE, describe, grouped, in_process, measure, say
from benchmarks.compare.servers import Running, Server, ServerFailed, running
from benchmarks.compare.targets import Load
from benchmarks.loadtest.raw_http import closed_loop
from triton_models.calls import image_request
from triton_models.names import clip_served_names
from triton_models.repository import Repository

LEAST_CENTRED = 0.9
"""Vectors of a random tower lie close together: their distance from the reference's mean is compared too."""

CAPTIONS, CAPTIONS_BULK, IMAGES = 30_000, 60_000, 1500
"""Made for one load; it ends early with them."""

Measures = dict[str, dict[str, Any]]


def run_round(servers: Sequence[Server], number: int, seconds: float) -> Measures:
    """Measures by contestant and load; what failed has the reason under `failure`."""
    inputs = Inputs(number)
    share = seconds / 3
    say(f"round {number}: open_clip in process")
    arguments = [str(DIRECTORY), str(number), str(share)]
    open_clip = in_process("", ["-m", "benchmarks.compare.clip.in_process", "open_clip", *arguments])
    say(f"  {open_clip['images']['best']:.1f} images/s, {open_clip['captions']:.0f} captions/s")
    say(f"round {number}: the text tower with fixed 77 tokens on ONNX Runtime in process")
    fixed = in_process("", ["-m", "benchmarks.compare.clip.in_process", "fixed77", *arguments])
    say(f"  {fixed['best']:.1f} captions/s")
    measures: Measures = {
        "open_clip": {"images": open_clip["images"], "captions": {"rate": open_clip["captions"]}},
        "fixed77": {"texts": fixed},
    }
    for server in servers:
        measures[server.name] = run_server(server, number, inputs, seconds)
        if server.ours:
            measures["ours"] |= _strains(number, inputs, seconds)
            say(f"round {number}: the engines in process")
            version = Repository(REPOSITORY).version_dir(clip_served_names(**MODEL).image)
            command = ["-m", "benchmarks.compare.clip.in_process", "engine", *arguments, str(version)]
            measures["engine"] = {"images": in_process("", command)}
            say(f"  {measures['engine']['images']['best']:.1f} images/s")
    return measures


def run_server(server: Server, number: int, inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Start it, check its vectors, apply the loads."""
    say(f"round {number}: {server.title}")
    found: dict[str, Any] = {}
    try:
        with running(server) as up:
            found["agreement"] = agreement(up)
            for load in LOADS:
                found[load.name] = run_load(load, up, inputs, seconds)
                said = describe(found[load.name])
                say(f"  {load.title}: {said.replace('texts', load.texts)}")
    except (ServerFailed, OSError) as error:
        found["failure"] = str(error) or repr(error)
        say(f"  did not run: {found['failure'][-300:]}")
    if server.ours:
        found["wire"] = {"bytes": wire_bytes()}
    return found


def _strains(number: int, inputs: Inputs, seconds: float) -> dict[str, Any]:
    say(f"round {number}: this server with a clock on its event loop")
    try:
        with running(WATCHED) as up:
            found = {"stall": stress.stall(up, inputs, seconds), "memory": stress.memory(up, inputs)}
    except (ServerFailed, OSError) as error:
        reason = {"failure": str(error) or repr(error)}
        return {"stall": reason, "memory": reason}
    say(f"  stall: {found['stall']}\n  memory: {found['memory']}")
    return found


def agreement(up: Running) -> dict[str, Any]:
    """The least cosines to open_clip, of captions and images, as they are and from the reference's mean."""
    compared, reference = sample(), np.load(DIRECTORY / "reference.npz")
    made = {"text": up.embed(compared.captions), "image": for_images(up).embed(uris(compared.images))}
    found: dict[str, Any] = {}
    for name, vectors in made.items():
        wanted = reference[name]
        centre = wanted.mean(0)
        found[name] = {
            "least_cosine": _least(vectors, wanted),
            # Some servers scale to unit length: brought back to the reference's.
            "least_cosine_centred": _least(_as_long_as(vectors, wanted) - centre, wanted - centre),
        }
    say(f"  least cosines to open_clip: {found}")
    least = min(one["least_cosine"] for one in found.values())
    centred = min(one["least_cosine_centred"] for one in found.values())
    return {**found, "least_cosine": least, "agrees": least >= LEAST_COSINE and centred >= LEAST_CENTRED}


def _least(vectors: NDArray[Any], wanted: NDArray[Any]) -> float:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((vectors * wanted).sum(1) / norms).min())


def _as_long_as(vectors: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    scale = np.linalg.norm(wanted, axis=1, keepdims=True) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors * scale)


def run_load(load: Load, up: Running, inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Warm up, then measure one load, with what the front end's process spent meanwhile."""
    if load.texts == "images":
        requests = image_requests(up, inputs.images(IMAGES))
    else:
        number = CAPTIONS if load.texts_per_request == 1 else CAPTIONS_BULK
        groups = grouped(inputs.captions(number), load.texts_per_request)
        requests = [up.server.dialect.request(group) for group in groups]
    warm_up = max(load.connections, len(requests) // 10)
    closed_loop(up.port, requests[:warm_up], load.connections, max(1.0, seconds / 4))
    cpu = processes.cpu_seconds(up.pid)
    outcome = closed_loop(up.port, requests[warm_up:], load.connections, seconds)
    return measure(outcome, load.texts_per_request, processes.cpu_seconds(up.pid) - cpu)


def wire_bytes() -> int:
    """What the front end sends to Triton as the content of one image."""
    name = clip_served_names(**MODEL).image
    manifest = Repository(REPOSITORY).manifest(name)
    assert manifest.image is not None
    pixels = np.zeros((1, manifest.image.height, manifest.image.width, 3), np.uint8)
    return len(image_request(name, manifest.version, pixels).raw_input_contents[0])
