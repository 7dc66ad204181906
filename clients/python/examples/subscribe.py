"""Prints every change of a workspace, and goes on where it left off when it is started again."""

import argparse
import sys

from cameo_client import CameoError, Client, Event, FileCursor, connect


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--cursor-file", default="cameo.cursor", help="where to remember how far this program came")
    parser.add_argument("--earliest", action="store_true", help="without a cursor, begin with the oldest event")
    parser.add_argument("--until-caught-up", action="store_true", help="end when everything so far is printed")
    parser.add_argument("--type", action="append", default=[], help="only this type of event; may be repeated")
    return parser.parse_args()


def handle(event: Event) -> None:
    # Keys and numbers only: values are personal data.
    print(event.sequence, event.type, event.mpid, *event.changed_user_attributes, flush=True)


def main() -> None:
    args = arguments()
    with connect(args.address) as channel:
        subscription = Client(channel, args.workspace).subscribe(
            FileCursor(args.cursor_file),
            earliest=args.earliest,
            types=args.type,
            until_caught_up=args.until_caught_up,
        )
        for event, _ in subscription:
            handle(event)


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
