"""`python compile_cheaply.py KEY=VALUE ...`: a command, named by $COMMAND, whose compiled blocks skip Inductor.

Traced, guarded and differentiated as with Inductor, at a fraction of the time. A file, because Lightning starts its
further processes with the same arguments.
"""

import importlib
import os

from pretrain.prepare import compiled_prepare_step
from swinmim.models.swinv2 import SwinV2

BACKEND = "aot_eager"


def skip_inductor() -> None:
    """Make BACKEND the default of this process."""
    SwinV2.compile_blocks.__defaults__ = (BACKEND,)
    compiled_prepare_step.__defaults__ = (BACKEND,)


if __name__ == "__main__":
    skip_inductor()
    importlib.import_module(f"{os.environ['COMMAND']}.__main__").main()
