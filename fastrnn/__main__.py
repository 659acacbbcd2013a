"""``python -m fastrnn`` is the ``fastrnn`` command.

With ``-m``, Python searches the current folder first, and has already imported some modules by then. This module moves
the folder to the end of ``sys.path``, so that a ``json.py`` in it does not replace Python's. The ``fastrnn`` command
does not search it at all.
"""

import sys

if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        sys.path.append(sys.path.pop(0))
    from fastrnn.cli import command

    sys.exit(command())
