"""The device of a rank, and what processes send each other with."""

from __future__ import annotations

import os

import torch


def find_device(device: str) -> torch.device:
    """The device that this process computes on: of CUDA devices the one whose number is ``LOCAL_RANK``.

    Args:
        device: ``"cuda"``, or the name of a device of which every process has the same.

    Raises:
        ValueError: there is no such CUDA device.
    """
    if device != "cuda":
        return torch.device(device)
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"device must have one CUDA device for each process of this host, got {device!r} with "
            f"{count} of them and process {number + 1}: start at most {count}, or train on the CPU"
        )
    return torch.device(device, number)


def backend_of(device: torch.device) -> str:
    """The library that sends: NCCL tensors of CUDA devices, gloo those of the CPU."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
