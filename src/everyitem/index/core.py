"""The compiled core, or its NumPy twin where it was not built. Knows nothing of indexes."""

import functools
import importlib
import warnings
from types import ModuleType

from everyitem.index import reference


@functools.cache
def load_core() -> ModuleType:
    """The module that searches: `everyitem._native`, or `everyitem.index.reference` after one RuntimeWarning.

    Both have the same functions with the same arguments and return the same bits. A core that was built but does not
    load (a missing library, say) is an error, not a reason to fall back.
    """
    try:
        return importlib.import_module("everyitem._native")
    except ModuleNotFoundError:
        warnings.warn(
            "the C++ core everyitem._native is missing, so searches run on NumPy: the same results, 10 to 100 times "
            "slower. To mend it, install a C++20 compiler (Debian: apt install g++ cmake) and reinstall everyitem.",
            RuntimeWarning,
            stacklevel=3,
        )
        return reference
