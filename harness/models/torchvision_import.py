"""Import torchvision even where its compiled operators cannot be loaded.

A CPU build of torch next to torchvision's default (CUDA) wheel is a common pairing, and there ``import torchvision`` raises
because two detection operators it wants to describe do not exist. Nothing here uses detection operators, so their
*signatures* are declared and the import repeated. With a matching pair of builds this module does nothing.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a Library object withdraws its declarations when collected


def torchvision(submodule: str = "") -> ModuleType:
    """Return ``torchvision`` or one of its submodules, e.g. ``torchvision("models")``."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    new_library: Any = torch.library.Library  # which torch gives no types
    library = new_library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + _SIGNATURE)
    _declared.append(library)
    return importlib.import_module(name)
