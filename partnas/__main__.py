"""``python -m partnas``, and ``torchrun -m partnas``."""

from partnas.cli import main

main()
