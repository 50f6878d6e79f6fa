"""Public weights: the manifest, and fetching from a real server on this machine; nothing leaves it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import yaml
from PIL import Image
from torchvision.models import get_model_weights

from vertinst import cli, doctor
from vertinst.cli import run
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine import public_weights, weights_manifest
from vertinst.engine.public_weights import fetch, verify
from vertinst.engine.weights_manifest import Manifest, packaged_manifest, read_manifest
from vertinst.errors import CheckpointError, ConfigError, DownloadError, VertinstError


@dataclass
class Site:
    """What the server has and how it behaves.

    Attributes:
        content: The file.
        ranges: Whether parts of it are served.
        version: Its ETag; None for none.
        cut_after: Bytes of an answer after which the connection is closed; None for none.
        status: Answer with this instead.
        redirect: Send on to this address.
        reason: What stands behind the number of the status.
        length: Content-Length to announce; None for the truth, 0 for none at all.
        chunked: Send in chunks, without a length.
        kind: Content-Type.
        encoding: Content-Encoding.
        pause_s: Before anything is sent.
        shift: Answer ranges from so many bytes later than asked.
        ranged: Beginnings of the ranges that were asked for, None where none was.
    """

    content: bytes = b""
    ranges: bool = True
    version: str | None = '"1"'
    cut_after: int | None = None
    status: int | None = None
    redirect: str | None = None
    reason: str | None = None
    length: int | str | None = None
    chunked: bool = False
    kind: str = "application/octet-stream"
    encoding: str | None = None
    pause_s: float = 0.0
    shift: int = 0
    ranged: list[int | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        self.ranged.append(int(asked[1]) if asked else None)
        time.sleep(self.pause_s)
        if self.redirect or self.status:
            handler.send_response(self.status or 302, self.reason)
            handler.send_header("Content-Length", "0")
            if self.redirect:
                handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        same = handler.headers.get("If-Range", self.version) == self.version
        start = int(asked[1]) + self.shift if asked and self.ranges and same else 0
        if start > len(self.content):
            handler.send_error(416)
            return
        self._send(handler, start)

    def _send(self, handler: BaseHTTPRequestHandler, start: int) -> None:
        body, total = self.content[start:], len(self.content)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", self.kind)
        if self.encoding:
            handler.send_header("Content-Encoding", self.encoding)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if self.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif self.length != 0:
            handler.send_header("Content-Length", str(self.length if self.length is not None else len(body)))
        if self.version:
            handler.send_header("ETag", self.version)
        handler.end_headers()
        body = body[: self.cut_after]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) if self.chunked else body)
        if self.chunked and self.cut_after is None:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve `site` at `site.url` for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # A client that goes away is none of the server's business.
            try:
                site.answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/weights.pth?download=true"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test, and no proxy between it and the server."""
    monkeypatch.setenv("VERTINST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def site():
    with serving(Site(CONTENT)) as found:
        yield found


def entry(url, **changes):
    facts = {
        "name": "net", "file": "weights.pth", "url": url, "page": "https://publisher.example/net", "sha256": None,
        "size": None, "licence": "MIT", "licence_source": "there", "classes": "coco", "architecture": "a net",
        "models": ["yolact"], "note": "none",
    }  # fmt: skip
    return Manifest.model_validate({"weights": [facts | changes]})


def notes_of(cache):
    return json.loads((cache / "weights.pth.json").read_text())


def leftovers(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.startswith("."))


def test_a_file_is_fetched_verified_and_found_by_its_name(site, cache):
    known = entry(site.url, sha256=SHA256)
    steps = []
    stored = fetch("net", manifest=known, progress=lambda *step: steps.append(step))
    assert stored.state == public_weights.VERIFIED
    assert stored.path == cache / "weights.pth"
    assert stored.path.read_bytes() == CONTENT
    assert public_weights.find(known.weights[0]) == stored.path
    assert leftovers(cache) == ["weights.pth", "weights.pth.json"]
    assert steps
    assert all(label == "fetching net (MB)" and done <= total for done, total, label in steps)
    fetch("net", manifest=known)
    assert site.ranged == [None], "what is there is not fetched again"


def test_a_hash_that_nobody_names_is_recorded_and_checked_ever_after(site, cache):
    known = entry(site.url)
    assert fetch("net", manifest=known).state == public_weights.RECORDED
    assert notes_of(cache)["sha256"] == SHA256
    (cache / "weights.pth").unlink()
    site.content = OTHER
    with pytest.raises(CheckpointError, match=f"must be {SHA256} as at the first download"):
        fetch("net", manifest=known)
    assert leftovers(cache) == ["weights.pth.json"]
    site.content = CONTENT
    assert fetch("net", manifest=known).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"sha256_starts": SHA256[:8]}, public_weights.STARTS),
        ({"md5_starts": MD5[:6]}, public_weights.STARTS),
        ({"sha256": "0" * 64}, None),
        ({"sha256_starts": "00000000"}, None),
        ({"md5_starts": "000000"}, None),
    ],
)
def test_what_the_publisher_says_of_a_hash_is_compared(site, cache, facts, state):
    known = entry(site.url, **facts)
    if state:
        assert fetch("net", manifest=known).state == state
        return
    with pytest.raises(CheckpointError, match=r"must (be|begin with) 0+, got [0-9a-f]+\n.*was removed"):
        fetch("net", manifest=known)
    assert leftovers(cache) == []


def test_a_cut_download_goes_on_where_it_was_cut(site, cache):
    known = entry(site.url, sha256=SHA256)
    site.cut_after = 300_000
    with pytest.raises(DownloadError, match=f"cut after 300000 of {len(CONTENT)} bytes\n300000 bytes are kept"):
        fetch("net", manifest=known)
    assert leftovers(cache) == ["weights.pth.part", "weights.pth.part.json"]
    site.cut_after = None
    assert fetch("net", manifest=known).path.read_bytes() == CONTENT
    assert site.ranged == [None, 300_000]
    assert leftovers(cache) == ["weights.pth", "weights.pth.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"ranges": False},
        {"version": '"2"', "content": OTHER},
        {"content": CONTENT[:1000]},
        {"shift": 5},
    ],
)
def test_where_a_server_cannot_go_on_the_file_is_fetched_anew(site, cache, changes):
    known = entry(site.url)
    site.cut_after = 300_000
    with pytest.raises(DownloadError, match="are kept"):
        fetch("net", manifest=known)
    site.cut_after = None
    for name, value in changes.items():
        setattr(site, name, value)
    assert fetch("net", manifest=known).path.read_bytes() == site.content


@pytest.mark.parametrize("version", [None, 'W/"1"'])
def test_without_a_name_for_the_version_nothing_is_joined(site, cache, version):
    site.version, site.cut_after = version, 1000
    with pytest.raises(DownloadError, match="cut") as caught:
        fetch("net", manifest=entry(site.url))
    assert "kept" not in str(caught.value)
    site.cut_after, site.content = None, OTHER
    assert fetch("net", manifest=entry(site.url)).path.read_bytes() == OTHER
    assert site.ranged == [None, None]


def test_chunks_are_taken_and_a_cut_in_them_is_noticed(site, cache):
    site.chunked, site.cut_after = True, 1000
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch("net", manifest=entry(site.url))
    site.cut_after = None
    assert fetch("net", manifest=entry(site.url)).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 404}, "answered 404 Not Found"),
        ({"status": 403}, "answered 403"),
        ({"status": 204}, "answered 204"),
        ({"redirect": "http://elsewhere.example/w.pth?key=secret"}, "sent on to http://elsewhere.example/w.pth, which"),
        ({"redirect": "ftp://127.0.0.1/w.pth"}, "ftp"),
        ({"redirect": "file:///etc/hostname"}, "file"),
        ({"kind": "text/html; charset=utf-8"}, "a web page came in place of the file"),
        ({"length": 10**9}, "must have at most 600000 bytes, the server's has 1000000000"),
        ({"chunked": True, "content": CONTENT * 8}, "at most 600000 bytes, the server sent more"),
        ({"length": 0}, "does not say how long"),
        ({"encoding": "gzip"}, "packed"),
        ({"length": -5}, "does not say how long"),
        ({"length": "9" * 5000}, "does not say how long"),
        ({"redirect": "https://[bad/w.pth"}, "could not be fetched: Invalid IPv6 URL"),
        ({"redirect": f"https://{'a' * 70}.example/w.pth"}, "could not be fetched: encoding with 'idna'"),
        ({"redirect": "http://name:secret@else.example/w.pth"}, "sent on to http://else.example/w.pth, which"),
        ({"status": 404, "reason": "\x1b[2Jgone\tagain"}, r"answered 404 \?\[2Jgone again\n"),
    ],
)
def test_an_answer_other_than_the_file_is_refused_with_the_way_by_hand(site, cache, changes, message):
    for name, value in changes.items():
        setattr(site, name, value)
    megabytes = []
    with pytest.raises(DownloadError, match=message) as caught:
        fetch("net", manifest=entry(site.url, size=600_000), progress=lambda done, *_: megabytes.append(done))
    assert not any(megabytes), "no more than allowed is taken in"
    text = str(caught.value)
    assert site.url in text
    assert f"By hand: save what that address gives as {cache / 'weights.pth'}" in text
    assert "vertinst weights verify net" in text
    assert "secret" not in text
    assert leftovers(cache) == []


@pytest.mark.parametrize("version", ['"1"\r\nX-Other: 1', "\u20ac", 1])
def test_damaged_notes_of_what_was_begun_are_no_headers(site, cache, version):
    cache.mkdir(parents=True)
    (cache / "weights.pth.part").write_bytes(CONTENT[:1000])
    (cache / "weights.pth.part.json").write_text(json.dumps({"url": site.url, "version": version}))
    assert fetch("net", manifest=entry(site.url)).path.read_bytes() == CONTENT
    assert site.ranged == [None]


@pytest.mark.parametrize("begun", ["weights.pth.part", "weights.pth.part.json", "weights.pth"])
def test_what_links_lead_to_is_not_written(site, cache, tmp_path, begun):
    cache.mkdir(parents=True)
    (cache / "weights.pth.part").write_bytes(CONTENT[:1000])
    (cache / "weights.pth.part.json").write_text(json.dumps({"url": site.url, "version": site.version}))
    (cache / begun).unlink(missing_ok=True)
    (tmp_path / "other").write_text("not ours")
    (cache / begun).symlink_to(tmp_path / "other")
    path = fetch("net", manifest=entry(site.url, sha256=SHA256)).path
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert (tmp_path / "other").read_text() == "not ours"


def test_more_than_was_announced_is_not_taken(site, cache):
    site.length = 1000
    assert fetch("net", manifest=entry(site.url)).path.read_bytes() == CONTENT[:1000]


def test_a_redirect_is_followed(site, cache):
    with serving(Site(redirect=site.url)) as first:
        assert fetch("net", manifest=entry(first.url, sha256=SHA256)).path.read_bytes() == CONTENT


def test_a_silent_server_is_given_up(site, cache, monkeypatch):
    monkeypatch.setattr("vertinst.engine.download.TIMEOUT_S", 0.1)
    site.pause_s = 0.4
    with pytest.raises(DownloadError, match="no answer for 0 s"):
        fetch("net", manifest=entry(site.url))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/weights.pth", "https://nowhere.invalid/weights.pth"])
def test_without_a_network_the_message_says_where_to_put_the_file(cache, url):
    with pytest.raises(
        DownloadError, match=f"{url}: could not be fetched.*\nBy hand: save what that address gives as {cache}"
    ) as error:
        fetch("net", manifest=entry(url))
    assert "Errno" not in str(error.value)


def test_the_disk_must_have_room(site, cache, monkeypatch):
    monkeypatch.setattr("vertinst.engine.download.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match="bytes must be free"):
        fetch("net", manifest=entry(site.url))


def test_a_cache_that_cannot_be_written_is_named(site, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in its place")
    with pytest.raises(VertinstError, match="VERTINST_CACHE"):
        fetch("net", manifest=entry(site.url))


def test_a_shared_cache_may_be_closed_to_writing(site, cache):
    cache.mkdir(parents=True)
    # In place of a folder without permission, which would not keep root out.
    (cache / ".weights.pth.lock").mkdir()
    known = entry(site.url, sha256=SHA256)
    with pytest.raises(VertinstError, match=r"\.weights\.pth\.lock: cannot be written: .*\n.*VERTINST_CACHE"):
        fetch("net", manifest=known)
    (cache / "weights.pth").write_bytes(CONTENT)
    assert fetch("net", manifest=known).state == public_weights.VERIFIED


def test_two_processes_that_want_the_same_file_do_each_other_no_harm(site, cache):
    site.pause_s = 0.1
    known = entry(site.url, sha256=SHA256)
    code = (
        "import sys; from vertinst.engine.public_weights import fetch;"
        "from vertinst.engine.weights_manifest import Manifest;"
        "fetch('net', manifest=Manifest.model_validate_json(sys.argv[1]))"
    )
    other = subprocess.Popen([sys.executable, "-P", "-c", code, known.model_dump_json()])
    with ThreadPoolExecutor(3) as pool:
        stored = list(pool.map(lambda _: fetch("net", manifest=known), range(3)))
    assert other.wait(60) == 0
    assert site.ranged == [None]
    assert {s.path.read_bytes() for s in stored} == {CONTENT}


def test_a_file_put_there_by_hand_is_verified_and_recorded(cache):
    known = entry(None)
    with pytest.raises(
        DownloadError, match=r"no program can.*\nBy hand: save weights.pth from https://publisher.example"
    ):
        fetch("net", manifest=known)
    assert public_weights.listing(known)[0].state == public_weights.BY_HAND
    cache.mkdir(parents=True)
    (cache / "weights.pth").write_bytes(CONTENT)
    assert public_weights.find(known.weights[0]) == cache / "weights.pth"
    assert public_weights.listing(known)[0].state == public_weights.UNCHECKED
    assert [s.state for s in verify(manifest=known)] == [public_weights.RECORDED]
    (cache / "weights.pth").write_bytes(OTHER)
    assert public_weights.listing(known)[0].state == public_weights.RECORDED, "of the same size: only reading tells"
    (wrong,) = verify(["net"], manifest=known)
    assert wrong.state == public_weights.WRONG
    assert f"must be {SHA256}" in str(wrong.problem)
    with pytest.raises(CheckpointError, match=f"must be {SHA256}"):
        public_weights.find(known.weights[0])
    (cache / "weights.pth").write_bytes(OTHER[:10])
    assert public_weights.listing(known)[0].state == public_weights.CHANGED
    assert (cache / "weights.pth").exists(), "what the user put there is not deleted"


def test_a_saved_web_page_is_no_weights_file(cache):
    cache.mkdir(parents=True)
    (cache / "weights.pth").write_bytes(b"\n <!DOCTYPE html><html>")
    (wrong,) = verify(manifest=entry(None))
    assert "got a web page" in str(wrong.problem)
    assert leftovers(cache) == ["weights.pth"]


def test_a_wrong_file_in_the_cache_is_fetched_again(site, cache):
    cache.mkdir(parents=True)
    (cache / "weights.pth").write_bytes(b"damaged")
    assert fetch("net", manifest=entry(site.url, sha256=SHA256)).path.read_bytes() == CONTENT


def test_a_broken_record_is_told(site, cache):
    known = entry(site.url)
    fetch("net", manifest=known)
    (cache / "weights.pth.json").write_text('{"sha256": "../../etc"}')
    assert public_weights.listing(known)[0].state == public_weights.CHANGED
    assert "sha256" in str(verify(manifest=known)[0].problem)


def test_named_but_absent_is_a_problem_and_nothing_there_is_none(site):
    known = entry(site.url)
    assert verify(manifest=known) == []
    (absent,) = verify(["net"], manifest=known)
    assert "vertinst weights fetch net" in str(absent.problem)
    with pytest.raises(CheckpointError, match=r"Did you mean net\?"):
        verify(["nett"], manifest=known)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://publisher.example/w.pth"}, "url must begin with https://"),
        ({"url": "file:///etc/passwd"}, "url must begin with https://"),
        ({"file": "../weights.pth"}, "file"),
        ({"name": ".hidden"}, "name"),
        ({"sha256": "12"}, "sha256"),
        ({"sha256_starts": 12345678}, "sha256_starts"),
        ({"licence": ""}, "licence"),
        ({"classes": "birds"}, "classes"),
        ({"models": []}, "models"),
        ({"packaged": True}, "packaged weights must"),
        ({"colour": "red"}, "unknown key weights.0.colour"),
    ],
)
def test_a_manifest_that_is_incomplete_or_unsafe_is_refused(tmp_path, changes, message):
    facts = entry("https://publisher.example/w.pth").model_dump(mode="json")["weights"][0]
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"weights": [facts | changes]}))
    with pytest.raises(ConfigError, match=message):
        read_manifest(tmp_path / "manifest.yaml")


def test_names_stand_once(tmp_path):
    facts = entry("https://publisher.example/w.pth").model_dump(mode="json")["weights"][0]
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"weights": [facts, facts]}))
    with pytest.raises(ConfigError, match="each name must stand once, got twice: net"):
        read_manifest(tmp_path / "manifest.yaml")


def test_the_packaged_manifest_is_complete():
    entries = packaged_manifest().weights
    assert {"demo", "mask_rcnn_R_50_FPN_3x", "maskrcnn_resnet50_fpn_v2", "yolact_base"} <= {e.name for e in entries}
    for found in entries:
        parts = urlsplit(found.url or "https://none")
        assert parts.scheme == "https", found.name
        assert found.url is None or PurePosixPath(parts.path).name == found.file, found.name
        # What stands in the publisher's file name is used.
        if "dl.fbaipublicfiles.com" in parts.netloc and "model_final" in found.file:
            assert f"model_final_{found.md5_starts}.pkl" == found.file
        if "download.pytorch.org" in parts.netloc:
            assert found.file.endswith(f"-{found.sha256_starts}.pth")
        assert found.licence_source.startswith("https://") or found.packaged
        assert set(found.models) <= {"mask_rcnn", "detectron2", "yolact"}


def test_the_entries_of_torchvision_are_torchvisions_own():
    ours = {e.file: e for e in packaged_manifest().weights if e.url and "download.pytorch.org" in e.url}
    theirs = {}
    for model in ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "resnet18", "resnet34", "resnet50", "resnet101"):
        for weights in get_model_weights(model):
            name = model if "rcnn" in model else f"{model}_{weights.name.lower()}"
            theirs[weights.url.rsplit("/", 1)[1]] = (name, weights.url, weights.meta["_file_size"])
    assert {file: (e.name, e.url, e.size_mib) for file, e in ours.items()} == theirs


def test_demo_is_the_packaged_file_whatever_lies_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_bytes(b"another")
    path = checkpoints.find_weights("demo")
    assert path.name == "yolact_demo.safetensors"
    (stored,) = verify(["demo"])
    assert (stored.state, stored.problem) == (public_weights.PACKAGED, None)


def test_weights_are_found_by_name_and_a_local_path_comes_first(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "yolact_base"
    with pytest.raises(CheckpointError, match="not on this machine\nRun: vertinst weights fetch yolact_base"):
        checkpoints.find_weights(name)
    with pytest.raises(CheckpointError, match=r"not on this machine\nBy hand: save yolact_resnet50_pascal\.pth from"):
        checkpoints.find_weights(Path("yolact_resnet50_pascal"))
    cache.mkdir(parents=True)
    (cache / "yolact_base_54_800000.pth").write_bytes(CONTENT)
    assert checkpoints.find_weights(Path(name)) == cache / "yolact_base_54_800000.pth"
    Path(name).write_bytes(b"a local file")
    assert checkpoints.find_weights(name) == Path(name)


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, ".cache/vertinst/weights"),
        ("linux", {"XDG_CACHE_HOME": "/big/cache"}, "/big/cache/vertinst/weights"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, ".cache/vertinst/weights"),
        ("darwin", {}, "Library/Caches/vertinst/weights"),
        ("linux", {"VERTINST_CACHE": "/shared/nets"}, "/shared/nets/weights"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, tmp_path, platform, variables, folder):
    for name in ("VERTINST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert public_weights.cache_folder() == tmp_path / folder


@pytest.fixture
def known(site, monkeypatch):
    """The commands know two files of the local server, one that is to be fetched by hand, and the demo."""
    with serving(Site(OTHER)) as other:
        first = entry(site.url, sha256=SHA256, size_mib=0.5).weights[0]
        second = first.model_copy(update={"name": "other", "file": "other.pth", "url": other.url, "sha256": None})
        manual = first.model_copy(update={"name": "manual", "file": "manual.pth", "url": None})
        demo = packaged_manifest().named("demo")
        manifest = Manifest(weights=(demo, first, second, manual))
        for module in (public_weights, weights_manifest, checkpoints):
            monkeypatch.setattr(module, "packaged_manifest", lambda: manifest)
        yield manifest


def states(capsys):
    capsys.readouterr()
    assert run(["weights", "list", "--json"]) == 0
    return {e["name"]: e["state"] for e in json.loads(capsys.readouterr().out)}


def test_the_commands_list_fetch_and_verify(known, cache, capsys):
    assert states(capsys) == {
        "demo": "packaged",
        "net": "not fetched",
        "other": "not fetched",
        "manual": "by hand only, no program can fetch it",
    }
    assert run(["weights", "fetch", "net", "other"]) == 0
    printed = capsys.readouterr()
    assert f"net: fetched, hash verified: {cache / 'weights.pth'}\n  Licence: MIT (there)" in printed.out
    assert "other: fetched, hash recorded" in printed.out
    assert "other: its publisher names no hash" in printed.err
    assert "net: its publisher" not in printed.err
    assert run(["weights", "verify"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["demo", "net", "other"]
    (cache / "weights.pth").write_bytes(OTHER)
    assert run(["weights", "verify", "net", "other"]) == 2
    printed = capsys.readouterr()
    assert "net: wrong:" in printed.out
    assert re.search(
        rf"Error: .*weights.pth: sha256 must be {SHA256}, got .*\nRun: vertinst weights fetch net", printed.err
    )
    assert run(["weights", "fetch", "net"]) == 0
    assert run(["weights", "verify", "net"]) == 0


def test_the_table_shows_whole_names_licences_and_states_on_any_terminal(capsys, monkeypatch):
    monkeypatch.setattr(cli.out, "_width", 80)
    assert run(["weights", "list"]) == 0
    text = capsys.readouterr().out
    names = {line.split()[0] for line in text.splitlines() if line.split()}
    assert {e.name for e in packaged_manifest().weights} <= names
    assert max(map(len, text.splitlines()[1:])) <= 80, "the first line is the cache's path"
    for words in ("Apache-2.0", "CC-BY-SA-3.0", "code MIT", "packaged", "not fetched", "26 MB", "fetch NAME"):
        assert words in text


def test_an_entry_has_one_line_in_100_columns_and_two_in_80(known, capsys, monkeypatch):
    for columns, lines_each in ((100, 1), (80, 2)):
        # Not COLUMNS: a console that was made where it was set keeps that width.
        monkeypatch.setattr(cli.out, "_width", columns)
        capsys.readouterr()
        assert run(["weights", "list"]) == 0
        table = capsys.readouterr().out.split("\n\n")[1].splitlines()
        assert len(table) == 1 + lines_each * len(known.weights)
        assert re.split("  +", table[-lines_each])[-2:] == ["MIT", "by hand only"]
        assert table[-1].startswith("manual" if columns == 100 else "  a net; coco; ")


STATES = [value for name, value in vars(public_weights).items() if name.isupper() and " " in str(value)]


def test_every_public_entry_fits_into_100_columns():
    stored = [public_weights.Stored(e, Path("f"), s) for e in packaged_manifest().weights for s in STATES]
    assert max(map(len, cli.listed_weights(stored, wide=True))) <= 100
    assert max(map(len, cli.listed_weights(stored, wide=False))) <= 80


def test_the_commands_fail_with_one_message(known, capsys):
    for arguments, message in (
        (["fetch", "nett"], r"Error: nett: no public weights.*\nDid you mean net\?"),
        (["verify", "net"], r"Error: net: .*\nRun: vertinst weights fetch net"),
        (["fetch", "manual"], r"Error: manual: no program can fetch .*\nBy hand: save manual\.pth from https://pub"),
        (["fetch"], "Missing argument"),
    ):
        capsys.readouterr()
        assert run(["weights", *arguments]) == 2
        printed = capsys.readouterr().err
        assert re.search(message, printed), printed
        assert "Traceback" not in printed


def test_doctor_tells_where_the_cache_is(cache):
    assert doctor._weights().found == f"0 in {cache}"
    cache.mkdir(parents=True)
    (cache / "R-50.pkl").write_bytes(CONTENT)
    assert doctor._weights() in doctor.examine()
    assert doctor._weights().found == f"1 in {cache}"


def test_nothing_is_fetched_by_using_a_name(known, site, tmp_path, capsys):
    Image.new("L", (64, 64)).save(tmp_path / "film.png")
    films, out = str(tmp_path / "film.png"), str(tmp_path / "out")
    assert run(["predict", films, "--weights", "net", "--out", out]) == 2
    assert "Run: vertinst weights fetch net" in capsys.readouterr().err
    assert site.ranged == []


def test_fetched_weights_are_read_by_their_name(known, site, monkeypatch):
    site.content = checkpoints.find_weights("demo").read_bytes()
    public = known.named("net").model_copy(update={"sha256": None, "size": len(site.content)})
    manifest = Manifest(weights=(public,))
    monkeypatch.setattr(checkpoints, "packaged_manifest", lambda: manifest)
    fetch("net", manifest=manifest)
    checkpoint = checkpoints.read("net")
    assert (checkpoint.path.name, checkpoint.description.model) == ("weights.pth", "yolact")


def test_a_name_that_is_nearly_right_is_told_where_weights_are_given(tmp_path):
    with pytest.raises(CheckpointError, match=r"Check the path\. Did you mean mask_rcnn_R_50_FPN_3x or .*\? `vertinst"):
        checkpoints.find_weights("mask_rcnn_R50_FPN_3x")
    with pytest.raises(CheckpointError, match=r"Check the path\. `vertinst weights list` shows"):
        checkpoints.find_weights(tmp_path / "mask_rcnn_R50_FPN_3x")


def test_a_folder_of_detectron2_is_told_which_file_to_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither .*\nName the --out folder"):
        checkpoints.find_weights(tmp_path)
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(CheckpointError, match=r"neither .*\nName the file: .*model_final\.pth\."):
        checkpoints.find_weights(tmp_path)
