"""Exports everything that the service holds on a person into a file, and then erases the person.

Without `--erase` it only exports, and says what an erasure would reach.
"""

import argparse
import os
import sys

from cameo_client import CameoError, Client, Identity, connect


def identity(text: str) -> Identity:
    kind, _, value = text.partition("=")
    return Identity(type=kind, value=value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--mpid", type=int, dest="key", help="also of a profile that was deleted")
    key.add_argument("--identity", type=identity, dest="key", metavar="TYPE=VALUE")
    parser.add_argument("--export", metavar="FILE", help="a new file, which only its owner may read")
    parser.add_argument("--erase", action="store_true")
    return parser.parse_args()


def export(client: Client, key: int | Identity, path: str) -> None:
    parts = client.export_subject(key)
    first = next(parts)  # Before the file is made: there may be no such person.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(first)
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())  # What is erased next cannot be exported again.


def main() -> None:
    args = arguments()
    with connect(args.address) as channel:
        client = Client(channel, args.workspace)
        if args.export:
            export(client, args.key, args.export)
        erased = client.erase_profile(args.key, validate_only=not args.erase)
    print("erased" if args.erase else "would erase", *erased.mpids)
    if args.erase:
        print("Compact the store when you have erased all that you have to: `cameo compact`.")


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
