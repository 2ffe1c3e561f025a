"""Convert a checkpoint: `sisa-scale convert` as a program.

python tools/convert_checkpoint.py runs/152m 152m-hf --to huggingface
"""

from sisa_scale.cli.convert import command

if __name__ == "__main__":
    command()
