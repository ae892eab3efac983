"""Where a command begins, and what Ctrl-C does as long as no command has been imported."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from palm_cache.cli import app

        app()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: nothing was written\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
