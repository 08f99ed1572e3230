"""MLflow: one run per pipeline run, a nested run per stage."""
