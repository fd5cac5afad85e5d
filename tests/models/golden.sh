#!/bin/sh
# Makes the golden files again from the stored weights. Under a minute.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/venv.sh"
exec "$python" -u "$here/golden.py"
