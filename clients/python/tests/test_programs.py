"""Subscribers that are programs of their own, and are killed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cameo_client import Client
from count import Counts
from harness import Program, Server, Writer, count_up

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUNDS = 4
STEPS_A_ROUND = 50
STEPS = ROUNDS * STEPS_A_ROUND

Run = Callable[..., Program]


def test_a_killed_subscriber_resumes_from_its_cursor_file(
    server: Server, client: Client, run: Run, tmp_path: Path
) -> None:
    """At least once: only what was in hand when it died may come again."""
    command = [sys.executable, EXAMPLES / "subscribe.py", "--address", server.address, "--earliest"]
    command += ["--cursor-file", tmp_path / "cursor"]
    writer = Writer(client, STEPS)
    writer.start()

    handled = 0
    for already in range(0, STEPS, STEPS_A_ROUND):
        writer.allow(STEPS_A_ROUND)
        handled = read_and_kill(run(*command), handled, at=already + STEPS_A_ROUND // 2)
    writer.finish()
    last = run(*command, "--until-caught-up")
    sequences = [sequence_of(line) for line in last.lines.rest()]
    assert last.wait() == 0
    assert sequences in (list(range(handled, STEPS + 1)), list(range(handled + 1, STEPS + 1)))


def read_and_kill(subscriber: Program, handled: int, at: int) -> int:
    """Kills the subscriber when it has come so far. Answers the last sequence that it handled."""
    sequences: list[int] = []
    while line := subscriber.lines.next():
        sequences.append(sequence_of(line))
        if sequences[-1] == at:
            subscriber.stop(signal.SIGKILL)
    assert sequences, "the subscriber got nothing"
    assert sequences[0] in (handled, handled + 1)
    assert sequences == list(range(sequences[0], sequences[-1] + 1))
    return sequences[-1]


def sequence_of(line: str) -> int:
    return int(line.split()[0])


def test_a_killed_counter_counts_each_change_once(server: Server, client: Client, run: Run, tmp_path: Path) -> None:
    """Exactly once: the count and the cursor are one transaction."""
    database = tmp_path / "counts.sqlite"
    command = [sys.executable, EXAMPLES / "count.py", "--address", server.address, "--database", database]
    writer = Writer(client, STEPS)
    writer.start()

    for already in range(0, STEPS, STEPS_A_ROUND):
        writer.allow(STEPS_A_ROUND)
        counter = run(*command)
        while (line := counter.lines.next()) != f"{already + STEPS_A_ROUND // 2} changes":
            assert line is not None, "the counter ended by itself"
        counter.stop(signal.SIGKILL)
    writer.finish()

    with closing(Counts(database)) as counts:
        for event, cursor in client.subscribe(counts, until_caught_up=True):
            counts.add(event, cursor)
        assert counts.total() == STEPS


def test_a_counter_that_dies_after_each_change_counts_each_once(client: Client, tmp_path: Path) -> None:
    """It always dies between its own transaction and the moment when the subscription would store the cursor."""
    for _ in range(5):
        count_up(client, 42)
    with closing(Counts(tmp_path / "counts.sqlite")) as counts:
        for expected in range(1, 6):
            event, cursor = next(iter(client.subscribe(counts, earliest=True)))
            counts.add(event, cursor)
            assert counts.total() == expected == event.sequence


def test_the_lookup_and_update_examples_run(server: Server, run: Run) -> None:
    at = ["--address", server.address]
    update = run(sys.executable, EXAMPLES / "update.py", *at, "--mpid", "42", "--set", "plan=pro", "--set", "visits=3")
    assert update.lines.next() == "outcome  WRITE_OUTCOME_CREATED"
    assert update.wait() == 0
    lookup = run(sys.executable, EXAMPLES / "lookup.py", *at, "--mpid", "42", "--attribute", "plan")
    assert '"plan": "pro"' in "".join(lookup.lines.rest())
    assert lookup.wait() == 0
