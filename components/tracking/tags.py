"""The tags by which our runs are known in MLflow."""

KIND_TAG = "vlm.kind"
"""Tag of every run of ours: `PIPELINE` or `STAGE`."""

PIPELINE, STAGE = "pipeline", "stage"
RUN_ID_TAG = "vlm.run_id"
WORKSPACE_TAG = "vlm.workspace"
STAGE_TAG = "vlm.stage"
KEY_TAG = "vlm.key"
REUSED_TAG = "vlm.reused"
ERROR_TAG = "vlm.error"
PARTIAL_TAG = "vlm.partial"
MODEL_TAG = "vlm.model"
FOLDER_TAG = "vlm.folder"
PARENT_TAG = "mlflow.parentRunId"
COMMIT_TAG = "mlflow.source.git.commit"
SOURCE_TAG = "mlflow.source.name"
SOURCE_TYPE_TAG = "mlflow.source.type"
USER_TAG = "mlflow.user"
NOTE_TAG = "mlflow.note.content"

TAG_LIMIT = 8000
"""Characters that MLflow keeps of a tag."""
