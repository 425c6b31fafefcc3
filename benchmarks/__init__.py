"""Speed and memory, measured side by side: `python -m benchmarks`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or torch's profiler prints that it starts and stops
