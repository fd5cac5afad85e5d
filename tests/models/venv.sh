# Sourced by make.sh and golden.sh with $here set: makes the virtual environment if it is missing and sets $python.
venv="$here/../../target/models-venv"
python="$venv/bin/python"
export PYTHONDONTWRITEBYTECODE=1
[ -x "$python" ] || python3 -m venv "$venv"
"$python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
