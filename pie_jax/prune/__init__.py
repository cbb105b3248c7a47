"""Stage I: find the few features that carry a behaviour.

The package is callable: `pie_jax.prune(model, transcoder, pairs)` is `pie_jax.prune.run.prune`,
although the folder of the stage has the same name.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from pie_jax.prune.run import prune

        return prune(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
