"""A new stage's skeleton: its room and its test, from templates."""
