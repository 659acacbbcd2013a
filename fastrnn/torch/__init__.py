"""fastrnn as a backend of torch (issue 6)."""
