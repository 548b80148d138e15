"""Worker processes that hang or die do not stop their caller."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octvideo.data import DecodeError
from octvideo.workers import WorkerFailed, WorkerProcess, as_completed, in_worker, map_in_workers


@pytest.fixture
def guard() -> Iterator[Callable[..., WorkerProcess[Any]]]:
    """Makes guards that the test's end ends."""
    made: list[WorkerProcess[Any]] = []

    def make(function: Callable[..., Any], timeout: float = 60.0) -> WorkerProcess[Any]:
        made.append(WorkerProcess(function, timeout))
        return made[-1]

    yield make
    for one in made:
        one.close()


def obey(order: str) -> int:
    """Hangs, dies, raises, or gives the number of its process."""
    if order == "hang":
        time.sleep(600)
    if order == "exit":
        os._exit(3)
    if order.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, order))
    if order == "raise":
        raise DecodeError("a.mp4", "no frames")
    return os.getpid()


def fork(function: Callable[[], None]) -> int:
    """Runs a function in a fork of the tests' process, and nothing else of them; gives its number."""
    if pid := os.fork():
        return pid
    with contextlib.suppress(BaseException):
        function()
    os._exit(0)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; where nobody reaps orphans, it stays as a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def is_reaped(pid: int) -> bool:
    """Whether nothing is left of a child of ours."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def test_results_arrive_whole(guard):
    shapes = [(2, 3, 5), (0, 4), (1,), (300, 400, 3)]

    def make(seed):
        rng = np.random.default_rng(seed)
        return {"arrays": [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes], "more": (seed, "text")}

    call = guard(make)
    for seed in (3, 4):
        got, expected = call(seed), make(seed)
        assert got["more"] == expected["more"]
        for a, b in zip(got["arrays"], expected["arrays"], strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b) and a.flags.writeable
    strided = guard(lambda: np.arange(24).reshape(4, 6)[:, ::2])()
    assert np.array_equal(strided, np.arange(24).reshape(4, 6)[:, ::2])


def test_huge_limit_means_no_limit(guard):
    assert guard(obey, 1e12)("") > 0
    assert list(map_in_workers(len, ["a", "bc"], workers=2, timeout=1e12)) == [1, 2]


def test_one_child_serves_many_calls(guard):
    call = guard(obey)
    pids = {call("") for _ in range(20)}
    assert len(pids) == 1 and os.getpid() not in pids
    call.close()
    assert all(map(is_reaped, pids)) and call("") not in pids


def test_errors_of_the_function_are_raised(guard):
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__("only one")

    def odd():
        raise Odd(1, 2)

    call = guard(obey)
    first = call("")
    with pytest.raises(DecodeError) as error:
        call("raise")
    assert (error.value.path, error.value.reason) == ("a.mp4", "no frames")
    assert 'raise DecodeError("a.mp4"' in str(error.value.__cause__), "the child's traceback is lost"
    assert call("") == first, "an exception must not cost the child"
    with pytest.raises(RuntimeError, match="Odd: only one"):
        guard(odd)()
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        guard(lambda: lambda: 0)()  # a result that cannot be pickled


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("SIGSEGV", r"crashed \(signal 11\)"),
        ("SIGABRT", r"crashed \(signal 6\)"),
        ("SIGKILL", r"crashed \(signal 9\)"),
        ("exit", r"exit code 3"),
    ],
)
def test_dead_child_is_reported(guard, order, message):
    call = guard(obey)
    first = call("")
    with pytest.raises(WorkerFailed, match=message):
        call(order)
    assert is_reaped(first)
    assert call("") not in (first, os.getpid())


def test_hung_child_times_out(guard):
    call = guard(obey, 4.5)
    first = call("")
    with pytest.raises(WorkerFailed, match="timed out after 4.5 s"):
        call("hang")
    assert is_reaped(first) and call("") != first


def test_crash_skips_the_parents_handlers(guard, tmp_path):
    def crash():
        with (tmp_path / "trace").open("w") as file:
            faulthandler.enable(file)
            with contextlib.suppress(WorkerFailed):
                guard(obey)("SIGSEGV")
        (tmp_path / "went on").touch()

    os.waitpid(fork(crash), 0)
    assert (tmp_path / "went on").exists() and (tmp_path / "trace").read_text() == ""


def test_idle_dead_child_is_replaced(guard):
    call = guard(obey)
    first = call("")
    os.kill(first, signal.SIGKILL)
    while not is_gone(first):
        time.sleep(0.01)
    assert call("") != first and is_reaped(first)


def test_interrupted_call_leaves_no_answer(guard):
    def interrupt(number):
        if number == 1:
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(0.3)
        return number

    call = guard(interrupt)
    with pytest.raises(KeyboardInterrupt):
        call(1)
    assert call(2) == 2


def test_stop_signals_reach_only_the_parent(guard):
    call = guard(obey)
    first = call("")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(first, number)
        assert call("") == first


@pytest.mark.parametrize("seconds", [0, 600])
def test_child_ends_with_its_parent(seconds):
    reader, writer = os.pipe()

    def work():
        os.write(writer, f"{os.getpid()}\n".encode())
        time.sleep(seconds)

    def parent():
        call = WorkerProcess(work, 600)
        call()
        os.write(writer, b"idle\n")
        time.sleep(600)

    pid = fork(parent)
    os.close(writer)
    with open(reader) as lines:
        child = int(lines.readline())
        assert child != pid and not is_gone(child)
        if not seconds:
            assert lines.readline() == "idle\n"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert lines.read() == ""  # the end of the file: nobody has the other side any more


def test_thousands_of_calls_leave_nothing(guard):
    def work(number):
        if number % 200 == 199:
            os.kill(os.getpid(), signal.SIGSEGV)
        return os.getpid(), np.full((50, 50), number)

    call = guard(work)
    call(0)
    before = len(os.listdir("/proc/self/fd"))
    pids, lost = set(), 0
    for number in range(3000):
        try:
            pid, array = call(number)
        except WorkerFailed:
            lost += 1
            continue
        pids.add(pid)
        assert array[7, 7] == number
    assert lost == 15 and len(pids) == 15
    assert len(os.listdir("/proc/self/fd")) <= before
    call.close()
    assert all(map(is_reaped, pids)) and len(os.listdir("/proc/self/fd")) < before


def test_every_process_has_its_child(guard):
    call = guard(obey)
    ours = call("")
    reader, writer = os.pipe()

    def use():
        os.write(writer, str(call("")).encode())
        call.close()

    pid = fork(use)
    os.close(writer)
    os.waitpid(pid, 0)
    theirs = int(os.read(reader, 100))
    os.close(reader)
    assert theirs not in (ours, pid, os.getpid()) and is_gone(theirs)
    assert call("") == ours, "the other process has ended our child"
    again = pickle.loads(pickle.dumps(call))
    assert again("") != ours
    again.close()


def test_limit_zero_means_no_child():
    assert in_worker(obey, 0)("") == os.getpid()
    call = in_worker(obey, 5)
    assert call("") != os.getpid()


def test_children_answer_in_order():
    orders = ["", "SIGSEGV", "", "hang", "", "", "exit", ""]
    results = list(map_in_workers(obey, orders, workers=3, timeout=5.0))
    assert [
        order if isinstance(result, WorkerFailed) else "" for order, result in zip(orders, results, strict=True)
    ] == orders
    assert [str(result) for result in results if isinstance(result, WorkerFailed)] == [
        "the decoder crashed (signal 11)",
        "timed out after 5 s",
        "the decoder ended its process (exit code 3)",
    ]
    assert all(is_reaped(result) for result in results if isinstance(result, int))
    assert list(map_in_workers(obey, [], workers=3, timeout=1.0)) == []


def test_results_come_as_completed():
    results = list(as_completed(obey, ["hang", "", ""], workers=2, timeout=5.0))
    assert [number for number, _ in results] == [1, 2, 0] and isinstance(results[2][1], WorkerFailed)


def test_closing_the_map_ends_the_children():
    results = map_in_workers(obey, ["", "hang", "hang"], workers=3, timeout=600)
    first = next(results)
    assert isinstance(first, int) and not is_reaped(first)
    results.close()
    assert is_reaped(first)
