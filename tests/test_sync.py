"""The synchronous facade's edges: interrupts at any moment, threads that begin together, and forked children."""

import asyncio
import os
import threading
import time

import pytest

import wasmrt
from tests.gguf_files import write_llama
from wasmrt import sync
from wasmrt.errors import FormatError

pytestmark = pytest.mark.usefixtures("cpu")

IDS = [1, 40, 50, 45]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


async def soon(result):
    await asyncio.sleep(0.01)
    return result


@pytest.mark.parametrize("moment", range(3))
def test_an_interrupt_at_any_moment_ends_the_call(monkeypatch, moment):
    """Ctrl-C before the hand-over, before the task's first step, or while it runs: KeyboardInterrupt, no hang, loop usable."""
    loop = sync._background.loop()
    if moment == 0:

        hand_over, calls = loop.call_soon_threadsafe, iter([KeyboardInterrupt])

        def interrupted(callback):
            for error in calls:
                raise error
            return hand_over(callback)

        monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    else:
        wait = sync._wait

        def interrupted_wait(future):
            monkeypatch.setattr(sync, "_wait", wait)
            time.sleep(0.05 * (moment - 1))
            raise KeyboardInterrupt

        monkeypatch.setattr(sync, "_wait", interrupted_wait)
    ended = []

    def run():
        with pytest.raises(KeyboardInterrupt):
            sync.call(soon(None) if moment < 2 else asyncio.sleep(60))
        ended.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert ended, "the call hangs"
    assert sync.call(soon("fine")) == "fine"


def test_a_result_that_comes_too_late_is_undone(monkeypatch):
    """A model that was opened although the wait was interrupted is closed again."""
    closed = []

    async def close(result):
        closed.append(result)

    wait, once = sync._wait, iter([True])

    def interrupted_wait(future):
        if next(once, False):
            wait(future)
            raise KeyboardInterrupt
        return wait(future)

    monkeypatch.setattr(sync, "_wait", interrupted_wait)
    with pytest.raises(KeyboardInterrupt):
        sync.call(soon("model"), undo=close)
    assert closed == ["model"]


def test_errors_cross_over_as_they_are():
    async def fail():
        raise FormatError("broken")

    with pytest.raises(FormatError, match="broken"):
        sync.call(fail())


def test_threads_that_begin_together_share_one_loop():
    for _ in range(50):
        background, loops = sync.Background(), []
        barrier = threading.Barrier(4)

        def begin(background=background, loops=loops, barrier=barrier):
            barrier.wait()
            loops.append(background.loop())

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, loops))) == 1
        loops[0].call_soon_threadsafe(loops[0].stop)
        while loops[0].is_running():
            time.sleep(0.001)
        loops[0].close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_loop_of_its_own(path):
    """multiprocessing forks on Linux: a child that loads a model must not wait for its parent's thread."""
    wasmrt.load(path).close()
    child = os.fork()
    if child == 0:
        try:
            with wasmrt.load(path) as model:
                list(model.generate(IDS, max_tokens=2))
            os._exit(0)
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_many_models_leave_nothing_behind(path):
    """Threads and open files after 5 and after 40 models are as many."""

    def counts():
        return threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def use(n):
        for _ in range(n):
            with wasmrt.load(path) as model:
                list(model.generate(IDS, max_tokens=2))
        deadline = time.monotonic() + 10
        while threading.active_count() > before[0] + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return counts()

    before = counts()
    assert use(5)[1] == use(35)[1]
    assert threading.active_count() <= before[0] + 1
