"""A real server and other processes. Tests wait for conditions with deadlines; they never sleep."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO

from cameo_client import Client, Delivery, DurableDelivery, DurableSubscription, ProfilePatch, Subscription

CAMEO_BIN = Path(os.environ.get("CAMEO_BIN") or Path(__file__).parents[3] / "target" / "debug" / "cameo").resolve()
DEADLINE = 60.0
"""Seconds after which a wait fails. It is long, because machines may be busy."""

_GREETING = "cameo is listening on "


class Lines:
    """The lines that a process writes to its standard output."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def next(self) -> str | None:
        """The next line, or None at the end of the output."""
        try:
            return self._lines.get(timeout=DEADLINE)
        except queue.Empty:
            raise TimeoutError("the process wrote no line in time") from None

    def rest(self) -> list[str]:
        """The remaining lines of a process that ends or has ended."""
        return list(iter(self.next, None))

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


class Program:
    """A child process."""

    def __init__(self, *command: str | os.PathLike[str], stderr: int | IO[bytes] | None = None) -> None:
        # Settings of the developer's own server must not apply to the test's server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CAMEO_")}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL, text=True, env=environment
        )
        self.lines = Lines(self._process.stdout)

    def stop(self, how: signal.Signals) -> int:
        """Sends a signal, and returns the exit code."""
        self._process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(timeout=DEADLINE)

    def reap(self) -> None:
        """Kills the process, if it is still running."""
        self._process.kill()
        self._process.wait()


class Server:
    """A server with its own data directory. It keeps its port when it is restarted."""

    def __init__(self, folder: Path, *flags: str | os.PathLike[str]) -> None:
        self._flags = flags
        self._data_dir = folder / "data"
        self._log = folder / "server.log"
        self.address = "127.0.0.1:0"

    def start(self, *flags: str) -> None:
        """Starts the server. These flags hold until it stops."""
        command = [CAMEO_BIN, "serve", "--addr", self.address, "--metrics-addr", "off", "--data-dir", self._data_dir]
        command += [*self._flags, *flags]
        with self._log.open("ab") as log:
            self._program = Program(*command, stderr=log)
        greeting = self._program.lines.next()
        if greeting is None or not greeting.startswith(_GREETING):
            raise AssertionError(f"the server did not start:\n{self._log.read_text()}")
        self.address = greeting.removeprefix(_GREETING)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        return self._program.stop(how)

    def reap(self) -> None:
        self._program.reap()


class Reader(threading.Thread):
    """Iterates over a subscription, and keeps the deliveries."""

    def __init__(self, subscription: Subscription | DurableSubscription) -> None:
        super().__init__(daemon=True)
        self._subscription = subscription
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self.deliveries: list[Delivery | DurableDelivery] = []

    def run(self) -> None:
        try:
            for delivery in self._subscription:
                with self._changed:
                    self.deliveries.append(delivery)
                    self._changed.notify_all()
        except Exception as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Waits until it has this many deliveries."""
        with self._changed:
            enough = self._changed.wait_for(lambda: self._failure or len(self.deliveries) >= count, DEADLINE)
        if self._failure is not None:
            raise self._failure
        assert enough, f"{len(self.deliveries)} of {count} deliveries arrived in time"

    def end(self) -> None:
        self._subscription.stop()
        self.join(DEADLINE)
        assert not self.is_alive(), "the subscription did not stop"
        if self._failure is not None:
            raise self._failure

    @property
    def sequences(self) -> list[int]:
        return [delivery.event.sequence for delivery in self.deliveries]


class Writer(threading.Thread):
    """Writes a number of events as fast as it can. Each write must be allowed first, so it cannot outrun the test."""

    def __init__(self, client: Client, steps: int) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._steps = steps
        self._allowed = threading.Semaphore(0)
        self._failure: Exception | None = None

    def run(self) -> None:
        try:
            for step in range(1, self._steps + 1):
                assert self._allowed.acquire(timeout=DEADLINE), "the test allowed too few steps"
                count_up(self._client, 42, request_id=f"step-{step}")
        except Exception as failure:
            self._failure = failure

    def allow(self, steps: int) -> None:
        self._allowed.release(steps)

    def finish(self) -> None:
        self.join(DEADLINE)
        assert not self.is_alive(), "the writer did not finish in time"
        if self._failure is not None:
            raise self._failure


def setting(**attributes: object) -> ProfilePatch:
    patch = ProfilePatch()
    patch.set_user_attributes.update(attributes)
    return patch


def count_up(client: Client, mpid: int, request_id: str = "") -> str:
    """A write that shows whether it was applied twice. Returns the cursor of its event."""
    patch = ProfilePatch(increment_user_attributes={"steps": 1})
    return client.update_profile(mpid, patch, allow_missing=True, request_id=request_id, timeout=DEADLINE).cursor
