"""`make cuda-check`: see __main__.py."""
