"""How whoever starts processes tells them which device they must use; imports nothing, for launchers without torch."""

DEVICE_VARIABLE = "VLM_DEVICE"
"""Environment variable: "cpu", "cuda", or "auto" as if it were not set."""
