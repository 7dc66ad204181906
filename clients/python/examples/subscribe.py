"""Prints every change of a workspace. When it is started again, it continues where it left off."""

import argparse
import sys

from cameo_client import CameoError, Client, Event, FileCursor, connect


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--cursor-file", default="cameo.cursor", help="where to store the cursor between runs")
    parser.add_argument("--earliest", action="store_true", help="start with the oldest event if no cursor is stored")
    parser.add_argument("--until-caught-up", action="store_true", help="end when all changes so far are printed")
    parser.add_argument("--type", action="append", default=[], help="only this type of event; repeatable")
    return parser.parse_args()


def handle(event: Event) -> None:
    # Prints only keys and numbers: values are personal data.
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
