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
    # Not those of `proto/google`: googleapis-common-protos has these stubs, and ours would conflict with them.
    sources = sorted((PROTO / "cameo/v1").glob("*.proto"))
    if not sources:
        raise SystemExit(f"no .proto files in {PROTO / 'cameo/v1'}")
    shutil.rmtree(OUT / "cameo", ignore_errors=True)  # Removes stubs whose .proto file is gone.
    flags = [f"--proto_path={PROTO}", f"--proto_path={WELL_KNOWN}"]
    flags += [f"--{kind}={OUT}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main(["protoc", *flags, *map(str, sources)]) != 0:
        raise SystemExit("protoc failed")
    print(f"generated stubs of {len(sources)} files into {OUT / 'cameo'}")


if __name__ == "__main__":
    main()
