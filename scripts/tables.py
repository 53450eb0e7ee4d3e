"""Print the tables of the paper, all fifteen or those named, with our own results beside.

    python scripts/tables.py
    python scripts/tables.py 2 9 10 --ours ours.yaml
    python scripts/tables.py --ours seed_0.yaml seed_1.yaml --format html > tables.html

``--ours`` names YAML files that say which number of which result of ``scripts/evaluate.py --output`` belongs into which
cell, by table, row and column:

    2:
      ViT-Small/16 DINO-vMF:
        kNN: runs/s0/knn.json k=20

takes ``top1`` of the row with k = 20; ``vmflearn/paper/ours.py`` tells the rest. A row that the paper does not have is
shown below its own.
"""

import argparse
import io
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; returns the exit status."""
    from vmflearn.paper import TABLES
    from vmflearn.paper.ours import OursError, read_ours
    from vmflearn.paper.rendering import FORMATS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help="tables to print (default: all)")
    parser.add_argument("--ours", nargs="+", type=Path, default=[], metavar="FILE.yaml", help="our results, see above")
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="default: %(default)s")
    settings = parser.parse_args()
    if unknown := [str(number) for number in settings.numbers if number not in TABLES]:
        parser.error(f"the paper has no table {', '.join(unknown)}; its tables are 1 to {len(TABLES)}")
    try:
        ours = [read_ours(path) for path in settings.ours]
    except OursError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tables = [TABLES[number] for number in dict.fromkeys(settings.numbers) or TABLES]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # a page of HTML says that it is; and a terminal's may lack the marks
    try:
        sys.stdout.write(FORMATS[settings.format](tables, ours))
        sys.stdout.flush()
    except OSError as error:  # a full disk; a pipe whose reader has seen enough
        print(f"error: the tables cannot be printed: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
