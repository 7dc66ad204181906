#!/usr/bin/env python3
"""Runs the commands of README.md and docs/*.md and compares what they print with what is written there.

    .ci/walk.py target/debug/cameo           # compare
    .ci/walk.py target/debug/cameo --write   # write down what the commands print, where it differs

In a ```console block, a line that begins with `$ ` is a command, together with the lines that an open quote or a
backslash continues. The rest is its output. What differs from run to run (times, etags, cursors) is compared by shape.

The commands of one file share one bash in an empty directory. There `cargo run --release &` starts the given binary,
once before the first command and again wherever the file says so. `grpcurl` and `curl` must be on the PATH.
"""

import contextlib
import difflib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "127.0.0.1:50051"
METRICS = "127.0.0.1:9090"
START = "cargo run --release &"
TIMEOUT = 120  # Seconds that the commands of one file may take.

PRELUDE = """
cargo() { exec target/release/cameo >server.log 2>&1; }
curl() { command curl -sS "$@"; }  # Its progress is for a terminal.
greeting() {
    while kill -0 $! 2>/dev/null && ! grep -qs '^  listen' server.log; do sleep 0.02; done
    cat server.log
}
"""

SHAPES = [
    (r'"logBytes": "\d+"', '"logBytes": "<bytes>"'),
    (r'"nextPageToken": "[\w-]+"', '"nextPageToken": "<token>"'),
    (r"\b[0-9a-f]{64}\b", "<checksum>"),
    (r"\b\d+\.\d s\b", "<seconds>"),
    (r"\b[\d.]+ (B|[KM]iB)\b", "<size>"),
    (r'"[0-9a-f]{32}"', '"<etag>"'),
    (r'"etag": "[0-9a-f]{16}"', '"etag": "<etag>"'),
    (r"date: .* GMT", "date: <time>"),
    (r'_timestamp_ms":\d+', '_timestamp_ms":<time>'),
    (r'"[\w-]{34}"', '"<cursor>"'),
    (r'"[0-9a-f]+-[0-9a-f]{8}"', '"<etag>"'),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>"),
    (r"cameo_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}", "<token>"),
    (r"(?m)(the id |^)[0-9A-Za-z]{12}(?=\.|  )", r"\1<token id>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
]


def shape(text: str) -> str:
    for pattern, name in SHAPES:
        text = re.sub(pattern, name, text)
    return text


def commands(text: str) -> list[str]:
    """The commands of a file's console blocks, without their outputs."""
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.S)
    return [command(step) for block in blocks for step in re.split(r"^\$ ", block, flags=re.M)[1:]]


def command(step: str) -> str:
    """The first lines, up to one that does not end with a backslash and lies outside of single quotes."""
    lines = step.splitlines()
    ends = (n for n, line in enumerate(lines, 1) if line[-1:] != "\\" and "\n".join(lines[:n]).count("'") % 2 == 0)
    return "\n".join(lines[: next(ends)])


def script(steps: list[str]) -> str:
    """What bash runs: after each command a NUL, and before the first one the server."""

    def line(step: str) -> str:
        if step.endswith("&"):
            return f"rm -f server.log\n{step}\ngreeting\n"
        if step.startswith("kill "):  # bash reports the end of the job, which the reader's prompt does too.
            return f"{{ {step}; wait $!; }} 2>/dev/null\n"
        return f"{step}\n"

    return PRELUDE + line(START) + "".join(f"printf '\\0'\n{line(step)}" for step in steps)


def run(steps: list[str], binary: Path) -> list[str]:
    """What each command prints."""
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as second:
        address, metrics = (f"127.0.0.1:{each.getsockname()[1]}" for each in (probe, second))
    with tempfile.TemporaryDirectory() as directory:
        release = Path(directory, "target/release")
        release.mkdir(parents=True)
        (release / "cameo").symlink_to(binary)
        shell = subprocess.Popen(
            ["bash", "-c", script(steps).replace(ADDRESS, address).replace(METRICS, metrics)],
            cwd=directory,
            env=os.environ | {"CAMEO_ADDR": address, "CAMEO_METRICS_ADDR": metrics, "CAMEO_LOG": "warn"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = shell.communicate(timeout=TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    return printed.replace(address, ADDRESS).replace(metrics, METRICS).replace("\r", "").split("\0")[1:]


def walk(text: str, binary: Path) -> str:
    """The text, with what its commands print now."""
    steps = commands(text)
    ran = (f"$ {step}\n{printed}".strip() + "\n" for step, printed in zip(steps, run(steps, binary), strict=True))

    def block(written: re.Match[str]) -> str:
        return "```console\n" + "".join(next(ran) for _ in commands(written[0])) + "```"

    return re.sub(r"```console\n.*?```", block, text, flags=re.S)


def check_commands(file: Path, binary: Path, *, write: bool) -> None:
    text = file.read_text()
    if not commands(text):
        return
    walked = walk(text, binary)
    name = str(file.relative_to(ROOT))
    written, printed = shape(text).splitlines(), shape(walked).splitlines()
    if written == printed:
        print(f"{name}: {len(commands(text))} commands ran as printed")
    elif write:
        file.write_text(walked)
        print(f"{name}: {len(commands(text))} commands ran and were written down")
    else:
        sys.exit("\n".join(difflib.unified_diff(written, printed, name, f"what {name} prints", lineterm="")))


def main() -> None:
    binary = Path(sys.argv[1]).resolve()
    for file in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        check_commands(file, binary, write="--write" in sys.argv)


if __name__ == "__main__":
    main()
