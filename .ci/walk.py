#!/usr/bin/env python3
"""Runs the walk of README.md against a new server and compares what it prints; with --write, writes it down instead.

A line that begins with `$ ` in a ```console block is a command, with the lines after it that a backslash or an open quote continues; the
rest is its output. What differs from run to run (times, etags, cursors, ids) is compared by shape alone. `grpcurl` and
`curl` must be on the PATH.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
ADDRESS = "127.0.0.1:50051"
SHAPES = [
    (r'"nextPageToken": "[\w-]+"', '"nextPageToken": "<token>"'),
    (r'"[0-9a-f]{32}"', '"<etag>"'),
    (r"date: .* GMT", "date: <time>"),
    (r'_timestamp_ms":\d+', '_timestamp_ms":<time>'),
    (r'"[\w-]{34}"', '"<cursor>"'),
    (r'"[0-9a-f]+-[0-9a-f]{8}"', '"<etag>"'),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
]


def shape(text: str) -> str:
    for pattern, name in SHAPES:
        text = re.sub(pattern, name, text)
    return text.strip()


def commands(block: str) -> list[str]:
    """The commands of a block, each with the output that is written after it."""
    return re.split(r"^(?=\$ )", block, flags=re.M)[1:]


def command_of(step: str) -> str:
    """The first lines, up to one that neither ends with a backslash nor inside of single quotes."""
    lines = step.splitlines()
    ends = (n for n, line in enumerate(lines) if not line.endswith("\\") and "\n".join(lines[: n + 1]).count("'") % 2 == 0)
    return "\n".join(lines[: next(ends) + 1])


def run(command: str, address: str, variables: str) -> str:
    command = command.replace("$ curl ", "$ curl -sS ")  # Its progress is for a terminal.
    script = variables + command.removeprefix("$ ").replace(ADDRESS, address)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    return (done.stdout + done.stderr).replace(address, ADDRESS).replace("\r", "").strip("\n")


def walk(text: str, address: str) -> str:
    variables = ""

    def rerun(block: re.Match[str]) -> str:
        nonlocal variables
        out = []
        for step in commands(block[1]):
            command = command_of(step)
            out.append(f"{command}\n{run(command, address, variables)}".rstrip() + "\n")
            if re.match(r"\$ \w+=", command):
                variables += command.removeprefix("$ ").replace(ADDRESS, address) + "\n"
        return "```console\n" + "".join(out) + "```"

    return re.sub(r"```console\n(.*?)```", rerun, text, flags=re.S)


def main() -> None:
    binary, write = sys.argv[1], "--write" in sys.argv
    text = README.read_text()
    begin, end = text.index("<!-- walk -->"), text.index("<!-- /walk -->")
    with tempfile.TemporaryDirectory() as data:
        server = subprocess.Popen(
            [binary, "--addr", "127.0.0.1:0", "--data-dir", data, "--log", "warn"], stdout=subprocess.PIPE, text=True
        )
        try:
            address = server.stdout.readline().split()[-1]
            walked = walk(text[begin:end], address)
        finally:
            server.terminate()
            server.wait(30)
    if write:
        README.write_text(text[:begin] + walked + text[end:])
    elif shape(walked) != shape(text[begin:end]):
        sys.exit(f"the walk prints otherwise than the README says:\n{walked}")
    print(f"{walked.count('$ ')} commands of the README's walk ran as printed")


if __name__ == "__main__":
    main()
