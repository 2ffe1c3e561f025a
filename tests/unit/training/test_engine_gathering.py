"""What ZeRO 3 sends."""

from pathlib import Path

from processes import first_error, run_program

SETTINGS = ["zero_stage=3", "precision=bf16", "activation_checkpointing=none", "resources.workers=2", "num_layers=10"]
SIZES = ["sequence_tokens=32", "global_batch_tokens=128", "micro_batch_sequences=1", "loss_chunk_tokens=32"]


def test_weights_that_stay_gathered_are_sent_once_a_micro_step_and_nothing_else_changes() -> None:
    done = run_program(2, Path(__file__).with_name("gather_program.py"), *SETTINGS, *SIZES)
    assert done.returncode == 0, first_error(done.stderr)
    lines = [line.split(maxsplit=4)[1:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    found = {(rank, setting): (float(times), losses) for rank, setting, times, losses in lines}
    for rank in "01":
        (resharded, expected), (kept, losses) = found[rank, "true"], found[rank, "false"]
        assert kept == 1
        assert resharded > 1.4
        assert losses == expected
