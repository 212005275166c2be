"""The benchmark: ``python -m bench`` from the repository's root. It is no part of the installed package."""
