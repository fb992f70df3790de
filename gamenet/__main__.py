"""`python -m gamenet` is the command `gamenet`."""

import sys

from gamenet.cli import main

if __name__ == "__main__":
    sys.exit(main())
