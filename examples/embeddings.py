"""Judges the .pte of an image tower by its embeddings, through the ExecuTorch runtime: `packqvit embeddings`.

python examples/export_deit.py --model vit_tiny --features --calibration photos
python examples/embeddings.py vit_tiny_w4a4.pte --weights vit_tiny.safetensors --data photos
"""

from packqvit_delegate.cli.console import one_command
from packqvit_delegate.cli.embeddings import embeddings

app = one_command(embeddings)

if __name__ == "__main__":
    app()
