"""The functional core: cells, forward and backward passes over layers and directions, their memory, threads."""
