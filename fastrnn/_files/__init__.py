"""Files: written whole or not at all, read with limits; model directories."""
