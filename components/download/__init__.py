"""The download stages: where data and weights come from."""
