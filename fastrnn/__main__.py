"""``python -m fastrnn`` is the ``fastrnn`` command.

Python puts the current folder before all others then, and has imported some modules of its own already. The folder becomes
the last one here, so that a ``json.py`` in it does not stand in for Python's; the ``fastrnn`` command does not look there at all.
"""

import sys

if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        sys.path.append(sys.path.pop(0))
    from fastrnn.cli import command

    sys.exit(command())
