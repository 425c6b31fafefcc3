#!/usr/bin/env bash
# Builds the source distribution, the wheel from it (so both are complete), installs the wheel into an empty
# environment outside the checkout, and renders one triangle there.
#
#   tools/check_wheel.sh PYTHON      PYTHON has `build` and hatchling: the checkout's .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "Building the wheel"
"$1" -m build --no-isolation --outdir "$folder/dist" . >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }

echo "Installing $(basename "$folder"/dist/*.whl) into an empty environment"
PYTHON=$1 tools/set_up.sh "$folder/empty" "$folder"/dist/*.whl

# -I: neither this folder nor PYTHONPATH is searched, so that only the installed package can be found.
# Its own cache, so that every shader is compiled anew from the wheel's files.
echo "Rendering one triangle from it"
cp tests/smoke/render_one_triangle.py "$folder"
cd "$folder"
SLANGRAST_CACHE=$folder/cache empty/bin/python -I -W error render_one_triangle.py
