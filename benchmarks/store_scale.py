"""A store with a million completions: how long the questions take that servers and operators ask of it.

    .venv/bin/python benchmarks/store_scale.py [--completions 1000000] [--database sqlite|postgresql] [--runs 5]

The rows are made here, in bulk; what is timed is the store's own functions, median of several runs. For each question
the plan is checked too: one that reads a whole table is said.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, insert, text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from databases import Postgres  # noqa: E402 (the tests' own)

from honed.server.store import completions, feedback  # noqa: E402
from honed.server.store.categories import CATEGORIES, INSTRUCTGPT_SHARES  # noqa: E402
from honed.server.store.database import database_url, open_database, reading  # noqa: E402
from honed.server.store.exchange import exporting  # noqa: E402
from honed.server.store.ids import new_id  # noqa: E402
from honed.server.store.messages import chain  # noqa: E402
from honed.server.store.migrations import migrate  # noqa: E402
from honed.server.store.prefixes import prefix_key  # noqa: E402
from honed.server.store.sampling import sample_prompts  # noqa: E402
from honed.server.store.statistics import statistics as store_statistics  # noqa: E402
from honed.server.store.tables import Choice, Completion, Feedback, Message, Tag, Target  # noqa: E402

AT_ONCE = 10_000
USERS = 20_000
FEEDBACK_EVERY = 20  # completions
