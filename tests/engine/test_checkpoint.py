"""Checkpoints: written beside the training, and what is said of those that a kill or a full disk has torn."""

import hashlib
import io
import threading

import pytest
import torch

from segbench.engine import checkpoint
from segbench.engine.checkpoint import CheckpointWriter, load_checkpoint, save_checkpoint
from segbench.errors import ResultError


def _state(value: float) -> dict:
    weight = torch.full((2, 3, 4, 4), value).to(memory_format=torch.channels_last)
    return {"step": int(value), "model": {"w": weight}, "groups": [{"lr": 0.1, "at": (1, 2)}]}


def test_a_file_is_the_digest_of_what_torch_saves_and_that(tmp_path):
    save_checkpoint(tmp_path, _state(1))
    raw = (tmp_path / "last.ckpt").read_bytes()
    assert raw[:64] == hashlib.sha256(raw[64:]).hexdigest().encode()
    found = torch.load(io.BytesIO(raw[64:]), weights_only=True)
    assert found["groups"] == _state(1)["groups"]
    assert torch.equal(found["model"]["w"], _state(1)["model"]["w"])


def test_a_state_is_saved_as_it_was_while_the_training_goes_on(tmp_path, monkeypatch):
    may_write, began = threading.Event(), threading.Event()

    def slowly(folder, state):
        began.set()
        assert may_write.wait(20)
        save_checkpoint(folder, state)

    monkeypatch.setattr(checkpoint, "save_checkpoint", slowly)
    with CheckpointWriter(tmp_path) as writer:
        state = _state(3)
        writer.save(state)
        assert began.wait(20)
        state["model"]["w"] += 1  # the next step
        state["groups"][0]["lr"] = 0.2
        assert not (tmp_path / "last.ckpt").exists()
        may_write.set()
        writer.save(_state(4))  # waits for the one before
        assert load_checkpoint(tmp_path, torch.device("cpu")) is not None
    assert load_checkpoint(tmp_path, torch.device("cpu"))["step"] == 4
    (tmp_path / "last.ckpt").unlink()
    before = load_checkpoint(tmp_path, torch.device("cpu"))
    assert torch.equal(before["model"]["w"], _state(3)["model"]["w"])
    assert before["model"]["w"].is_contiguous(memory_format=torch.channels_last)
    assert before["groups"][0]["lr"] == 0.1


@pytest.mark.parametrize("waits_by", ["wait", "save", "the end"])
def test_what_writing_raises_is_raised_where_it_is_waited_for(tmp_path, monkeypatch, waits_by):
    def full(*_):
        raise ResultError("the disk is full")

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)

    def training():
        with CheckpointWriter(tmp_path) as writer:
            writer.save(_state(1))
            if waits_by == "wait":
                writer.wait()
            elif waits_by == "save":
                writer.save(_state(2))

    with pytest.raises(ResultError, match="the disk is full"):
        training()


def test_torn_checkpoints_are_told_with_what_happens_next(tmp_path, caplog):
    cpu = torch.device("cpu")
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step})
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    assert load_checkpoint(tmp_path, cpu) == {"step": 1}
    assert "last.ckpt: is damaged or half-written; going on from last.ckpt.previous" in caplog.text
    caplog.clear()
    (tmp_path / "last.ckpt.previous").write_bytes(b"")
    assert load_checkpoint(tmp_path, cpu) is None
    (line,) = caplog.messages
    assert line.endswith("last.ckpt.previous: damaged or half-written; training starts again")
    caplog.clear()
    assert load_checkpoint(tmp_path / "new", cpu) is None
    assert caplog.messages == []
