"""Learning while a person paints, in a child process: the training, what it learns from, and what it predicts."""
