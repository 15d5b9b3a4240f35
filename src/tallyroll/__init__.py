"""Every thing an AI agent does, once, in order, on Apache Kafka or an embedded log; everything else is made from it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tallyroll._public import *  # noqa: F403  # the names in its __all__
else:

    def __getattr__(name):  # noqa: ANN001, ANN202
        """The public names, all imported when the first of them is used: who needs only a part, as the command line does, starts sooner."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        try:
            return import_module(f"{__name__}.{name}")  # `from tallyroll import errors` asks here first
        except ModuleNotFoundError as missing:
            if missing.name != f"{__name__}.{name}":
                raise
        public = import_module(f"{__name__}._public")
        globals().update({exported: getattr(public, exported) for exported in ("__all__", *public.__all__)})
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__getattr__("__all__")})
