"""What the command writes to standard error."""

from __future__ import annotations

import sys


def fail(message, status: int) -> int:
    """Say in one line why the command ends, and return its exit status."""
    prefix = "fastrnn:" if status == 130 else "fastrnn: error:"
    print(prefix, " ".join(str(message).split()), file=sys.stderr)
    return status
