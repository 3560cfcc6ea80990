"""What a run's folder says that it is about, after several commands."""

from segbench.commands.run import Flags, prepare_run, record_run
from segbench.runs.record import load_run


def test_a_narrower_command_does_not_claim_the_wider_ones_cells(toy_project):
    def recorded(command: str, seeds: int | None) -> tuple[str, int]:
        flags = Flags(seeds=seeds, results=toy_project / "results")
        prepared = prepare_run(toy_project / "experiments" / "toy.yaml", flags)
        record_run(prepared, command)
        record = load_run(prepared.run_folder)
        return record.command, len(record.cells)

    assert recorded("segbench run --seeds 1", 1) == ("segbench run --seeds 1", 2)
    assert recorded("segbench run", None) == ("segbench run", 4)
    assert recorded("segbench run --seeds 1", 1) == ("segbench run", 4)
