"""How models are trained: the loop, checkpoints, what stops it, progress."""
