#!/bin/sh
# Makes the corpus, the tiny model pair, the random models and the golden files. About a quarter of an hour.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/venv.sh"
exec "$python" -u "$here/make.py"
