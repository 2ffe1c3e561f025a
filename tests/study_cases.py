"""A small study for tests: two architectures, two sizes, two lengths of a few steps."""

from pathlib import Path

STUDY = """
name: small
recipe: base/study-cpu
data: {data}
study_dir: {directory}
overrides: [data.sequence_tokens=32, data.global_batch_tokens=256, execution.micro_batch_sequences=8,
  model.max_length_tokens=32, model.vocab_size=4096, evaluation.num_heldout_sequences=32, checkpoint.every_steps=4,
  "evaluation.needle_lengths=[32]"]
reference: transformer
architectures:
  transformer: {{overrides: [model.kind=transformer]}}
  sisa: {{overrides: [model.kind=sisa, "model.sisa={{d_s: 16}}"]}}
d_ff_multiple: 8
sizes:
  s: {{d_model: 16, num_layers: 1, num_heads: 1, d_ff: 48}}
  m: {{d_model: 32, num_layers: 1, num_heads: 2, d_ff: 96}}
budgets: {{tokens: [2560, 5120]}}
schedule: {{warmup: 2 steps, decay_fraction: 0.2}}
cost: {{sustained_flops_per_second: 1e10}}
"""


def write_study(directory: Path, data: Path, text: str = STUDY) -> Path:
    """Write the study into a directory, its study directory beside it."""
    path = directory / "small.yaml"
    path.write_text(text.format(data=data, directory=directory / "study"))
    return path
