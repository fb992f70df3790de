"""The two twins, and the whole package on each of them, in one process.

What stays true: a class of `twin("pure")` and one of `package(twin("pure"))` are the same class, so what users
declare on the package can be measured on the twin.
"""

import functools
import importlib
import os
import sys
from types import ModuleType
from unittest.mock import patch

NAMES = ("pure", "compiled")


def twin(name: str) -> ModuleType:
    """`gamenet._pure` or `gamenet._compiled`."""
    return importlib.import_module(f"gamenet._{name}")


@functools.cache
def package(twin: ModuleType) -> ModuleType:
    """What `import gamenet` gives where `twin` is chosen: for the pure one, a second copy of the layers above it."""
    import gamenet

    assert gamenet.backend == "compiled"
    if twin.__name__ == "gamenet._compiled":
        return gamenet
    with patch.dict(os.environ, {"GAMENET_PURE": "1"}), patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] == "gamenet"]:
            # layouts are data, made once for both
            if not name.startswith(("gamenet._pure", "gamenet._compiled", "gamenet.layout")):
                del sys.modules[name]
        return importlib.import_module("gamenet")
