"""What is said of checkpoints that a kill or a full disk has torn."""

import torch

from segbench.engine.checkpoint import load_checkpoint, save_checkpoint


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
