"""Call functions in fresh processes: whatever lived before in this one, a module's globals among it, is not there.

A server imports everything and calls nothing. It forks one child for every call, so that a call starts at once.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, TypeVar

from streams.errors import LifelongError

T = TypeVar("T")

_PRELOADED = ("lifelong.execution.runner", "lifelong.verification.certificate")
_LENGTH = 8


def call(function: Callable[..., T], *arguments: object) -> T:
    """Return ``function(*arguments)`` as a process computes it that has computed nothing before.

    Args:
        function: importable by its module and name; what it raises is raised here.
        arguments: they are pickled, as is what is returned.

    Raises:
        RuntimeError: it raised something other than a `LifelongError`; the text is its traceback.
        LifelongError: the process died.
    """
    server = _server(os.getpid())
    if server.is_dead:
        _server.cache_clear()
        server = _server(os.getpid())
    try:
        return _asked(server, function, arguments)
    except BaseException:  # Ctrl-C too: the child must not go on alone, and its answer must not be the next one's
        server.kill()
        _server.cache_clear()
        raise


def calls(function: Callable[..., T], each: Sequence[tuple[object, ...]], workers: int) -> list[T]:
    """Return what `call` does for each tuple of arguments, in their order, some at the same time.

    Args:
        function: see `call`.
        each: arguments of each call.
        workers: how many calls go on at once, each beside a server of its own.

    Raises:
        RuntimeError, LifelongError: as `call`; what still goes on is ended.
    """
    if min(workers, len(each)) <= 1:
        return [call(function, *arguments) for arguments in each]
    servers = [_Server() for _ in range(min(workers, len(each)))]
    free = SimpleQueue[_Server]()
    for server in servers:
        free.put(server)

    def one(arguments: tuple[object, ...]) -> T:
        server = free.get()
        try:
            return _asked(server, function, arguments)
        finally:
            free.put(server)

    with ThreadPoolExecutor(len(servers)) as pool:
        waiting = [pool.submit(one, arguments) for arguments in each]
        try:
            return [future.result() for future in waiting]
        finally:  # whatever still goes on, after an error or Ctrl-C, must not go on alone
            for future in waiting:
                future.cancel()
            for server in servers:
                server.kill()


def _asked(server: _Server, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
    surroundings = (sys.path, os.getcwd(), dict(os.environ))
    answer = server.ask(pickle.dumps((surroundings, pickle.dumps((function, arguments)))))
    if not answer:
        raise LifelongError(
            f"The process that called {function.__module__}.{function.__qualname__} died. Is there enough memory?"
        )
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


class _Server:
    """A process that forks a child for every call."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from lifelong.processes.fresh import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        atexit.register(self.kill)

    @property
    def is_dead(self) -> bool:
        """Whether it has ended, as when the system had no memory left."""
        return self._process.poll() is not None

    def ask(self, question: bytes) -> bytes:
        """Return the answer to a call; empty if the process died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _write(self._process.stdin, question)
        return _read(self._process.stdout)

    def kill(self) -> None:
        """End it and its child."""
        if not self.is_dead:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        atexit.unregister(self.kill)


@functools.lru_cache(maxsize=1)
def _server(process: int) -> _Server:
    """Start the server of a process once; one that was forked needs another."""
    return _Server()


def serve() -> None:
    """Fork for every call that comes in, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed must not get among the answers
    for name in _PRELOADED:
        importlib.import_module(name)
    while question := _read(questions):
        child = os.fork()
        if not child:
            status = 1
            try:
                _write(answers, _answer(question))
                status = 0
            finally:  # whatever a user's file does, a call to exit too: the loop is the server's alone
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            _write(answers, b"")


def _answer(question: bytes) -> bytes:
    """Return what a call returned, or what it raised, pickled."""
    (path, folder, environment), called = pickle.loads(question)
    sys.path[:] = path
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    try:
        function, arguments = pickle.loads(called)
        return pickle.dumps((function(*arguments), None))
    except LifelongError as error:
        return pickle.dumps((None, error))
    except Exception:  # its class may be of a file that the caller cannot import by name
        return pickle.dumps((None, RuntimeError(traceback.format_exc())))


def _write(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(_LENGTH, "little"))
    pipe.write(content)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    return pipe.read(int.from_bytes(pipe.read(_LENGTH), "little"))
