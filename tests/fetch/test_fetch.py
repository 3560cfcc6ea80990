"""Downloads from a real loopback server: resumed, verified, never half; archives of strangers."""

import hashlib
import http.server
import io
import os
import resource
import shutil
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from command_line import invoked
from PIL import Image

from segbench.data.layout import archive_file, download_folder, own_folder
from segbench.data.prepare import preflight, prepare_dataset
from segbench.data.split import open_split
from segbench.errors import DataError
from segbench.fetch import unpack as unpack_module
from segbench.fetch.download import Expected, download
from segbench.fetch.unpack import BOUNDS, unpack
from segbench.schema.cards import DatasetCard
from segbench.schema.machine import Machine

CONTENT = os.urandom(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with Range; /cut breaks off, /stubborn ignores Range, /500 fails at first."""

    failures: dict[str, int] = {}
    ranges: list[str | None] = []

    def do_GET(self):
        ranges = self.headers.get("Range")
        type(self).ranges.append(ranges)
        left = type(self).failures.get(self.path, 0)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path == "/500" and left:
            type(self).failures[self.path] = left - 1
            self.send_error(500)
            return
        start = (
            0
            if ranges is None or self.path == "/stubborn"
            else int(ranges.split("=")[1].rstrip("-"))
        )
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if self.path == "/cut" and left:
            type(self).failures[self.path] = left - 1
            body = body[:100_000]
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    Server.failures, Server.ranges = {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    Server.failures["/cut"] = 2
    seen = []
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = download(f"{server}/cut", tmp_path / "f", Expected(sha256=digest, size=len(CONTENT)),
                    progress=lambda done, of: seen.append((done, of)), pause_seconds=0)  # fmt: skip
    assert path.read_bytes() == CONTENT
    assert Server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == [path]


def test_an_earlier_commands_part_is_continued_and_a_whole_file_is_not_fetched(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:250_000])
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    download(f"{server}/f", tmp_path / "f", Expected(md5=md5))
    assert Server.ranges == ["bytes=250000-"]
    download(f"{server}/f", tmp_path / "f", Expected(md5=md5))
    assert len(Server.ranges) == 1


def test_a_server_that_cannot_continue_sends_all_again(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    assert (
        download(
            f"{server}/stubborn", tmp_path / "f", Expected(hashlib.sha256(CONTENT).hexdigest())
        ).read_bytes()
        == CONTENT
    )


@pytest.mark.parametrize("surplus", [b"", b"x"])
def test_a_part_that_is_whole_is_taken_and_a_longer_one_is_fetched_anew(server, tmp_path, surplus):
    (tmp_path / "f.part").write_bytes(CONTENT + surplus)
    assert download(f"{server}/f", tmp_path / "f", pause_seconds=0).read_bytes() == CONTENT
    assert Server.ranges == [f"bytes={len(CONTENT + surplus)}-", None][: 1 + len(surplus)]


def test_two_commands_that_write_one_part_do_not_spoil_the_file(server, tmp_path):
    part = tmp_path / "f.part"
    part.write_bytes(CONTENT[:1000])
    spoil = iter([True])

    def progress(done, of):
        if next(spoil, False):  # another command appends what this one is appending
            with part.open("ab") as file:
                file.write(CONTENT[1000:5000])

    path = download(f"{server}/f", tmp_path / "f", progress=progress, pause_seconds=0)
    assert path.read_bytes() == CONTENT


def test_a_full_disk_is_told_from_a_bad_network_and_not_tried_again(server, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the kernel refuses larger files
    try:
        with pytest.raises(DataError, match="cannot be written"):
            download(f"{server}/f", tmp_path / "f", pause_seconds=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(Server.ranges) == 1


def test_a_passing_failure_is_tried_again_and_a_final_one_is_not(server, tmp_path):
    Server.failures["/500"] = 2
    assert download(f"{server}/500", tmp_path / "f", pause_seconds=0).read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"missing: cannot be fetched \(the server answered 404"):
        download(f"{server}/missing", tmp_path / "g", pause_seconds=0)
    assert Server.ranges.count(None) == 4


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": 5}])
def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path, wrong):
    with pytest.raises(DataError, match="but the card says"):
        download(f"{server}/f", tmp_path / "f", Expected(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_leading_digits_of_a_sha256_are_enough(server, tmp_path):
    download(f"{server}/f", tmp_path / "f", Expected(hashlib.sha256(CONTENT).hexdigest()[:8]))
    assert (tmp_path / "f").exists()


def test_only_the_web_is_downloaded_from(tmp_path):
    with pytest.raises(DataError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "f")


def test_an_unreachable_server_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be fetched"):
        download("http://127.0.0.1:9/f", tmp_path / "f", pause_seconds=0)


def tar(path, *members):
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/absolute"),
        tarfile.TarInfo("a/../../outside"),
        link("link", "/etc"),
        link("hard", "../outside", tarfile.LNKTYPE),
        link("device", "", tarfile.CHRTYPE),
    ],
)
def test_a_tar_that_reaches_outside_is_refused(tmp_path, member):
    tar(tmp_path / "evil.tar", (member, b""))
    with pytest.raises(DataError, match=r"leaves its folder|not a plain file"):
        unpack(tmp_path / "evil.tar", tmp_path / "in")
    assert {p.name for p in tmp_path.iterdir()} <= {"evil.tar", "in"}


@pytest.mark.parametrize("name", ["../outside", "/absolute", "..\\outside"])
def test_a_zip_that_reaches_outside_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="leaves its folder"):
        unpack(tmp_path / "evil.zip", tmp_path / "in")


def test_a_bomb_is_stopped(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 10_000_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(tmp_path / "bomb.zip", tmp_path / "in", BOUNDS._replace(bytes=1_000_000))
    tar(tmp_path / "many.tar", *((tarfile.TarInfo(str(i)), b"") for i in range(50)))
    with pytest.raises(DataError, match="unpacks to more than 20 files"):
        unpack(tmp_path / "many.tar", tmp_path / "in", BOUNDS._replace(files=20))


def test_sound_archives_unpack_and_damaged_ones_are_named(tmp_path):
    tar(tmp_path / "good.tar", (tarfile.TarInfo("a/b.txt"), b"hello"))
    assert unpack(tmp_path / "good.tar", tmp_path / "in") == 1
    assert (tmp_path / "in/a/b.txt").read_bytes() == b"hello"
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match=r"bad\.zip: "):
        unpack(tmp_path / "bad.zip", tmp_path / "in")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_full_disk_is_no_fault_of_the_archive(tmp_path, kind):
    path = tmp_path / f"sound.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
    else:
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("a.txt")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
    into = tmp_path / "in"
    into.mkdir()
    (into / "a.txt.part").symlink_to("/dev/full")
    with pytest.raises(DataError) as told:
        unpack(path, into)
    assert str(told.value) == (
        f"{path}: cannot be unpacked to {into} (No space left on device); free space or set --cache"
    )


@pytest.mark.parametrize("kind", ["zip", "gz", "xz"])
def test_a_flipped_bit_anywhere_in_an_archive_is_noticed_or_harmless(tmp_path, kind):
    content = CONTENT[:3000] + b"0" * 3000
    whole = tmp_path / f"whole.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", content)
    else:
        with tarfile.open(whole, "w:gz" if kind == "gz" else "w:xz") as archive:
            info = tarfile.TarInfo("a")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    raw = whole.read_bytes()
    for place in range(0, len(raw), 41):
        broken = tmp_path / f"broken.{kind}"
        broken.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        into = tmp_path / str(place)
        try:
            unpack(broken, into)
        except DataError:
            continue
        found = [p.read_bytes() for p in into.rglob("*") if p.is_file()]
        assert found in ([content], [])


def local_card(tmp_path, name, archive):
    """A card whose archive is at hand, and the machine that has it: nothing is fetched."""
    machine = Machine(cache=str(tmp_path / "cache"))
    pattern = {"images": "photos/{name}", "labels": "masks/{name}.png"}
    card = DatasetCard.model_validate(
        {
            "name": name, "title": name, "licence": "ours", "source": {"paper": "none"},
            "splits": {"val": pattern}, "classes": ("road", "car"),
            "palette": ((1, 1, 1), (2, 2, 2)), "archives": (archive,),
        }
    )  # fmt: skip
    path = archive_file(card.archives[0], machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    return card, machine, path


def pairs(path, number, *evil):
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(number):
            for kind, shape in (("photos", (20, 30, 3)), ("masks", (20, 30))):
                buffer = io.BytesIO()
                Image.fromarray(np.ones(shape, dtype=np.uint8)).save(buffer, format="PNG")
                archive.writestr(f"{kind}/{index}.png", buffer.getvalue())
        for name in evil:
            archive.writestr(name, b"x")


def test_half_an_unpacked_archive_is_not_taken_for_the_data_set(tmp_path, monkeypatch):
    card, machine, path = local_card(
        tmp_path, "street", {"url": "http://127.0.0.1:9/data.zip", "into": "street"}
    )
    pairs(path, 5)
    copy = unpack_module._copy
    calls = iter(range(100))

    def die_early(*args):
        if next(calls) == 4:
            raise KeyboardInterrupt
        copy(*args)

    with monkeypatch.context() as patch:
        patch.setattr(unpack_module, "_copy", die_early)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(card, machine)
    assert len(preflight([(card, "val")], machine)) == 1
    with pytest.raises(DataError, match="no files here"):
        open_split(card, "val", machine)
    assert prepare_dataset(card, machine) == "ready: val 5 images"
    assert len(open_split(card, "val", machine)) == 5


def test_nothing_of_a_refused_archive_is_used(tmp_path):
    archive = {"url": "http://127.0.0.1:9/data.zip", "into": "street"}
    card, machine, path = local_card(tmp_path, "street", archive)
    pairs(path, 2, "../../outside")
    for _ in range(2):
        with pytest.raises(DataError, match="nothing of it is used"):
            prepare_dataset(card, machine)
    assert len(preflight([(card, "val")], machine)) == 1


def test_archives_of_one_name_do_not_meet_and_lost_files_are_unpacked_again(tmp_path):
    for name, number in (("street", 2), ("forest", 3)):
        archive = {"url": f"http://127.0.0.1:9/{name}/data.zip", "into": name}
        card, machine, path = local_card(tmp_path, name, archive)
        assert not path.exists()  # else the other card's archive would be taken for this one's
        pairs(path, number)
        assert prepare_dataset(card, machine) == f"ready: val {number} images"
    shutil.rmtree(download_folder(card, machine))
    shutil.rmtree(tmp_path / "cache" / "arrow")
    assert prepare_dataset(card, machine) == "ready: val 3 images"


def test_cards_whose_files_lie_alike_never_take_each_others(tmp_path):
    """Neither before the second is unpacked, nor after; cards with the same archives share them."""
    for name, number in (("street", 2), ("forest", 3)):
        archive = {"url": f"http://127.0.0.1:9/{name}/data.zip"}
        card, machine, path = local_card(tmp_path, name, archive)
        with pytest.raises(DataError, match="no files here"):
            open_split(card, "val", machine)
        pairs(path, number)
        assert prepare_dataset(card, machine) == f"ready: val {number} images"
    derived = card.revised(name="wood")
    assert len(open_split(derived, "val", machine)) == 3
    shutil.copytree(download_folder(card, machine), own_folder(derived, machine))
    (own_folder(derived, machine) / "photos" / "0.png").unlink()
    with pytest.raises(DataError, match=r"wood val: missing files: .*data/wood/photos/0"):
        open_split(derived, "val", machine)  # what a user has put there comes first


def test_prepare_downloads_verifies_unpacks_and_converts_once(tmp_path, monkeypatch):
    """The whole way, from an archive on a server to Arrow files, through the command line."""

    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / "street.zip", "w") as archive:
        for split in ("train", "val"):
            for kind, shape in (("photos", (20, 30, 3)), ("masks", (20, 30))):
                buffer = io.BytesIO()
                Image.fromarray(np.ones(shape, dtype=np.uint8)).save(buffer, format="PNG")
                archive.writestr(f"street/{kind}/{split}/a.png", buffer.getvalue())
    md5 = hashlib.md5((served / "street.zip").read_bytes(), usedforsecurity=False).hexdigest()
    (tmp_path / "cards" / "datasets").mkdir(parents=True)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(served), **kwargs)

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        card = CARD.format(port=httpd.server_port, md5=md5)
        (tmp_path / "cards" / "datasets" / "street.yaml").write_text(card)
        given = ["--cards", str(tmp_path / "cards"), "--cache", str(tmp_path / "cache")]
        first = invoked("prepare", "street", *given)
        httpd.shutdown()
        thread.join()
    assert first.exit_code == 0, first.output
    assert "street: ready: train 1 image, val 1 image" in first.output
    offline = invoked("prepare", "street", "--offline", *given)
    assert offline.exit_code == 0, offline.output
    assert len(list((tmp_path / "cache" / "arrow").rglob("*.arrow"))) == 2


CARD = """
name: street
title: street
splits:
  train: {{images: "photos/train/{{name}}", labels: "masks/train/{{name}}.png", count: 1}}
  val: {{images: "photos/val/{{name}}", labels: "masks/val/{{name}}.png", count: 1}}
classes: [road, car]
palette: [[1, 1, 1], [2, 2, 2]]
archives: [{{url: "http://127.0.0.1:{port}/street.zip", md5: {md5}}}]
licence: ours
source: {{paper: none}}
"""
