"""Generates the messages and stubs, `src/cameo/v1/*_pb2*`, from the repository's `proto/cameo` folder."""

import shutil
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
OUT = HERE / "src"


def main() -> None:
    # Not of `proto/google`: googleapis-common-protos has those stubs, and ours would come to lie beside or before them.
    sources = sorted((PROTO / "cameo").rglob("*.proto"))
    if not sources:
        raise SystemExit(f"no .proto files under {PROTO / 'cameo'}")
    shutil.rmtree(OUT / "cameo", ignore_errors=True)  # So that nothing outlives its .proto file.
    flags = [f"--proto_path={PROTO}", f"--proto_path={WELL_KNOWN}"]
    flags += [f"--{kind}={OUT}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main(["protoc", *flags, *map(str, sources)]) != 0:
        raise SystemExit("protoc failed")
    print(f"generated {len(sources)} files' stubs into {OUT / 'cameo'}")


if __name__ == "__main__":
    main()
