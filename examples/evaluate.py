"""Measures the top-1 accuracy of a .pte on a folder of images, through the ExecuTorch runtime: `packqvit evaluate`.

python examples/evaluate.py vit_tiny_w4a4.pte --data imagenet/val
"""

from packqvit_delegate.cli.console import one_command
from packqvit_delegate.cli.evaluate import evaluate

app = one_command(evaluate)

if __name__ == "__main__":
    app()
