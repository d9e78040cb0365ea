"""Cycles as rows: one at a time, which is the newest, and what was said since."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from exchanged import put_in
from fine_tuning_server import register, stored
from query_plans import plan
from sqlalchemy import Engine, update
from test_cycle import begin, collect

from honed.server.store import cycles, jobs, promotions
from honed.server.store.cycles import CycleGoingOnError, PolicyTriedOutError
from honed.server.store.database import reading, writing
from honed.server.store.ids import new_id
from honed.server.store.tables import Completion


def test_what_is_imported_is_new_when_it_is(store: Engine, tmp_path: Path) -> None:
    """Whatever the order of its ids says, which is that of the file; what the gate asked for is not."""
    collect(store, 5)
    before = datetime.now(UTC) - timedelta(minutes=1)
    put_in(store, tmp_path, [{"prompt": f"Say {n}.", "completion": "So."} for n in range(3)])
    with reading(store) as connection:
        assert cycles.count_since(connection, ("correction",), before) == 3
        assert cycles.count_since(connection, ("correction",), before, at_most=2) == 2
        assert cycles.count_since(connection, ("correction",), datetime.now(UTC) + timedelta(hours=1)) == 0
        assert cycles.count_since(connection, ("ranking",), before) == 5
    with writing(store) as connection:
        connection.execute(update(Completion).values(source="evaluation"))
    with reading(store) as connection:
        assert cycles.count_since(connection, ("ranking",), before) == 0
        how = plan(connection, cycles.count_query(("ranking",), before, 5))
    assert "ix_feedback_kind_created" in how


def test_a_machine_whose_clock_is_ahead_blocks_nobody(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids have the time of the machine that makes them."""
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "new_id", lambda prefix: new_id(prefix, at_s=time.time() + 120))
        ahead = begin(store)
    for _ in range(2):
        with reading(store) as connection:
            last = cycles.newest(connection)
        assert last is not None
        with writing(store) as connection:
            assert cycles.cancel(connection, last.id)
        assert begin(store) != last.id
    with reading(store) as connection:
        last, *others = cycles.before(connection, None)
        assert cycles.newest(connection) == last
        assert [each.id for each in cycles.before(connection, last)] == [each.id for each in others]
    assert last.id < ahead
    assert (others[-1].id, len(others)) == (ahead, 2)


def test_one_cycle_at_a_time_and_none_while_a_policy_is_tried_out(store: Engine) -> None:
    cycle_id = begin(store)
    with pytest.raises(CycleGoingOnError, match=cycle_id):
        begin(store)
    with writing(store) as connection:
        assert jobs.ask(connection, cycle_id, "cancel")
    register(store, "m-ppo", "ppo")
    with writing(store) as connection:
        promotions.try_out(connection, "ckpt-m-ppo", share=10, advances=False, key_id=None)
    with pytest.raises(PolicyTriedOutError):
        begin(store)
    with writing(store) as connection:
        promotions.promote(connection, "ckpt-m-ppo", key_id=None)
    assert stored(store, begin(store)).payload["model"] == "m-ppo", "it begins with what is in service"
