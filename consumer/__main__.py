"""The `jetrunner` command; `python -m consumer` is the same."""

import sys

from . import cli


def main() -> None:
    """Run the command and exit with its code."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
