"""Container images that the components run in; built by `make images`."""

import os

CPU_IMAGE = os.environ.get("VLM_CPU_IMAGE", "vlm-pipelines/cpu:0.1.0")
GPU_IMAGE = os.environ.get("VLM_GPU_IMAGE", "vlm-pipelines/gpu:0.1.0")

IMAGE_USER = 10001
"""User and group that the images run as; a number, since Kubernetes can't see whether a name is root's."""
