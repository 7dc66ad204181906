#!/usr/bin/env python3
"""Checks that dependencies between the modules of src/ point one way, and that no two files use each other in a circle.

The rules are the two tables below. A module may use what its line lists and nothing else, and a crate may be named only
where its line says. A new module and a new dependency need a line: their place is a decision.

Tests are not checked. A `mod.rs` may use the files that it declares, and they may use what it shares.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

# What each module may use, from the bottom up.
MAY_USE = {
    "proto": "",
    "compression": "",
    "watch": "",
    "config": "",
    "telemetry": "config proto",
    "model": "config proto",
    "clock": "model",
    "command": "model proto",
    "store": "clock command config model proto telemetry",
    "feed": "config model proto store telemetry",
    "refusal": "auth feed model proto store",
    "auth": "config model telemetry watch",
    "quota": "config model refusal",
    "call": "auth quota model proto refusal store telemetry",
    "grpc": "auth call command config feed model proto refusal store telemetry",
    "http": "call compression config feed model proto refusal store telemetry",
    "server": "auth quota call compression config feed grpc http model proto refusal store telemetry watch",
    "cli": "auth config proto server telemetry",
    "lib": "",
    "main": "cli",
}

# Where each crate may be named: files or folders of src/. `*` is everywhere.
MAY_NAME = {
    "anyhow": "cli telemetry",
    "arc_swap": "auth server/tls store",
    "axum": "http server",
    "base64": "auth cli/forward model",
    "bytes": "*",
    "bytesize": "config",
    "cel": "model",
    "chrono": "model",
    "clap": "config cli",
    "flate2": "compression.rs",
    "form_urlencoded": "http",
    "futures_util": "cli/forward feed grpc http server",
    "governor": "http telemetry",
    "http": "auth call.rs cli/forward config grpc http server telemetry/traces",
    "http_body": "grpc server",
    "http_body_util": "auth cli/forward http server",
    "httpdate": "cli/forward",
    "humantime": "cli config",
    "hyper": "server",
    "hyper_rustls": "auth cli/forward",
    "hyper_util": "auth cli server",
    "jsonwebtoken": "auth",
    "mimalloc": "main.rs",
    "opentelemetry": "telemetry/traces",
    "opentelemetry_proto": "telemetry/traces",
    "opentelemetry_sdk": "telemetry/traces",
    "pin_project_lite": "server",
    "prometheus_client": "telemetry",
    "prost": "*",
    "prost_reflect": "proto",
    "prost_types": "*",
    "rand": "auth cli/forward feed model refusal.rs store",
    "redb": "store",
    "ring": "auth cli/backup.rs cli/forward",
    "rustix": "server store",
    "rustls": "auth cli/connect.rs cli/forward server/tls",
    "serde": "auth http",
    "serde_json": "auth cli/forward grpc http proto",
    "siphasher": "store",
    "strsim": "cli",
    "subtle": "auth",
    "thiserror": "*",
    "tokio": "auth feed grpc http quota.rs server cli store telemetry/traces watch.rs",
    "tokio_util": "auth cli/forward feed grpc http server store telemetry/traces",
    "tokio_rustls": "server",
    "toml": "auth config",
    "toml_edit": "cli/token",
    "tonic": "grpc server cli proto.rs telemetry/traces",
    "tonic_health": "server cli/healthcheck.rs",
    "tonic_prost": "grpc proto.rs",
    "tonic_reflection": "server",
    "tonic_types": "cli/forward grpc",
    "tonic_web": "server",
    "tower": "cli server",
    "tower_http": "http server",
    "tracing": "*",
    "tracing_appender": "telemetry",
    "tracing_subscriber": "telemetry",
    "uuid": "command store",
    "x509_parser": "server/tls",
    "xxhash_rust": "*",
    "zstd": "compression.rs",
}

TOKEN = re.compile(
    r"""(?P<skip> //[^\n]* | /\*.*?\*/ | \s+
      | b?r(?P<hash>\#*)".*?"(?P=hash) | b?c?"(?:\\.|[^"\\])*" | b?'(?:\\.[^']*|[^'\\])' )
      | (?P<word> '?\w+ | r\#\w+ ) | (?P<path> :: ) | (?P<other> . )""",
    re.S | re.X,
)


def tokens_of(path: Path) -> list[str]:
    """The words and signs of a file, without comments, strings and inline tests."""
    found = [m[0] for m in TOKEN.finditer(path.read_text()) if not m["skip"]]
    test = ["#", "[", "cfg", "(", "test", ")", "]"]
    code, at = [], 0
    while at < len(found):
        if found[at : at + 7] != test:
            code.append(found[at])
            at += 1
            continue
        while found[at] not in "{;":  # What the attribute is on: a module, a function, a use.
            at += 1
        depth = 0
        while True:
            depth += {"{": 1, "}": -1}.get(found[at], 0)
            at += 1
            if depth == 0:
                break
    return code


def paths_of(tokens: list[str], at: int = 0, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every path that is written, with the groups of `use` spelled out."""
    while at < len(tokens):
        if not re.match(r"\w", tokens[at]):
            at += 1
            continue
        path, at = [tokens[at]], at + 1
        while at + 1 < len(tokens) and tokens[at] == "::" and re.match(r"\w", tokens[at + 1]):
            path.append(tokens[at + 1])
            at += 2
        yield (*before, *path)
        if tokens[at : at + 2] == ["::", "{"]:
            end, depth = at + 2, 1
            while depth:
                depth += {"{": 1, "}": -1}.get(tokens[end], 0)
                end += 1
            yield from paths_of(tokens[at + 2 : end - 1], 0, (*before, *path))
            at = end


def name_of(path: Path, root: Path) -> tuple[str, ...]:
    """The module that a file is: `src/store/read/mod.rs` is `store::read`."""
    parts = path.relative_to(root).with_suffix("").parts
    if parts == ("lib",) or (parts == ("main",) and not (root / "lib.rs").exists()):
        return ()
    return parts[:-1] if parts[-1] == "mod" else parts


def resolved(path: tuple[str, ...], module: tuple[str, ...]) -> tuple[str, ...] | None:
    """The path from the root of the crate; None for one that names another crate or something local."""
    if path[0] == "crate":
        return path[1:]
    if path[0] not in ("self", "super"):
        return None
    while path and path[0] in ("self", "super"):
        module, path = (module[:-1] if path[0] == "super" else module), path[1:]
    return (*module, *path)


class Crate:
    def __init__(self, root: Path) -> None:
        files = [p for p in sorted(root.rglob("*.rs")) if "tests" not in p.parts and p.name != "tests.rs"]
        self.files = {name_of(path, root): path for path in files}
        self.tokens = {path: tokens_of(path) for path in files}
        self.crates = {
            name.replace("-", "_") for name in tomllib.loads((ROOT / "Cargo.toml").read_text())["dependencies"]
        }

    def file_of(self, path: tuple[str, ...], hops: int = 0) -> Path | None:
        """The file that a path from the root leads to. A name that a module re-exports leads to where it comes from."""
        deepest = max((n for n in range(len(path) + 1) if path[:n] in self.files), default=0)
        module, rest = path[:deepest], path[deepest:]
        file = self.files.get(module)
        if file is None or not rest or hops > 4:
            return file
        text = " ".join(self.tokens[file])
        for group in re.findall(r"\bpub (?:\( [\w ]+ \) )?use ([^;]*) ;", text):
            for used in paths_of(group.split()):
                if len(used) > 1 and used[-1] == rest[0]:
                    target = resolved(used, module) or (*module, *used)
                    return self.file_of(target, hops + 1) or file
        return file

    def wrong(self) -> Iterator[str]:
        for name in sorted(self.crates ^ MAY_NAME.keys()):
            yield f"{name}: the dependencies of Cargo.toml and the table of .ci/arrows.py differ"
        for module, path in self.files.items():
            yield from (f"{path.relative_to(ROOT)}: {line}" for line in self.wrong_in(module, path))

    def wrong_in(self, module: tuple[str, ...], path: Path) -> Iterator[str]:
        tokens, top = self.tokens[path], module[0] if module else "lib"
        if top not in MAY_USE:
            yield f"add the module {top} to .ci/arrows.py"
            return
        text = " ".join(tokens)
        hidden = rf"\b(?:crate|super|self|{'|'.join(MAY_NAME)}) as\b|^use ::"
        if "extern crate" in text or any(re.search(hidden, use) for use in re.findall(r"\buse [^;]*;", text)):
            yield "name crates and modules by their own names, so that this check sees them"
        allowed = {top, *MAY_USE[top].split()}
        inside = str(path.relative_to(SRC))
        for used in sorted(set(paths_of(tokens))):
            target = resolved(used, module)
            if target is None and used[0] in MAY_NAME and (len(used) > 1 or f"use {used[0]} ;" in text):
                places = MAY_NAME[used[0]].split()
                ours = used[0] in MAY_USE and f"use crate :: {used[0]}" in text  # `http` is also a module of ours.
                if not ours and "*" not in places and not any(inside == p or inside.startswith(f"{p}/") for p in places):
                    yield f"only {MAY_NAME[used[0]]} may name {used[0]}"
            if target and target[0] in MAY_USE and target[0] not in allowed and module:
                yield f"{top} may not use {target[0]}"

    def circles(self) -> Iterator[str]:
        edges: dict[Path, set[Path]] = {}
        for module, path in self.files.items():
            targets = (resolved(used, module) for used in paths_of(self.tokens[path]))
            found = {self.file_of(target) for target in targets if target}
            # The folder of a file stands for the whole module above it.
            edges[path] = {file for file in found if file and file != path and not related(path, file)}
        state: dict[Path, str] = {}
        trail: list[Path] = []

        def visit(path: Path) -> Iterator[str]:
            state[path] = "open"
            trail.append(path)
            for other in sorted(edges.get(path, ())):
                if state.get(other) == "open":
                    circle = [*trail[trail.index(other) :], other]
                    yield "a circle: " + " -> ".join(str(step.relative_to(ROOT)) for step in circle)
                elif other not in state:
                    yield from visit(other)
            trail.pop()
            state[path] = "done"

        for path in sorted(edges):
            if path not in state:
                yield from visit(path)


def related(path: Path, other: Path) -> bool:
    """Whether one is the `mod.rs` of a folder that holds the other."""
    return any(
        one.name in ("mod.rs", "lib.rs", "main.rs") and two.is_relative_to(one.parent)
        for one, two in ((path, other), (other, path))
    )


def main() -> None:
    server, load = Crate(SRC), Crate(ROOT / "benches/load")
    wrong = sorted({*server.wrong(), *server.circles(), *load.circles()})
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(server.files) + len(load.files)} files use each other in one direction")


if __name__ == "__main__":
    main()
