"""`make bench`: how fast the service is, beside what the database allows and beside the usual stack."""

import argparse
import sys
from pathlib import Path

from tests.bench.cases import Stage
from tests.bench.report import describe_machine, print_tables, write_file
from tests.bench.rounds import LostError, count_failed, run_rounds
from tests.bench.rows import GROUPS, cases_of


def main() -> int:
    """Runs the rounds, prints the tables, writes the file; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is run (5)")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--seconds", type=int, default=2, help="how long each of the main cases takes (2)")
    parser.add_argument("--quick", action="store_true", help="one short round over little data")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="where all rounds go (bench.json)")
    options = parser.parse_args()
    groups = options.only.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(GROUPS)}")
    seconds, rounds = (1, 1) if options.quick else (options.seconds, options.rounds)
    machine = describe_machine()
    with Stage(cases_of(groups), is_quick=options.quick, seconds=seconds) as stage:
        try:
            done = run_rounds(stage, rounds)
        except LostError as error:
            print(f"\nverbatim bench: {error}", file=sys.stderr)
            return 1
    print_tables(machine, done)
    write_file(options.output, machine, done)
    if failed := count_failed(done):
        print(f"verbatim bench: failed requests: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
