"""Weights files: which one, is it the right one, does it fit; nothing in it is executed."""

import argparse
import http.server
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torchvision.models import get_model
from toy_world import train_all

from segbench.commands.preflight import check_same_files, missing_files
from segbench.commands.run import Flags, prepare_run
from segbench.errors import CardError, DataError
from segbench.fetch.download import Expected
from segbench.files import sha256_of_file
from segbench.models.segmenter import Segmenter, build_segmenter
from segbench.models.trunk_weights import read_state
from segbench.models.weights import (
    backbone_weights,
    backbone_weights_path,
    fetch_weights,
    missing_weights,
    sha256_here,
)
from segbench.runs import trial_files
from segbench.schema.cards import BackboneCard, Weights
from segbench.schema.catalog import built_in_root, read_card
from segbench.schema.heads import HEADS, Model
from segbench.schema.machine import Machine

HEAD = HEADS["fcn4s_from16"]
CARD = read_card(built_in_root() / "backbones" / "squeezenet1_1.yaml", BackboneCard)


def _network(name: str = "squeezenet1_1", **options) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return dict(get_model(name, weights=None, **options).state_dict())


def _built(path: Path, *, card: BackboneCard = CARD) -> Segmenter:
    return build_segmenter(card, HEAD, Model(weights="none"), 3, weights_path=path)


def _saved(state: object, path: Path) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(state, dict)
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def _with_file(path: Path, *, sha256: str | None = None) -> BackboneCard:
    weights = Weights(
        source="test",
        sha256=sha256 or sha256_of_file(path),
        trained_on="nothing",
        licence="none",
        file=path.name,
    )
    return CARD.revised(weights={"own": weights}, default_weights="own")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_published_network_s_parameters_become_the_trunk_s(tmp_path, suffix):
    state = _network()
    segmenter = _built(_saved(state, tmp_path / f"weights{suffix}"))
    own = segmenter.trunk.state_dict()
    assert len(own) == len(state) - 2  # less the classifier's weight and bias
    for name, tensor in own.items():
        assert torch.equal(tensor, state[name])


def test_auxiliary_classifiers_in_the_file_are_passed_over(tmp_path):
    card = read_card(built_in_root() / "backbones" / "googlenet.yaml", BackboneCard)
    state = _network("googlenet", init_weights=False)
    assert any(name.startswith("aux1.") for name in state)
    path = _saved(state, tmp_path / "weights.pth")
    segmenter = build_segmenter(card, HEADS["fcn8s"], Model(weights="none"), 3, weights_path=path)
    own = segmenter.trunk.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())


def test_files_from_before_batch_norm_counted_its_batches_still_fit(tmp_path):
    card = read_card(built_in_root() / "backbones" / "resnet18.yaml", BackboneCard)
    state = {n: t for n, t in _network("resnet18").items() if not n.endswith("_tracked")}
    path = _saved(state, tmp_path / "weights.pth")
    head = HEADS["fcn32s"]
    segmenter = build_segmenter(card, head, Model(weights="none"), 3, weights_path=path)
    assert torch.equal(segmenter.trunk.state_dict()["conv1.weight"], state["conv1.weight"])


def test_half_precision_weights_become_single(tmp_path):
    state = {name: tensor.half() for name, tensor in _network().items()}
    segmenter = _built(_saved(state, tmp_path / "weights.safetensors"))
    first = segmenter.trunk.state_dict()["features.0.weight"]
    assert first.dtype == torch.float32
    assert torch.equal(first, state["features.0.weight"].float())


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path):
    state = _network()
    del state["features.0.bias"]
    state["features.99.weight"] = torch.zeros(1)
    state["features.3.squeeze.weight"] = torch.zeros(16, 64, 3, 3)
    with pytest.raises(DataError) as caught:
        _built(_saved(state, tmp_path / "weights.pth"))
    message = str(caught.value)
    assert "missing: features.0.bias;" in message
    assert "unknown: features.99.weight;" in message
    expected = "features.3.squeeze.weight (16, 64, 3, 3), not (16, 64, 1, 1)"
    assert f"of another shape: {expected}" in message


def test_many_missing_names_are_counted_instead_of_listed(tmp_path):
    path = _saved({"features.0.bias": torch.zeros(64)}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"missing: .* and 41 more; is it the right file"):
        _built(path)


class _Hostile:
    """Creates the file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["pickle", "torch", "text", "empty", "list"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_not_weights_are_refused_and_not_executed(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    marker = tmp_path / "executed"
    if content == "pickle":
        path.write_bytes(pickle.dumps(_Hostile(marker), protocol=2))
    elif content == "torch":
        torch.save({"features.0.weight": _Hostile(marker)}, path)
    elif content == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"not weights" if content == "text" else b"")
    with pytest.raises(DataError, match=r"weights\..*: cannot be read as weights: .+; replace it"):
        read_state(path)
    assert not marker.exists()


def test_a_file_in_a_weights_folder_or_in_the_cache_is_found(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "folder"
    (cache / "weights").mkdir(parents=True)
    folder.mkdir()
    path = _saved(_network(), cache / "weights" / "own.pth")
    card = _with_file(path)
    assert backbone_weights_path(card, Model(), Machine(cache=str(cache))) == path
    nearer = folder / "own.pth"
    nearer.write_bytes(path.read_bytes())
    machine = Machine(cache=str(cache), weights=(str(folder),))
    assert backbone_weights_path(card, Model(weights="own"), machine) == nearer


def test_none_and_a_card_without_weights_mean_random_ones(tmp_path):
    machine = Machine(cache=str(tmp_path))
    assert backbone_weights_path(CARD, Model(weights="none"), machine) is None
    bare = CARD.revised(weights={}, default_weights=None)
    assert backbone_weights_path(bare, Model(), machine) is None


def test_another_file_under_the_same_name_is_refused(tmp_path):
    path = _saved(_network(), tmp_path / "own.pth")
    card = _with_file(path, sha256="0" * 64)
    machine = Machine(cache="/nowhere", weights=(str(tmp_path),))
    with pytest.raises(DataError, match="not the file that the card squeezenet1_1 means") as caught:
        backbone_weights_path(card, Model(), machine)
    assert "put the right one there; no address is known" in str(caught.value)
    assert "segbench prepare" not in str(caught.value)


def test_leading_digits_are_enough_where_a_publisher_gives_no_more(tmp_path):
    (tmp_path / "weights").mkdir()
    path = _saved(_network(), tmp_path / "weights" / "squeezenet-x.pth")
    weights = CARD.weights["imagenet"].revised(
        url="https://example.org/models/squeezenet-x.pth", sha256=sha256_of_file(path)[:8]
    )
    card = CARD.revised(weights={"imagenet": weights})
    assert backbone_weights_path(card, Model(), Machine(cache=str(tmp_path))) == path


def test_missing_weights_say_where_they_belong_and_how_to_fetch_them(tmp_path):
    machine = Machine(cache=str(tmp_path), weights=("/some/folder",))
    with pytest.raises(DataError) as caught:
        backbone_weights_path(CARD, Model(), machine)
    message = str(caught.value)
    assert f"expected {tmp_path}/weights/squeezenet1_1-b8a52dc0.pth" in message
    assert "name its folder with --weights, or run `segbench prepare squeezenet1_1`" in message
    asked = [(CARD, Model()), (CARD, Model()), (CARD, Model(weights="imagenet_caffe"))]
    sentences = missing_weights(asked, machine)
    assert sentences[0] == message
    assert len(sentences) == 2
    assert "put it into one of /some/folder, " in sentences[1]
    assert "segbench prepare" not in sentences[1]


def test_weights_that_are_another_file_are_told_before_anything_starts(tmp_path):
    machine = Machine(cache=str(tmp_path))
    path = tmp_path / "weights" / "squeezenet1_1-b8a52dc0.pth"
    path.parent.mkdir()
    path.write_bytes(b"another")
    (sentence,) = missing_weights([(CARD, Model()), (CARD, Model())], machine)
    assert "is not the file that the card squeezenet1_1 means" in sentence


def test_an_unknown_name_of_weights_gets_a_suggestion(tmp_path):
    with pytest.raises(CardError, match=r"no weights 'imagnet'; did you mean 'imagenet'\?"):
        backbone_weights_path(CARD, Model(weights="imagnet"), Machine(cache=str(tmp_path)))


def test_weights_are_fetched_once_into_the_cache_and_verified(tmp_path, monkeypatch):
    source = _saved(_network(), tmp_path / "squeezenet-x.pth")
    asked = []

    def download(url: str, path: Path, expected: Expected, *, progress: object) -> None:
        asked.append((url, expected, progress))
        path.parent.mkdir(parents=True)
        path.write_bytes(source.read_bytes())

    monkeypatch.setattr("segbench.fetch.download.download", download)
    url, digits = "https://example.org/squeezenet-x.pth", sha256_of_file(source)[:8]
    weights = CARD.weights["imagenet"].revised(url=url, sha256=digits)
    card = CARD.revised(weights={"imagenet": weights})
    machine = Machine(cache=str(tmp_path / "cache"))
    expected = tmp_path / "cache" / "weights" / "squeezenet-x.pth"
    assert fetch_weights(card, machine) == expected
    assert fetch_weights(card, machine) == expected
    assert asked == [(url, Expected(digits), None)]


def test_weights_without_an_address_cannot_be_fetched(tmp_path):
    with pytest.raises(DataError, match="no address is known to fetch it from"):
        fetch_weights(CARD, Machine(cache=str(tmp_path)), name="imagenet_caffe")


def test_weights_that_do_not_fit_a_users_card_are_told_before_anything_starts(toy_project):
    folder = toy_project / "weights"
    folder.mkdir()
    path = _saved(_network(), folder / "other.pth")
    with (toy_project / "backbones" / "toynet.yaml").open("a") as card:
        card.write(
            "weights: {own: {file: other.pth, source: here, trained_on: it, licence: ours, "
            f"sha256: '{sha256_of_file(path)}'}}}}\ndefault_weights: own\n"
        )
    flags = Flags(
        settings=("model.weights=own",), weights=(folder,), cache=toy_project.parent / "cache",
        device="cpu", results=toy_project / "results",
    )  # fmt: skip
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    (sentence,) = missing_files(prepared)
    assert sentence.startswith(f"{path}: no name in it is the network's: it has ")
    assert "the network has features.0.0.weight, features.0.1.weight" in sentence


class _Publisher(http.server.BaseHTTPRequestHandler):
    """Serves `content` under every name."""

    content = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def publisher():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Publisher) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def _published(source: Path, address: str) -> BackboneCard:
    """Return a card that knows the first 8 digits of the file that the publisher serves."""
    _Publisher.content = source.read_bytes()
    digits = sha256_of_file(source)[:8]
    url = f"{address}/squeezenet-{digits}.pth"
    weights = CARD.weights["imagenet"].revised(url=url, sha256=digits)
    return CARD.revised(weights={"imagenet": weights})


def _another(whole: str) -> str:
    """Return a sha256 with the same 8 leading digits."""
    return whole[:8] + "".join("1" if digit == "0" else "0" for digit in whole[8:])


def test_the_whole_sha256_of_what_was_fetched_is_kept_and_asked_for(tmp_path, publisher):
    source = _saved(_network(), tmp_path / "source.pth")
    card, machine = _published(source, publisher), Machine(cache=str(tmp_path / "cache"))
    path = fetch_weights(card, machine)
    assert path is not None
    assert path.read_bytes() == source.read_bytes()
    whole, record = sha256_of_file(source), path.with_name(f"{path.name}.sha256")
    assert record.read_text() == f"{whole}  {path.name}\n"
    assert sha256_here(card.weights["imagenet"], machine) == whole
    assert backbone_weights(card, Model(), machine) == (path, whole)
    record.write_text(f"{_another(whole)}  {path.name}\n")  # the file that was here first
    path.unlink()
    with pytest.raises(DataError) as caught:
        fetch_weights(card, machine)
    assert f"{path}: is another file than was here first: its sha256 is {whole}" in str(
        caught.value
    )
    assert f"delete {record} to take this one" in str(caught.value)
    assert missing_weights([(card, Model()), (card, Model())], machine) == [str(caught.value)]
    record.unlink()
    assert fetch_weights(card, machine) == path
    assert record.read_text().startswith(whole)


@pytest.mark.parametrize("content", ["", "<html>", "f" * 65, "\x00\xff"])
def test_a_record_that_holds_no_sha256_is_refused(tmp_path, publisher, content):
    card = _published(_saved(_network(), tmp_path / "source.pth"), publisher)
    machine = Machine(cache=str(tmp_path / "cache"))
    path = fetch_weights(card, machine)
    assert path is not None
    path.with_name(f"{path.name}.sha256").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"\.sha256 holds none; put the first file back"):
        backbone_weights_path(card, Model(), machine)


@pytest.mark.parametrize("takes_files", [True, False])
def test_a_file_of_one_s_own_folder_is_remembered_too(tmp_path, publisher, takes_files):
    source = _saved(_network(), tmp_path / "source.pth")
    card = _published(source, publisher)
    folder = tmp_path / "mine"
    folder.mkdir()
    name = f"squeezenet-{card.weights['imagenet'].sha256}.pth"
    (folder / name).write_bytes(source.read_bytes())
    if not takes_files:
        (folder / f"{name}.sha256").mkdir()  # so that no file can have the name
    machine = Machine(cache=str(tmp_path / "cache"), weights=(str(folder),))
    assert backbone_weights_path(card, Model(), machine) == folder / name
    place = folder if takes_files else tmp_path / "cache" / "weights"
    whole, record = sha256_of_file(source), place / f"{name}.sha256"
    assert record.read_text().startswith(whole)
    record.write_text(_another(whole))
    with pytest.raises(DataError, match=f"{folder / name}: is another file than was here first"):
        backbone_weights_path(card, Model(), machine)


def test_a_card_that_knows_the_whole_sha256_needs_no_record(tmp_path):
    path = _saved(_network(), tmp_path / "own.pth")
    machine = Machine(cache=str(tmp_path / "cache"), weights=(str(tmp_path),))
    card = _with_file(path)
    assert backbone_weights_path(card, Model(), machine) == path
    assert not path.with_name("own.pth.sha256").exists()
    assert sha256_here(card.weights["own"], machine) == sha256_of_file(path)


def test_a_trial_keeps_the_sha256_that_it_started_from_and_a_run_compares_it(toy_project):
    folder = toy_project / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    state = get_model("mobilenet_v3_small", weights=None).state_dict()
    path = _saved(state, folder / "mobilenet_v3_small-047dcff4.pth")
    whole = sha256_of_file(path)
    card = toy_project / "backbones" / "toynet.yaml"
    card.write_text(
        f"{card.read_text()}weights: {{own: {{url: 'https://example.org/{path.name}', source: here, "
        f"trained_on: it, licence: ours, sha256: '{whole[:8]}'}}}}\n"
    )
    flags = Flags(
        settings=("model.weights=own",), only=("head=fcn32s",), seeds=1, weights=(folder,),
        cache=toy_project.parent / "cache", device="cpu", results=toy_project / "results",
    )  # fmt: skip
    prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
    assert missing_files(prepared) == []
    (workdir,) = train_all(prepared)
    provenance = trial_files.load_provenance(workdir)
    assert provenance is not None
    assert provenance.weights_sha256 == whole
    check_same_files(prepared)
    path.with_name(f"{path.name}.sha256").write_text(_another(whole))
    with pytest.raises(DataError, match="1 trial from other files of toynet weights own than are"):
        check_same_files(prepared)


WRAPPED = {
    "prefixed": lambda s: {f"module.{k}": v for k, v in s.items()},
    "twice": lambda s: {"model": {f"module.backbone.{k}": v for k, v in s.items()}, "epoch": 3},
    "nested": lambda s: {"state_dict": s, "best": np.float64(3), "lr": np.float32(0.1)},
    "ema": lambda s: {"ema": {f"encoder.{k}": v for k, v in s.items()}},
    "with a head": lambda s: {
        "model_state": {
            **{f"backbone.{k}": v for k, v in s.items()},
            "decode_head.conv_seg.weight": torch.zeros(3, 5, 1, 1),
        },
        "args": argparse.Namespace(lr=0.1),
    },
}


@pytest.mark.parametrize("how", WRAPPED)
def test_checkpoints_of_other_tools_are_seen_through(tmp_path, how):
    state = _network()
    segmenter = _built(_saved(WRAPPED[how](state), tmp_path / "weights.pth"))
    for name, tensor in segmenter.trunk.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_names_of_a_stranger_are_shown_beside_the_network_s(tmp_path):
    path = _saved({f"layer.{i}": torch.zeros(1) for i in range(9)}, tmp_path / "weights.pth")
    with pytest.raises(DataError) as told:
        _built(path)
    assert str(told.value) == (
        f"{path}: no name in it is the network's: it has layer.0, layer.1, layer.2, layer.3, layer.4, "
        "...; the network has features.0.weight, features.0.bias, features.3.squeeze.weight, "
        "features.3.squeeze.bias, features.3.expand1x1.weight, ..."
    )


def test_a_checkpoint_without_a_state_shows_its_keys(tmp_path):
    path = _saved({"epoch": 3, "net": {"a": torch.zeros(1)}}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"is no mapping from names to tensors.*it has epoch, net$"):
        _built(path)
