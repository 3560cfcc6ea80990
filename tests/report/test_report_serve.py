"""The live page: loopback, read-only, and as new as the files."""

import http.client
import json
import threading

import pytest
from drawn_run import made_run

from segbench.commands.serve import live_status, new_server
from segbench.errors import ResultError
from segbench.leases import claim
from segbench.runs import trial_files
from segbench.runs.record import load_run
from segbench.runs.trial_files import Result


@pytest.fixture
def served(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=2, images=5)
    with new_server(run_folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path, **headers):
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_it_listens_on_loopback_and_serves_the_page(served):
    assert served.address.startswith("http://127.0.0.1:")
    code, headers, body = get(served, "/")
    assert code == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert 'id="live"' in body
    assert 'id="leaderboard"' in body


def test_the_page_follows_the_files(served):
    before = get(served, "/")[2]
    assert json.loads(get(served, "/status.json")[2])["line"] == "8 done"
    cell = load_run(served.run_folder).cells[0]
    workdir = trial_files.trial_folder(served.run_folder, cell.trial_id)
    trial_files.write_result(
        workdir, Result(trial_id=cell.trial_id, status="failed", kind="diverged", message="nan")
    )
    (workdir / "traceback.txt").write_text("\n".join(f"line {number}" for number in range(100)))
    now = json.loads(get(served, "/status.json")[2])
    assert now["line"] == "7 done, 1 failed"
    assert now["share"] == 1
    assert f'data-version="{now["version"]}"' not in before
    assert now["trials"][0]["state"] == "failed: diverged"
    assert now["trials"][0]["tail"].splitlines()[-1] == "line 99"
    assert len(now["trials"][0]["tail"].splitlines()) == 12
    after = get(served, "/")[2]
    assert f'data-version="{now["version"]}"' in after
    assert 'id="failures"' in after


def test_a_trials_small_files_are_there_as_plain_text(served):
    trial_id = load_run(served.run_folder).cells[0].trial_id
    code, headers, body = get(served, f"/trials/{trial_id}/trial.json")
    assert (code, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(body)["seed"] == 0


@pytest.mark.parametrize(
    "path",
    [
        *("/run.json", "/../run.json", "/trials/../run.json", "/trials/%2e%2e/run.json"),
        *("/trials/{id}/model.safetensors", "/trials/{id}/../../run.json", "/trials/{id}"),
        *("//etc/passwd", "/trials/{id}/trial.json/x"),
    ],
)
def test_nothing_else_is_served(served, path):
    trial_id = load_run(served.run_folder).cells[0].trial_id
    (trial_files.trial_folder(served.run_folder, trial_id) / "model.safetensors").write_text(
        "weights"
    )
    code, _, body = get(served, path.format(id=trial_id))
    assert (code, body) == (404, "there is no such file here\n")


def test_a_name_that_points_here_from_elsewhere_is_turned_away(served):
    assert get(served, "/", Host="evil.example")[0] == 403
    assert get(served, "/status.json", Host=f"localhost:{served.server_address[1]}")[0] == 200


def test_other_methods_are_not_answered(served):
    host, port = served.server_address[:2]
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("POST", "/", body="x")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_damaged_run_is_a_sentence(served):
    (served.run_folder / "run.json").write_text("{")
    code, _, body = get(served, "/")
    assert code == 500
    assert "run.json: is damaged" in body


def test_a_running_trial_shows_its_progress(tmp_path):
    run_folder = made_run(tmp_path, datasets={"few": ("background", "cat")}, seeds=1, images=5)
    assert live_status(run_folder)["trials"] == []
    workdir = next(trial_files.trial_folders(run_folder))
    (workdir / "result.json").unlink()
    lease = claim(workdir)
    assert lease is not None
    lease.report(phase="train", step=0, steps=60)
    lease.report(step=15)
    with lease:
        now = live_status(run_folder)
    assert now["share"] == 0.75
    assert now["line"].startswith("3 done, 1 running")
    assert [trial["progress"] for trial in now["trials"]] == ["train 15 of 60"]


def test_a_port_that_is_taken_is_named(served):
    port = served.server_address[1]
    with pytest.raises(ResultError, match=f"--host 127.0.0.1 --port {port}: cannot be had"):
        new_server(served.run_folder, port=port)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ResultError, match=r"holds no run\.json"):
        new_server(tmp_path)
