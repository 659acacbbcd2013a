"""``python -m fastrnn`` is the ``fastrnn`` command."""

import sys

from fastrnn.cli import command

if __name__ == "__main__":
    sys.exit(command())
