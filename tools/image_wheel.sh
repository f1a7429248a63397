#!/usr/bin/env bash
# The package as the image gets it, in DIRECTORY: without the demo's weights, as Azure ML takes 1 MB of
# what an image is built from. PYTHON: whose pip builds it.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: tools/image_wheel.sh DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
directory=$(realpath "$1")
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
cd "$(dirname "$0")/.."

package=$(mktemp -d)
trap 'rm -rf "$package"' EXIT
cp -R pyproject.toml README.md LICENSE server scoring model_config benchmark "$package"
rm "$package/scoring/demo/model.safetensors"
rm -f "$directory"/*.whl
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$directory" "$package"
