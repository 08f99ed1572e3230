"""The kinds of tasks that come with this package: one file each, and what those that mark answers one by one share."""
