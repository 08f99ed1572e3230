"""The pipeline: its configuration, its DAG, and the `vlm` command."""
