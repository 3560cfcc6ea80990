"""Networks by name: cards that are written for them, and weights on a hub, here on the loopback."""

import hashlib
import http.server
import json
import threading

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from segbench.cli import app
from segbench.code.own import code_of
from segbench.commands.new_card import new_card
from segbench.errors import CardError, DataError
from segbench.fetch.hub import fetch_from_hub, hub_weights
from segbench.models.named import _stage_of, _Tap, named_card
from segbench.models.segmenter import build_segmenter
from segbench.models.weights import fetch_weights, weights_file
from segbench.schema.cards import BackboneCard, Weights
from segbench.schema.catalog import read_card
from segbench.schema.heads import HEADS, Model
from segbench.schema.hub import hub_file
from segbench.schema.machine import Machine

timm = pytest.importorskip("timm")

REVISION, REPOSITORY = "a" * 40, "timm/test_vit.r160_in1k"
FIELDS = ("module", "stride", "channels", "offset")


class _Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers about one repository with one file."""

    content = b""

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        digest = hashlib.sha256(self.content).hexdigest()
        found = {
            f"/api/models/{REPOSITORY}": json.dumps(
                {
                    "id": REPOSITORY, "sha": REVISION,
                    "siblings": [
                        {"rfilename": "README.md"},
                        {"rfilename": "model.safetensors", "size": len(self.content),
                         "lfs": {"sha256": digest, "size": len(self.content), "pointerSize": 1}},
                    ],
                }
            ).encode(),
            f"/{REPOSITORY}/resolve/{REVISION}/model.safetensors": self.content,
        }  # fmt: skip
        body = found.get(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        if body is not None:
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    # the loopback is no network: machines that are told to stay offline can test it too
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def _saved(architecture: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return timm.create_model(architecture).state_dict()


def test_the_hub_says_revision_and_hash_and_the_file_fits_the_card(hub, tmp_path, monkeypatch):
    state = _saved("test_vit")
    _Hub.content = safetensors.torch.save(state)
    found = hub_weights(REPOSITORY, licence="apache-2.0", endpoint=hub)
    assert found["url"] == f"hf://{REPOSITORY}@{REVISION}/model.safetensors"
    assert found["sha256"] == hashlib.sha256(_Hub.content).hexdigest()
    data = named_card("timm:test_vit.r160_in1k", with_weights=False)
    weights = Weights(source="timm", **found)
    card = BackboneCard.model_validate(
        {**data, "weights": {"r160": weights}, "default_weights": "r160"}
    )  # fmt: skip
    monkeypatch.setattr(
        "segbench.fetch.hub.fetch_from_hub",
        lambda *args: fetch_from_hub(*args, endpoint=hub),
    )
    machine = Machine(cache=str(tmp_path / "cache"))
    assert weights_file(weights, machine) is None
    path = fetch_weights(card, machine)
    assert path is not None
    assert path.name == "timm--test_vit.r160_in1k--model.safetensors"
    head = HEADS["linear"].reading(card)
    segmenter = build_segmenter(card, head, Model(), 3, weights_path=path)
    own = segmenter.trunk.network.state_dict()
    assert torch.equal(own["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


def test_a_hub_that_has_no_such_weights_is_one_sentence(hub, tmp_path):
    with pytest.raises(DataError, match="timm/other: the hub cannot be asked"):
        hub_weights("timm/other", licence="x", endpoint=hub)
    with pytest.raises(DataError, match=r"timm/other@main/x.bin: cannot be fetched .* put it at"):
        fetch_from_hub("timm/other", "main", "x.bin", tmp_path / "x.bin", endpoint=hub)


@pytest.mark.parametrize("url", ["hf://timm", "hf://a/b/model.bin", "hf://a/b@c/../d"])
def test_addresses_on_the_hub_have_one_form(url):
    with pytest.raises(ValueError, match="expected hf://ORG/NAME@REVISION/FILE"):
        hub_file(url)
    with pytest.raises(ValueError, match="expected hf://"):
        Weights(source="s", sha256="a" * 64, trained_on="t", licence="l", url=url)


def test_a_vit_of_timm_has_its_last_four_layers_and_norm(tmp_path):
    path = new_card("backbone", "timm:test_vit", tmp_path, with_weights=True)
    card = read_card(path, BackboneCard)
    modules = [stage.module for stage in card.stages]
    blocks = len(timm.create_model("test_vit").blocks)
    assert modules == [f"blocks.{i}" for i in range(max(blocks - 4, 0), blocks)]
    assert {(s.stride, s.offset, s.layout, s.through) for s in card.stages} == {
        (16, 7.5, "tokens", "norm")
    }
    assert card.weights == {}  # no tag, no weights
    assert code_of([card.builder]) == {"timm": f"timm {timm.__version__}"}
    with pytest.raises(CardError, match="is there already"):
        new_card("backbone", "timm:test_vit", tmp_path, with_weights=True)


def test_a_card_that_was_written_passes_check(tmp_path):
    made = CliRunner().invoke(
        app, ["new", "backbone", "timm:test_vit", "--cards", str(tmp_path), "--offline"]
    )
    assert made.exit_code == 0, made.output
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "backbones" / "test_vit.yaml")])
    assert checked.exit_code == 0, checked.output


def test_names_that_are_none_are_told():
    with pytest.raises(CardError, match=r"timm has no model 'test_vitt'.*did you mean"):
        named_card("timm:test_vitt")
    with pytest.raises(CardError, match="expected timm:NAME or torchvision:NAME"):
        named_card("hf:x")


def test_layouts_are_read_off_what_modules_return():
    tap = _Tap("m", 16)
    for shape, layout in (((2, 5, 4, 4), "NCHW"), ((2, 4, 4, 5), "NHWC"), ((2, 18, 5), "tokens")):
        found = _stage_of(tap, torch.empty(shape), 64, index=0)
        assert (found["layout"], found["channels"], found["item"]) == (layout, 5, None)
    maps = [torch.empty(2, 3, 8, 8), torch.empty(2, 5, 4, 4)]
    assert _stage_of(tap, maps, 64, index=0)["item"] == 1
    with pytest.raises(ValueError, match="m returns no map of stride 16"):
        _stage_of(tap, torch.empty(2, 7), 64, index=0)


def test_a_network_of_torchvision_that_is_followed_declares_nothing():
    data = named_card("torchvision:squeezenet1_1")
    assert [s["stride"] for s in data["stages"]] == [4, 8, 16]
    assert not any("offset" in stage for stage in data["stages"])


def test_stages_of_torchvision_are_found_without_being_told():
    data = named_card("torchvision:shufflenet_v2_x0_5")
    found = [tuple(stage[name] for name in FIELDS) for stage in data["stages"]]
    assert [(s, c, o) for _, s, c, o in found] == [
        (4, 24, 0.0), (8, 48, 0.0), (16, 96, 0.0), (32, 1024, 0.0),
    ]  # fmt: skip
    assert [module for module, *_ in found] == ["maxpool", "stage2", "stage3", "conv5"]
