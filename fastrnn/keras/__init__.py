"""fastrnn as a backend of keras (issue 6)."""
