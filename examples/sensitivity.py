"""Tells which operator of a quantised Vision Transformer loses how much: `packqvit sensitivity`.

python examples/sensitivity.py --bits 4 --model deit_tiny --calibration photos --plot losses.png
"""

from packqvit_delegate.cli.console import one_command
from packqvit_delegate.cli.sensitivity import sensitivity

app = one_command(sensitivity)

if __name__ == "__main__":
    app()
