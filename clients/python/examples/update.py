"""Changes a profile. Creates it if it does not exist."""

import argparse
import json
import sys
from typing import Any

from cameo.v1.write_pb2 import WriteOutcome
from cameo_client import CameoError, Client, Identity, ProfilePatch, connect


def assignment(text: str) -> tuple[str, Any]:
    """Parses KEY=VALUE. A value that is JSON, as in `visits=3` or `tags=["a"]`, is parsed; any other is a string."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def increment(text: str) -> tuple[str, float]:
    key, _, by = text.partition("=")
    return key, float(by)


def identity(text: str) -> Identity:
    kind, _, value = text.partition("=")
    return Identity(type=kind, value=value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--mpid", type=int, required=True)
    parser.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE")
    parser.add_argument("--remove", action="append", default=[], metavar="KEY")
    parser.add_argument("--increment", action="append", default=[], type=increment, metavar="KEY=NUMBER")
    parser.add_argument("--add-identity", action="append", default=[], type=identity, metavar="TYPE=VALUE")
    parser.add_argument("--etag", default="", help="fail if the profile no longer has this etag")
    return parser.parse_args()


def patch_of(args: argparse.Namespace) -> ProfilePatch:
    patch = ProfilePatch(
        remove_user_attributes=args.remove,
        increment_user_attributes=dict(args.increment),
        add_identities=args.add_identity,
    )
    patch.set_user_attributes.update(dict(args.set))
    return patch


def main() -> None:
    args = arguments()
    with connect(args.address) as channel:
        client = Client(channel, args.workspace)
        written = client.update_profile(args.mpid, patch_of(args), etag=args.etag, allow_missing=True)
    print(f"outcome  {WriteOutcome.Name(written.outcome)}")
    print(f"etag     {written.profile.etag}")
    print(f"cursor   {written.cursor}")


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
