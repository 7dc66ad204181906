#!/usr/bin/env python3
"""Checks that dependencies between the modules of src/ point one way, and that no two files use each other in a circle.

The rules are the two tables below. A module may use what its line lists and nothing else; a crate may be named only where
its line says. A new module needs a line: where it stands is a decision.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What each module may use, from the bottom up.
MAY_USE = {
    "proto": "",
    "config": "",
    "model": "config proto",
    "clock": "model",
    "command": "model proto",
    "store": "clock command config model proto",
    "feed": "config model proto store",
    "refusal": "feed model proto store",
    "call": "model refusal",
    "grpc": "call command config feed model proto refusal store",
    "http": "call config model proto refusal store",
    "telemetry": "config",
    "server": "config feed grpc http model proto store",
    "cli": "config server telemetry",
    "lib": "",
    "main": "",
}

# Where each crate may be named. A path is a file or a folder of src/.
MAY_NAME = {
    "redb": "store",
    "tonic": "grpc server cli/healthcheck.rs proto.rs",
    "tonic_health": "server cli/healthcheck.rs",
    "tonic_reflection": "server",
    "tonic_types": "grpc",
    "tower": "grpc",
    "axum": "http server",
    "http": "grpc http server",  # The server names our own module of that name.
    "http_body_util": "http",
    "serde": "http",
    "serde_json": "http",
    "governor": "http",
    "form_urlencoded": "http",
    "clap": "config cli",
    "toml": "config",
    "bytesize": "config",
    "humantime": "config",
    "anyhow": "cli telemetry.rs",
    "tracing_subscriber": "telemetry.rs",
    "rustix": "store",
    "tokio": "feed grpc http server cli store",
}


def code_of(path: Path) -> str:
    """The code without comments, strings and inline tests."""
    text = path.read_text()
    text = re.sub(r"//.*", "", text)
    text = re.sub(r'r#".*?"#|"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    return text.split("#[cfg(test)]\nmod tests {")[0]


def module_of(path: Path) -> str:
    return path.relative_to(ROOT / "src").parts[0].removesuffix(".rs")


def is_test(path: Path) -> bool:
    return "tests" in path.parts or path.name == "tests.rs"


def wrong_arrows(path: Path, code: str) -> list[str]:
    module, name = module_of(path), path.relative_to(ROOT)
    if module not in MAY_USE:
        return [f"{name}: add the module {module} to .ci/arrows.py"]
    allowed = {module, *MAY_USE[module].split()}
    used = set(re.findall(r"\bcrate::(\w+)", code)) & MAY_USE.keys()
    wrong = [f"{name}: {module} may not use {other}" for other in sorted(used - allowed)]
    if re.search(r"\bcrate::\{", code):
        wrong.append(f"{name}: name one module in each `use crate::`, so that this check sees them all")
    inside = str(path.relative_to(ROOT / "src"))
    for crate, places in MAY_NAME.items():
        named = re.search(rf"(?<![\w:]){crate}::", code)
        if named and not any(inside == place or inside.startswith(f"{place}/") for place in places.split()):
            wrong.append(f"{name}: only {places} may name {crate}")
    return wrong


def siblings_of(path: Path, code: str) -> set[Path]:
    """The files of the same folder that this one uses."""
    uses = re.findall(r"\bsuper::(?:\{([^;]*?)\}|(\w+))", code, flags=re.S)
    words = {word for group, single in uses for word in re.findall(r"\w+", group or single)}
    here = path.parent
    if path.name in ("mod.rs", "main.rs", "lib.rs"):
        return set()
    found = set()
    for word in words:
        found |= {place for place in (here / f"{word}.rs", here / word / "mod.rs") if place.exists()}
    return found - {path}


def circles(edges: dict[Path, set[Path]]) -> list[str]:
    found, state = [], {}

    def visit(path: Path, trail: list[Path]) -> None:
        state[path] = "open"
        for other in sorted(edges.get(path, ())):
            if state.get(other) == "open":
                circle = [*trail[trail.index(other) :], other]
                found.append("a circle: " + " -> ".join(str(step.relative_to(ROOT)) for step in circle))
            elif other not in state:
                visit(other, [*trail, other])
        state[path] = "done"

    for path in sorted(edges):
        if path not in state:
            visit(path, [path])
    return found


def main() -> None:
    sources = [path for path in sorted((ROOT / "src").rglob("*.rs")) if not is_test(path)]
    code = {path: code_of(path) for path in [*sources, *sorted((ROOT / "benches").rglob("*.rs"))]}
    wrong = [line for path in sources for line in wrong_arrows(path, code[path])]
    wrong += circles({path: siblings_of(path, text) for path, text in code.items()})
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(code)} files use each other in one direction")


if __name__ == "__main__":
    main()
