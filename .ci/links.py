#!/usr/bin/env python3
"""Checks the links of every Markdown file: the file, the heading and the test that each names are there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def anchors(text: str) -> set[str]:
    """The fragments that the headings of a file have."""
    headings = re.findall(r"^#+ (.*)", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading in headings}


def broken_links(file: Path) -> Iterator[str]:
    """Links to what does not exist: a file, a heading, a test. And paths such as `src/main.rs` that do not exist."""
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.S)
    for label, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        found = (file.parent / path) if path else file
        test = re.fullmatch(r"`(\w+)`", label) if "/tests/" in f"/{path}" and path.endswith(".rs") else None
        if "://" in target:
            continue
        if not found.exists():
            yield f"{target} does not exist"
        elif anchor and anchor not in anchors(found.read_text()):
            yield f"{target} is no heading"
        elif test and not re.search(rf"\bfn {test[1]}\(", found.read_text()):
            yield f"{path} has no test {test[1]}"
    for path in re.findall(r"`((?:src|tests|proto|docs|benches|clients)/[\w./-]*)`", text):
        if not (ROOT / path).exists() and not (file.parent / path).exists():
            yield f"{path} does not exist"


def main() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in tracked.stdout.splitlines()]
    broken = [f"{file.relative_to(ROOT)}: {problem}" for file in files for problem in broken_links(file)]
    if broken:
        sys.exit("\n".join(broken))
    print(f"the links of {len(files)} files lead somewhere")


if __name__ == "__main__":
    main()
