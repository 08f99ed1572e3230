"""Generation: a trained model answers the held-out samples of a task, a partition at a time."""
