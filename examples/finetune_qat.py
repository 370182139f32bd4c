"""Fine-tunes a Vision Transformer in float, then on the integer grids, and exports it: `packqvit finetune`.

    python examples/finetune_qat.py --bits 4 --model vit_tiny --data photos/train --validation photos/val

Several GPUs or machines: the same command behind `torchrun --nproc-per-node N`.
"""

from packqvit_delegate.cli.console import one_command
from packqvit_delegate.cli.finetune import finetune

app = one_command(finetune)

if __name__ == "__main__":
    app()
