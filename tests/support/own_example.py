"""The example of the page "Bring your own encoder", as it stands there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "own-encoder.md"


def write_example(folder: Path) -> None:
    """Write the page's module, and weights for it, into a folder."""
    found = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    module = folder / "my_encoder.py"
    module.write_text(found[1])
    torch.save(runpy.run_path(str(module))["Network"]().state_dict(), folder / "birds.pt")
