"""The running store: its backend, its connection to the server, and its two ports."""

import asyncio
import gc
import logging
import os
import signal
from contextlib import AsyncExitStack

from inference_store.backends import Backend, Memory
from inference_store.directory import Directory, RecordFiles
from inference_store.grpc_server import Streams, grpc_server
from inference_store.http_server import http_server
from inference_store.settings import OFF, Settings, SettingsError
from inference_store.store import Mode, Store
from inference_store.target import Target

log = logging.getLogger(__name__)

_COLLECT_AFTER = 10_000


def backend_of(settings: Settings) -> Backend:
    """Return the backend with the records.

    Raises:
        SettingsError: The backend cannot be used.
    """
    if settings.backend == "memory":
        return Memory(settings.backend_bytes)
    if settings.backend == "directory":
        return Directory(_files(settings))
    try:
        from inference_store.redis_backend import RedisBackend
    except ImportError as error:
        raise SettingsError(
            f"--backend {settings.backend}: needs the package redis: pip install redis"
        ) from error
    try:
        return RedisBackend(
            settings.backend, ttl=settings.ttl, limit=settings.backend_bytes, compress=settings.compress
        )
    except ValueError as error:
        raise SettingsError(f"--backend {settings.backend}: {error}") from error


def _files(settings: Settings) -> RecordFiles:
    path = settings.path
    if settings.mode is Mode.SERVE:
        if not path.is_dir():
            raise SettingsError(f"--path {path}: no such directory; there is nothing to serve")
    else:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--path {path}: {error.strerror}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            if settings.mode is Mode.COLLECT:
                raise SettingsError(f"--path {path}: is not writable, so nothing can be collected")
            log.error("%s is not writable: answers are passed on and not recorded", path)
    files = RecordFiles(path, compress=settings.compress)
    for name in files.remove_unfinished():
        log.info("removed %s, which a process that died had left", name)
    return files


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish the requests in flight.

    Raises:
        SettingsError: A setting cannot be used on this machine.
    """
    backend = backend_of(settings)
    target = None if settings.mode is Mode.SERVE else Target(str(settings.target), settings.timeout)
    store = Store(
        settings.mode,
        backend,
        target,
        matching=settings.matching,
        max_record_bytes=settings.max_record_bytes,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as running:
        running.push_async_callback(backend.close)
        if target is not None:
            running.push_async_callback(target.close)
        running.push_async_callback(store.drain)
        await _listen_grpc(running, settings, store)
        await _listen_http(running, settings, store)
        log.info(
            "mode %s, records in %s, target %s", settings.mode, _place(settings), settings.target or "none"
        )
        # A request leaves no reference cycles, and scanning the imported objects again and again would only
        # take time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 20, 10)
        await stopped.wait()
        log.info("stopping: what is in flight gets %g s", settings.grace)


async def _listen_grpc(running: AsyncExitStack, settings: Settings, store: Store) -> None:
    streams = Streams(store)
    try:
        server, port = grpc_server(store, streams, settings.listen, settings.max_message_bytes)
    except OSError as error:
        raise SettingsError(f"--listen {settings.listen}: cannot be listened on: is it in use?") from error
    await server.start()

    async def stop() -> None:
        streams.stop()
        await server.stop(settings.grace)

    running.push_async_callback(stop)
    log.info("gRPC on %s:%d", settings.listen.rpartition(":")[0], port)


async def _listen_http(running: AsyncExitStack, settings: Settings, store: Store) -> None:
    if settings.http_listen == OFF:
        return
    try:
        server, listening = http_server(
            store, settings.http_listen, settings.max_message_bytes, settings.grace
        )
    except OSError as error:
        raise SettingsError(f"--http-listen {settings.http_listen}: {error.strerror}") from error
    serving = asyncio.create_task(server.serve(sockets=[listening]))

    async def stop() -> None:
        server.should_exit = True
        await serving

    running.push_async_callback(stop)
    log.info("HTTP on %s:%d", settings.http_listen.rpartition(":")[0], listening.getsockname()[1])


def _place(settings: Settings) -> str:
    return (
        str(settings.path)
        if settings.backend == "directory"
        else settings.backend.partition("@")[2] or settings.backend
    )
