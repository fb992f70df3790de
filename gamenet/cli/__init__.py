"""The command `gamenet`. Needs click and rich, which the package itself does not: `pip install 'gamenet[cli]'`."""

import sys

_NEEDED = ("click", "rich")


def main() -> int:
    """Run the command line; returns the exit code, or raises `SystemExit` with it."""
    try:
        from gamenet.cli.commands import gamenet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        print("the command line needs: pip install 'gamenet[cli]'", file=sys.stderr)
        return 1
    gamenet(prog_name="gamenet")
    return 0
