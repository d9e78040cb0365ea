"""The journal's files: whole lines, locks, what is left when a server dies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from honed.server.store import journal
from honed.server.store.journal import Journal


def only_segment(folder: Path) -> Path:
    (path,) = journal.segments(folder)
    return path


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    assert log.append([b"one", b"two"]) == (only_segment(tmp_path).name, 8)
    log.append([b"three"])
    chunk = journal.read(only_segment(tmp_path), 0)
    assert chunk.lines == [b"one", b"two", b"three"]
    assert journal.read(only_segment(tmp_path), 4).lines == [b"two", b"three"]
    assert journal.read(only_segment(tmp_path), chunk.end).lines == []


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    log = Journal(tmp_path / "journal")
    log.append([b"private"])
    assert only_segment(log.folder).stat().st_mode & 0o777 == 0o600
    assert log.folder.stat().st_mode & 0o777 == 0o700


def test_a_line_without_its_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / f"x{journal.SUFFIX}"
    path.write_bytes(b"whole\nhal")
    chunk = journal.read(path, 0)
    assert (chunk.lines, chunk.end) == ([b"whole"], 6)


def test_a_line_longer_than_a_read_is_whole(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    long = b"x" * (3 * journal.READ_BYTES + 5)
    log.append([long, b"short"])
    assert journal.read(only_segment(tmp_path), 0).lines[0] == long


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    log = Journal(tmp_path, segment_bytes=10)
    positions = [log.append([b"12345"]) for _ in range(5)]
    names = [path.name for path in journal.segments(tmp_path)]
    assert len(names) == 3
    assert positions == sorted(positions), "later lines have later positions"
    assert [name for name, _ in positions] == [names[0], names[0], names[1], names[1], names[2]]


def test_a_segment_is_claimed_only_when_its_server_let_go(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.append([b"x"])
    path = only_segment(tmp_path)
    with journal.claimed(path) as is_closed:
        assert not is_closed
    log.close()
    with journal.claimed(path) as is_closed:
        assert is_closed
        with journal.claimed(path) as twice:
            assert not twice
    path.unlink()
    with journal.claimed(path) as is_closed:
        assert not is_closed


DIES = """
import os, sys
from pathlib import Path
from honed.server.store.journal import Journal
Journal(Path(sys.argv[1])).append([b"kept"])
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_server_appended_is_there_and_free(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", DIES, tmp_path], check=False)
    assert done.returncode == -9
    path = only_segment(tmp_path)
    with journal.claimed(path) as is_closed:
        assert is_closed
        assert journal.read(path, 0).lines == [b"kept"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Journal(tmp_path)
    log.append([b"first"])
    write = os.write

    def refuse(file: int, data: bytes) -> int:
        if len(data) <= 4:
            raise OSError(28, "No space left on device")
        return write(file, data[:-4])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(OSError, match="No space"):
            log.append([b"second"])
    log.append([b"third"])
    assert journal.read(only_segment(tmp_path), 0).lines == [b"first", b"third"]


def test_a_segment_that_was_let_go_is_followed_by_another(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    assert log.age_s is None
    first, _ = log.append([b"one"])
    assert log.age_s is not None
    log.close()
    assert log.age_s is None
    second, position = log.append([b"two"])
    assert (second > first, position) == (True, 4)


def test_its_size_is_that_of_all_segments(tmp_path: Path) -> None:
    log = Journal(tmp_path, segment_bytes=4)
    log.append([b"1234"])
    log.append([b"12"])
    assert journal.size_bytes(tmp_path) == 8
