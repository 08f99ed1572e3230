"""What a device can do at most, and how much of its memory is in use."""

import psutil
import torch

_GIB = 2**30

_BF16_PEAKS = {
    # part of the name that CUDA reports, most specific first: dense bf16 operations per second (no sparsity)
    "GB200": 2500e12,  # NVIDIA GB200 NVL72 specifications: 360 PFLOPS sparse for 72
    "B200": 2250e12,  # NVIDIA HGX platform, specifications: 36 PFLOPS sparse for eight
    "GH200": 989.4e12,  # NVIDIA GH200 data sheet: 1,979 TFLOPS sparse
    "H200": 989.4e12,  # NVIDIA H200 data sheet (SXM): 1,979 TFLOPS sparse
    "H100 PCIe": 756.4e12,  # NVIDIA H100 data sheet: 1,513 TFLOPS sparse
    "H100 NVL": 835.5e12,  # NVIDIA H100 NVL data sheet: 1,671 TFLOPS sparse
    "H100": 989.4e12,  # NVIDIA H100 data sheet (SXM): 1,979 TFLOPS sparse
    "A100": 311.9e12,  # NVIDIA A100 data sheet: 312 TFLOPS
}
_BF16_PEAKS_OF = {
    # whole names: their relatives (Ti, D, Laptop) are other GPUs
    "NVIDIA GeForce RTX 4090": 165.2e12,  # NVIDIA Ada GPU architecture, appendix A: with fp32 accumulation
    "NVIDIA GeForce RTX 3090": 71e12,  # NVIDIA Ampere GA102 GPU architecture, table 9: with fp32 accumulation
}
_MEMORY_GIB = {
    # part of the name, most specific first: what CUDA reports as the GPU's whole memory, about
    "GB200": 184,
    "B200": 178,
    "GH200 480GB": 95,
    "H200": 139.8,
    "H100 NVL": 93,
    "H100": 79.2,
    "A100-SXM4-40GB": 39.4,
    "A100-PCIE-40GB": 39.4,
    "A100": 79.2,
    "RTX 4090": 23.5,
    "RTX 3090": 23.6,
}


def gpu_memory(name: str) -> int | None:
    """Return the bytes of memory of a GPU that may not be here, about, or None of one that is not known.

    Args:
        name: As `torch.cuda.get_device_name()` gives it.
    """
    found = next((size for model, size in _MEMORY_GIB.items() if model in name and "MIG" not in name), None)
    return None if found is None else int(found * _GIB)


def bf16_peak(name: str) -> float | None:
    """Return the dense bf16 peak of a GPU in operations per second, or None of one that is not known.

    Args:
        name: As `torch.cuda.get_device_name()` gives it.
    """
    if name in _BF16_PEAKS_OF:
        return _BF16_PEAKS_OF[name]
    return next((peak for model, peak in _BF16_PEAKS.items() if model in name and "MIG" not in name), None)


def memory_in_use(device: torch.device) -> dict[str, float]:
    """Return this process's memory as metrics, in GiB: on a GPU the peaks since the start, on a CPU what is resident now."""
    if device.type != "cuda":
        return {"memory_resident_gib": psutil.Process().memory_info().rss / _GIB}
    return {
        "memory_allocated_gib": torch.cuda.max_memory_allocated(device) / _GIB,
        "memory_reserved_gib": torch.cuda.max_memory_reserved(device) / _GIB,
    }
