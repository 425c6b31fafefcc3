"""Torch-only twins of the shaders, written from the papers: slow, exact, independent of what they judge."""
