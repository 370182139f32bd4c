"""Turns a trained Vision Transformer and some images into a .pte that runs in integers only: `packqvit export`.

    python examples/export_deit.py --bits 4 --model deit_tiny --calibration photos --evaluate imagenet/val

`--bits 4` is W4A4 (4-bit weights and activations), `--bits 4 --activation-bits 8` W4A8, `--bits 8` W8A8.
"""

from packqvit_delegate.cli.console import one_command
from packqvit_delegate.cli.export import export

app = one_command(export)

if __name__ == "__main__":
    app()
