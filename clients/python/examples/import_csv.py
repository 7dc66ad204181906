"""Imports a CSV file. The first column identifies the profile; every other column is a user attribute.

Prints counts, and which records were refused and why. It prints no values, because they are personal data.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator

from cameo.v1.profile_service_pb2 import ImportProfilesResponse
from cameo_client import CameoError, Client, Identity, ProfilePatch, connect, explain


class Misshapen(Exception):
    """The number of cells in a row is not the number of headings."""


def records(rows: Iterable[list[str]], kind: str) -> Iterator[tuple[Identity, ProfilePatch]]:
    """A record for each row after the headings. Attributes are strings. An empty cell changes nothing."""
    filled = (row for row in rows if row)  # Skips empty lines.
    headings = next(filled, [])
    for number, row in enumerate(filled, start=1):
        if len(row) != len(headings):
            raise Misshapen(f"the import ends before record {number}: {len(row)} cells under {len(headings)} headings")
        patch = ProfilePatch()
        patch.set_user_attributes.update({key: cell for key, cell in zip(headings[1:], row[1:]) if cell})
        yield Identity(type=kind, value=row[0]), patch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--workspace", default="acme/main/web")
    parser.add_argument("--type", required=True, help="identity type of the first column, such as customer_id")
    parser.add_argument("--silent", action="store_true", help="let subscribers skip the events of the import")
    parser.add_argument("file", help="a CSV file in UTF-8, with headings")
    return parser.parse_args()


def report(answer: ImportProfilesResponse) -> None:
    for outcome in ("created", "updated", "unchanged", "refused"):
        print(f"{outcome:9}  {getattr(answer, outcome)}")
    for refusal in answer.refusals:
        print(f"record {refusal.position + 1}: {explain(refusal.error)}")
    if answer.refused > len(answer.refusals):
        print(f"and {answer.refused - len(answer.refusals)} more records")


def main() -> None:
    args = arguments()
    # A spreadsheet may write a byte order mark. `newline=""` because cells may contain line ends.
    with open(args.file, encoding="utf-8-sig", newline="") as file, connect(args.address) as channel:
        client = Client(channel, args.workspace)
        report(client.import_profiles(records(csv.reader(file), args.type), silent=args.silent))


if __name__ == "__main__":
    try:
        main()
    except (CameoError, Misshapen) as error:
        sys.exit(str(error))
