"""Reading and writing of files: atomic writes, reads with limits, model directories."""
