#!/usr/bin/env python3
"""Checks docs/dependencies.md: it has a row for each crate that Cargo.toml names and for no other, and it names each
crate of Cargo.lock that compiles C. Checks that the fuzz targets are built from the versions of Cargo.lock.

A row may be about several crates of one project. Its first cell names them, each in backticks.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/dependencies.md"
TABLES = ("dependencies", "build-dependencies", "dev-dependencies")
COMPILERS = {"bindgen", "cc", "cmake"}  # Crates that compile or bind C in a build script.


def direct() -> set[str]:
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    return {name for table in TABLES for name in manifest[table]}


def compile_c() -> set[str]:
    """Crates of the whole tree that have a compiler of C among their build dependencies."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    return {
        package["name"]
        for package in metadata["packages"]
        if any(each["kind"] == "build" and each["name"] in COMPILERS for each in package["dependencies"])
    }


def rows(text: str) -> list[str]:
    """The crates of the first cells, in order."""
    cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.M)
    return [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]


def differences(what: str, written: list[str], expected: set[str]) -> list[str]:
    twice = {name for name in written if written.count(name) > 1}
    return (
        [f"{name} has no row {what}" for name in sorted(expected - set(written))]
        + [f"{name} has a row {what} and does not belong there" for name in sorted(set(written) - expected)]
        + [f"{name} has two rows {what}" for name in sorted(twice)]
    )


def versions(lock: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for package in tomllib.loads(lock.read_text())["package"]:
        found.setdefault(package["name"], set()).add(package["version"])
    return found


def not_shipped() -> list[str]:
    """Crates of which the fuzz targets have a version that the server has not. It may have more: tests use some."""
    ours = versions(ROOT / "Cargo.lock")
    return [
        f"{name} has another version in fuzz/Cargo.lock: see fuzz/README.md"
        for name, fuzzed in versions(ROOT / "fuzz/Cargo.lock").items()
        if name in ours and not fuzzed <= ours[name]
    ]


def main() -> None:
    document, _, c = DOCUMENT.read_text().partition("\n## C\n")
    problems = differences("in docs/dependencies.md", rows(document), direct())
    problems += differences("under C in docs/dependencies.md", rows(c), compile_c())
    problems += not_shipped()
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(direct())} dependencies have their row, and {len(compile_c())} of the tree compile C")


if __name__ == "__main__":
    main()
