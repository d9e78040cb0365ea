"""What torchrun starts on every rank: commands of `honed`, one after the other in one process, since starting one takes
seconds. `torchrun ... torchrun_script.py COMMANDS`, a file of `[arguments, step after which it is cut off or null]`."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from toy_runs import CutError, cut_after

from honed.cli import app
from honed.training.distributed import ranks_of

torch.set_num_threads(1)
warnings.simplefilter("error")  # as in the tests

with ranks_of("cpu"):
    for arguments, step in json.loads(Path(sys.argv[1]).read_bytes()):
        with suppress(CutError), cut_after(step):
            app(arguments, standalone_mode=False)
