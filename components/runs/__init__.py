"""What a run is and where it is found: its folder, MLflow, Kubeflow Pipelines."""
