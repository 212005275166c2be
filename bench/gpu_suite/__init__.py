"""The parts of `bench/gpu.py`: contestants in processes of their own, phases, and the report."""
