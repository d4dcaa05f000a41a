#!/bin/sh
# Run the tests with every Python on this machine that Septum supports, each in an environment of its own.
#
#   packaging/pythons.sh                 says which are found, and runs the quick tests with each
#   packaging/pythons.sh test tests/io   runs those of some folders only
#   packaging/pythons.sh list            says which are found
#   packaging/pythons.sh demo            builds a wheel, installs it into an empty environment of each, runs the demo there
#
# Environments stay in build/python-X.Y. PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu fetches a small PyTorch.
set -eu
cd "$(dirname "$0")/.."
mode="${1:-test}"
[ $# -eq 0 ] || shift
versions="3.11 3.12 3.13 3.14"

find_python() {
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        # A shim of pyenv exists for every version, but runs only those that are chosen.
        if found=$("$candidate" -c 'import sys; print(sys.executable)' 2>/dev/null) \
            && [ "$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$1" ]; then
            echo "$found"
            return
        fi
    done
}

present="" absent=""
for version in $versions; do
    python=$(find_python "$version")
    if [ -n "$python" ]; then
        echo "Python $version: $python"
        present="$present $version"
    else
        echo "Python $version: not on this machine"
        absent="$absent $version"
    fi
done
[ "$mode" = list ] && exit 0

failed=""
if [ "$mode" = demo ]; then
    rm -rf build/wheel && mkdir -p build/wheel
    python=$(find_python "$(echo "$present" | cut -d' ' -f2)")
    "$python" -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
fi
for version in $present; do
    environment="build/python-$version"
    echo "--- Python $version"
    [ -d "$environment" ] || "$(find_python "$version")" -m venv "$environment"
    if [ "$mode" = demo ]; then
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps build/wheel/*.whl
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check build/wheel/*.whl
        "$environment/bin/python" -m pip check && "$environment/bin/septum" demo -o "$environment/demo" || failed="$failed $version"
    else
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
        "$environment/bin/python" -m pytest -m "not slow" -n 2 --dist loadfile "$@" || failed="$failed $version"
    fi
done
echo "ran with:${present:- none}; not on this machine:${absent:- none}; failed:${failed:- none}"
[ -z "$failed" ]
