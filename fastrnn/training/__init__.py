"""The training of models: the loop, checkpoints, stopping, progress."""
