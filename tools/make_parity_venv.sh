# Create the virtual environment for TensorFlow Addons.
#
# Usage: sh tools/make_parity_venv.sh VENV. PYTHON selects the interpreter, which
# must be 3.11: TensorFlow Addons has no wheels for later versions.

venv=$1

fail() {
    echo "$1" >&2
    exit 1
}

"$venv/bin/python" -c 'import tensorflow_addons' 2>/dev/null && exit 0

found=""
for candidate in ${PYTHON:-python3.11 python3}; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        continue
    found="$found $candidate $version"
    [ "$version" = 3.11 ] && python=$candidate && break
done
[ -n "$python" ] ||
    fail "Python 3.11 is needed for TensorFlow Addons; found:${found:- none}. Set PYTHON=/path/to/python3.11."

if [ -d "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
    fail "$venv is a folder with other content; choose another one with PARITY_VENV=FOLDER."
fi
rm -rf "$venv"
echo "Installing TensorFlow 2.15 and TensorFlow Addons 0.23 into $venv"
"$python" -m venv "$venv" &&
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0 "numpy<2" ||
    fail "The environment could not be created; see the message above. Run the same command again."
