"""Prints every change of a workspace through a durable subscription. The server keeps the place."""

import argparse
import sys

from cameo_client import CameoError, Client, connect


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--name", default="printer", help="the subscription, which is created if it does not exist")
    parser.add_argument("--until-caught-up", action="store_true", help="end when all changes so far are printed")
    return parser.parse_args()


def ensure(client: Client, name: str) -> None:
    try:
        client.create_subscription(name, start="earliest")
    except CameoError as error:
        if error.reason != "SUBSCRIPTION_EXISTS":
            raise


def main() -> None:
    args = arguments()
    with connect(args.address) as channel:
        client = Client(channel, args.workspace)
        ensure(client, args.name)
        subscription = client.subscription(args.name, until_caught_up=args.until_caught_up)
        for delivery in subscription:
            event = delivery.event  # Never absent: the subscription does not start with a snapshot.
            print(event.sequence, event.type, event.mpid, *event.changed_user_attributes, flush=True)
            subscription.acknowledge(delivery)
            print("acknowledged", event.sequence, flush=True)


if __name__ == "__main__":
    try:
        main()
    except CameoError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
