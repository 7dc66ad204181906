"""Subscribers in their own processes, which are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cameo_client import Client, Identity
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
    """At least once: only the event that it was handling when it died may arrive again."""
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
    """Kills the subscriber at a sequence. Returns the last sequence that it handled."""
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
    """Exactly once: the count and the cursor are stored in one transaction."""
    database = tmp_path / "counts.sqlite"
    command = [sys.executable, EXAMPLES / "count.py", "--address", server.address, "--database", database]
    writer = Writer(client, STEPS)
    writer.start()

    for already in range(0, STEPS, STEPS_A_ROUND):
        writer.allow(STEPS_A_ROUND)
        counter = run(*command)
        while (line := counter.lines.next()) != f"{already + STEPS_A_ROUND // 2} changes":
            assert line is not None, "the counter ended too early"
        counter.stop(signal.SIGKILL)
    writer.finish()

    with closing(Counts(database)) as counts:
        for event, cursor in client.subscribe(counts, until_caught_up=True):
            counts.add(event, cursor)
        assert counts.total() == STEPS


def test_a_counter_that_dies_after_each_change_counts_each_once(client: Client, tmp_path: Path) -> None:
    """It always dies after its own transaction and before the subscription stores the cursor."""
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


def test_the_erase_example_exports_first(server: Server, client: Client, run: Run, tmp_path: Path) -> None:
    count_up(client, 42)
    document = tmp_path / "person.json"
    command = [sys.executable, EXAMPLES / "erase.py", "--address", server.address, "--mpid", "42"]
    assert run(*command, "--export", document).lines.rest() == ["would erase 42"]
    assert json.loads(document.read_text())["profile"]["mpid"] == "42"
    assert document.stat().st_mode & 0o777 == 0o600

    assert run(*command, "--erase").lines.next() == "erased 42"
    again = run(*command, "--export", tmp_path / "again.json", "--erase", stderr=subprocess.STDOUT)
    assert again.lines.rest() == ["PROFILE_NOT_FOUND: no such profile"]
    assert again.wait() == 1


def test_the_import_example_prints_counts_and_refusals_but_no_values(
    server: Server, client: Client, run: Run, tmp_path: Path
) -> None:
    people = tmp_path / "people.csv"
    too_long = "9" * 1_025
    rows = f'"customer, by id",plan,city\nmxr15,pro,"Paris\nTexas"\n{too_long},pro,Rome\n\nmxr16,,Oslo\n'
    people.write_text("\ufeff" + rows, encoding="utf-8")
    command = [sys.executable, EXAMPLES / "import_csv.py", "--address", server.address, "--type", "customer_id"]
    refusal = "record 2: LIMIT_EXCEEDED: key.identity.value: 1025 identity value bytes are over the limit of 1024"
    for created, unchanged in ((2, 0), (0, 2)):
        program = run(*command, people)
        counts = [f"created    {created}", "updated    0", f"unchanged  {unchanged}", "refused    1"]
        assert program.lines.rest() == [*counts, refusal]
        assert program.wait() == 0

    keys = [Identity(type="customer_id", value=value) for value in ("mxr15", "mxr16")]
    first, second = client.batch_get_profiles(keys)
    assert dict(first.user_attributes) == {"plan": "pro", "city": "Paris\nTexas"}
    assert dict(second.user_attributes) == {"city": "Oslo"}


def test_the_import_example_marks_its_events_silent_when_told(
    server: Server, client: Client, run: Run, tmp_path: Path
) -> None:
    people = tmp_path / "people.csv"
    people.write_text("customer,plan\nmxr15,pro\n")
    command = [sys.executable, EXAMPLES / "import_csv.py", "--address", server.address, "--type", "customer_id"]
    assert run(*command, "--silent", people).wait() == 0
    assert [event.silent for event, _ in client.subscribe(earliest=True, until_caught_up=True)] == [True]


def test_the_import_example_ends_at_a_row_that_does_not_fit(
    server: Server, client: Client, run: Run, tmp_path: Path
) -> None:
    people = tmp_path / "people.csv"
    people.write_text("customer,plan\nmxr15,pro\nmxr16,pro,Rome\nmxr17,pro\n")
    command = [sys.executable, EXAMPLES / "import_csv.py", "--address", server.address, "--type", "customer_id"]
    program = run(*command, people, stderr=subprocess.STDOUT)
    assert program.lines.rest() == ["the import ends before record 2: 3 cells under 2 headings"]
    assert program.wait() == 1
    assert len(list(client.list_profiles())) == 1
