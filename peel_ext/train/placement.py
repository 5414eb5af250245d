"""Where training keeps its tensors: beside NumPy's data, whatever the defaults of torch are."""

from __future__ import annotations

from typing import Any

import torch

#: Keyword arguments of what makes a tensor or a layer.
FLOAT32_ON_CPU: Any = {"dtype": torch.float32, "device": "cpu"}
