# Sourced by the other scripts: makes .venv from Python 3.11+ and pip, once.
#
#   ensure cpu,test              installs the project with these extras, in the versions of
#                                constraints.txt
#   ensure cpu,ray .venvs/ray    the same in another environment
#
# A stamp named by the hash of pyproject.toml and constraints.txt makes a second call take no time.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: no Python 3.11 or later was found" >&2
  echo "hint: install one, with its venv module (Debian: apt install python3-venv)" >&2
  return 1
}

ensure() {
  local extras=$1 folder=${2:-.venv} python stamp
  stamp="$folder/installed-$extras-$(cat pyproject.toml constraints.txt | cksum | tr ' ' -)"
  if [ -e "$stamp" ]; then
    return
  fi
  if [ ! -x "$folder/bin/python" ]; then
    python=$(find_python)
    echo "making $folder with $("$python" --version)" >&2
    "$python" -m venv "$folder"
  fi
  echo "installing corpus-engine[$extras] into $folder" >&2
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$extras]"
  touch "$stamp"
}
