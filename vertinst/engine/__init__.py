"""Train, predict, evaluate, checkpoints: the same loop for every model."""
