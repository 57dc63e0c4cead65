"""Record files: whole or not at all, damaged ones told and set aside, others left alone."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from inference_store.backends import CannotRecord
from inference_store.directory import ABANDONED_SECONDS, TEMPORARY, RecordFiles
from inference_store.record import DamagedRecord, NewerRecord, decode, encode
from tests.inference_store import made_record, processes
from tests.inference_store.made_record import record
from tests.inference_store.played_target import played
from tests.inference_store.test_modes import error, infer, request


@pytest.mark.parametrize("compress", [False, True])
def test_a_record_comes_back_as_it_was(compress: bool, tmp_path: Path) -> None:
    files, made = RecordFiles(tmp_path, compress=compress), record()
    files.write(made)
    assert RecordFiles(tmp_path).read(made.key) == made
    assert (files.file(made.key).stat().st_size < 900) is compress
    first = files.file(made.key).read_bytes()
    assert encode(made, compress=compress) == first


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    made = record()
    data = encode(made)
    spoilt = [data[:length] for length in range(0, len(data), 7)]
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        spoilt.append(bytes(changed))
    for each in [*spoilt, data + b"x", b"", b"something else"]:
        with pytest.raises((DamagedRecord, NewerRecord)):
            decode(each, made.key)
    with pytest.raises(DamagedRecord, match="it is the record"):
        decode(data, "0" * 64)


def test_a_damaged_record_is_set_aside_and_asked_anew(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "r"
    with played() as target, processes.store(log, "--target", target.url, "--path", str(path)) as store:
        infer(store.url, request(1))
        [file] = path.iterdir()
        good = file.read_bytes()
        file.write_bytes(good[:-1] + b"x")
        assert infer(store.url, request(1)).model_name == "m"
        assert target.asked["ModelInfer"] == 2
    assert decode(file.read_bytes(), file.stem)
    assert file.with_name(f"{file.name}.damaged").read_bytes() == good[:-1] + b"x"
    assert f"record {file.stem} is damaged: its checksum differs; set aside" in log.read_text()


def test_in_serve_a_damaged_record_is_no_miss(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "r"
    with played() as target, processes.store(log, "--target", target.url, "--path", str(path)) as store:
        infer(store.url, request(1))
    [file] = path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with processes.store(log, "serve", "--path", str(path)) as store:
        for _ in range(2):
            code, text = error(store.url, request(1))
            assert code == "DATA_LOSS"
            assert file.stem in text
            assert "set aside as" in text
    found = processes.run("verify", "--path", str(path))
    assert found.returncode == 1
    assert f"{file.name}.damaged" in found.stdout


def test_a_newer_record_is_left_alone(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "r"
    with played() as target:
        with processes.store(log, "--target", target.url, "--path", str(path)) as store:
            infer(store.url, request(1))
        [file] = path.iterdir()
        file.write_bytes(newer := file.read_bytes().replace(b"inference-store 1 ", b"inference-store 2 ", 1))
        with processes.store(log, "serve", "--path", str(path)) as store:
            code, text = error(store.url, request(1))
            assert code == "DATA_LOSS"
            assert "has format 2, this version reads up to 1: upgrade" in text
        with processes.store(log, "--target", target.url, "--path", str(path)) as store:
            infer(store.url, request(1))
            assert "not recorded: " in log.read_text()
    assert [each.read_bytes() for each in path.iterdir()] == [newer]


def test_foreign_files_do_not_matter(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "r"
    path.mkdir()
    (path / "README.md").write_text("recorded by hand")
    (path / "sub").mkdir()
    (path / f"{'a' * 64}.record").write_text("not a record")
    (path / f"{'b' * 64}.record").mkdir()
    with played() as target:
        with processes.store(log, "--target", target.url, "--path", str(path)) as store:
            infer(store.url, request(1))
        with processes.store(log, "serve", "--path", str(path)) as store:
            infer(store.url, request(1))
            assert error(store.url, request(2))[0] == "FAILED_PRECONDITION"
    found = processes.run("verify", "--path", str(path))
    assert "README.md is no record" in found.stdout
    assert f"record {'a' * 64} is damaged: it does not begin as a record" in found.stdout
    assert (path / "README.md").exists()


def test_a_directory_that_cannot_be_written(tmp_path: Path, log: Path) -> None:
    """As a user other than root, whom permissions do not hold back: a file in the place of the directory."""
    (tmp_path / "file").write_text("")
    with played() as target:
        refused = processes.run("collect", "--target", target.url, "--path", str(tmp_path / "file" / "r"))
        assert refused.returncode == 2
        assert "--path" in refused.stderr.splitlines()[-1]
        path = tmp_path / "r"
        with processes.store(log, "--target", target.url, "--path", str(path)) as store:
            path.rmdir()
            # The answer is there all the same, and the log says what is wrong.
            assert infer(store.url, request(1)).model_name == "m"
        assert "could not be written" in log.read_text()
        with processes.store(log, "collect", "--target", target.url, "--path", str(path)) as store:
            path.rmdir()
            code, text = error(store.url, request(1))
            assert code == "RESOURCE_EXHAUSTED"
            assert "could not be recorded" in text
    missing = processes.run("serve", "--path", str(tmp_path / "none"))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_a_read_only_directory(tmp_path: Path) -> None:
    files = RecordFiles(tmp_path)
    files.write(record())
    tmp_path.chmod(0o555)
    try:
        if os.geteuid() == 0:
            # Root may write anywhere: a read-only directory is played by one whose files cannot be made.
            assert files.read(record().key) is not None
            return
        with pytest.raises(CannotRecord, match="Permission denied"):
            files.write(record(2.0))
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files fails a write in its middle, as a full disk does."""
    files = RecordFiles(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(CannotRecord, match=os.strerror(errno.EFBIG)):
            files.write(record())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_what_a_dead_process_left_is_removed(tmp_path: Path, log: Path) -> None:
    old, new = tmp_path / f"{TEMPORARY}1-1", tmp_path / f"{TEMPORARY}1-2"
    for each in (old, new):
        each.write_text("half")
    long_ago = time.time() - ABANDONED_SECONDS - 10
    os.utime(old, (long_ago, long_ago))
    with processes.store(log, "serve", "--path", str(tmp_path)):
        assert [each.name for each in tmp_path.glob(".*")] == [new.name]


def test_a_record_over_the_limit_is_passed_on(tmp_path: Path, log: Path) -> None:
    options = ("--path", str(tmp_path / "r"), "--max-record-bytes", "10000")
    with played() as target, processes.store(log, "--target", target.url, *options) as store:
        infer(store.url, request(*range(5000)))
        infer(store.url, request(*range(50)))
    assert "max_record_bytes" in log.read_text()
    assert len(list((tmp_path / "r").iterdir())) == 1


def test_many_writers_of_one_directory(tmp_path: Path) -> None:
    # By its path: as a module it would bring in what all tests import.
    command = [sys.executable, made_record.__file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(processes.ROOT)}
    writers = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    files = RecordFiles(tmp_path)
    assert all(files.read(record(float(number)).key) for number in range(60))
    assert len(list(tmp_path.iterdir())) == 60


def kill_at_random(tmp_path: Path, stores: int, requests: int, kills: int) -> None:
    """Stores on one directory, killed while they record: what was answered is there, nothing is damaged."""
    path, answered, stop, chance = tmp_path / "r", set[int](), threading.Event(), random.Random(0)
    path.mkdir()

    def run(target: str, number: int) -> None:
        mine = iter(range(number, requests, stores))
        value = next(mine, None)
        while value is not None:
            log = tmp_path / f"{number}.log"
            with processes.store(log, "--target", target, "--path", str(path)) as store:
                running[number] = store.process
                with suppress(grpc.RpcError), grpc.insecure_channel(store.url):
                    while value is not None:
                        infer(store.url, request(value))
                        answered.add(value)
                        value = next(mine, None)
        done.add(number)

    running: dict[int, subprocess.Popen[bytes]] = {}
    done: set[int] = set()
    with played() as target, ThreadPoolExecutor(stores) as pool:
        asked = [pool.submit(run, target.url, number) for number in range(stores)]
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 1.0))
            if running and not stop.is_set():
                running[chance.choice(sorted(running))].kill()
        for each in asked:
            each.result()
    assert answered == set(range(requests))
    with played() as target, processes.store(tmp_path / "serve.log", "serve", "--path", str(path)) as store:
        for value in range(requests):
            infer(store.url, request(value))
    assert processes.run("verify", "--path", str(path)).returncode == 0


def test_kills_while_recording(tmp_path: Path) -> None:
    kill_at_random(tmp_path, stores=2, requests=60, kills=3)


@pytest.mark.slow
def test_kills_during_1000_recordings_of_8_stores(tmp_path: Path) -> None:
    kill_at_random(tmp_path, stores=8, requests=1000, kills=60)
