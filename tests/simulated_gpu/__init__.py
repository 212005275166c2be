"""A GPU made of the host: the engine's whole GPU path runs without one."""
