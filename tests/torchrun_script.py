"""What torchrun starts on every rank: commands of `honed`, one after the other in one process, since starting one takes
seconds. `torchrun ... torchrun_script.py COMMANDS`, a file of `[arguments, step, call]`: the step after which the
command is cut off, and the call of the engine at which the second rank cannot answer, or null."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from toy_runs import CutError, cut_after, sick_at

from honed.cli import app
from honed.training.distributed import ranks_of

torch.set_num_threads(1)
warnings.simplefilter("error")  # as in the tests

with ranks_of("cpu") as ranks:
    for arguments, step, call in json.loads(Path(sys.argv[1]).read_bytes()):
        with suppress(CutError), cut_after(step), sick_at(call if ranks.rank == 1 else None):
            app(arguments, standalone_mode=False)
