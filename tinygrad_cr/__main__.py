"""``python -m tinygrad_cr`` is ``tinygrad-cr``."""

from tinygrad_cr.cli import main

main()
