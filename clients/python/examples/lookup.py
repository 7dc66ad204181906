"""Looks a profile up by its mpid or by one of its identities, and prints it as JSON."""

import argparse
import sys

from google.protobuf.json_format import MessageToJson

from cameo_client import CameoError, Client, Identity, connect


def identity(text: str) -> Identity:
    kind, _, value = text.partition("=")
    return Identity(type=kind, value=value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--mpid", type=int, dest="key")
    key.add_argument("--identity", type=identity, dest="key", metavar="TYPE=VALUE")
    parser.add_argument("--field", action="append", default=[], help="print only this field; repeatable")
    parser.add_argument("--attribute", action="append", default=[], help="print only this user attribute; repeatable")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with connect(args.address) as channel:
        client = Client(channel, args.workspace)
        profile = client.get_profile(args.key, read_mask=args.field, user_attribute_keys=args.attribute)
    print(MessageToJson(profile, preserving_proto_field_name=True, sort_keys=True))


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
