# Create a virtual environment and install the package with its test dependencies.
#
# Usage: sh tools/make_venv.sh VENV EXTRA [CONSTRAINTS], with EXTRA one of cpu, gpu,
# tpu and CONSTRAINTS the file of versions, by default constraints.txt. PYTHON selects
# the interpreter, MIN_FREE_GB the required disk space. If something is missing, prints
# one line and exits with 1.

venv=$1
extra=$2
constraints=${3:-constraints.txt}

fail() {
    echo "$1" >&2
    exit 1
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# An environment with another Python than the requested one is rebuilt.
if [ -n "$PYTHON" ]; then
    asked=$(version_of "$PYTHON") || fail "Expected a Python. Received: PYTHON=$PYTHON"
    case $asked in
        3.11 | 3.12 | 3.13) ;;
        *) fail "Python 3.11, 3.12 or 3.13 is needed. Received: PYTHON=$PYTHON, $asked" ;;
    esac
    has=$(version_of "$venv/bin/python")
    if [ -n "$has" ] && [ "$has" != "$asked" ] && [ -e "$venv/pyvenv.cfg" ]; then
        echo "Rebuilding $venv: it has Python $has, PYTHON is $asked."
        rm -rf "$venv"
    fi
fi

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$venv/bin/python
else
    found=""
    python=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        version=$(version_of "$candidate") || continue
        found="$found $candidate $version"
        case $version in
            3.11 | 3.12 | 3.13) python=$candidate && break ;;
        esac
    done
    [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is needed; found:${found:- none}. Set PYTHON=/path/to/python."
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python lacks the module venv; install it (Debian and Ubuntu: apt install python3-venv)."
fi

place=$venv
while [ ! -e "$place" ]; do place=$(dirname "$place"); done
free=$(df -Pk "$place" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge "${MIN_FREE_GB:-4}" ] ||
    fail "${MIN_FREE_GB:-4} GB of free disk are needed for $venv; found: $free GB."

if [ "$python" != "$venv/bin/python" ]; then
    if [ -d "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv is a folder with other content; choose another with VENV=FOLDER."
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make the virtual environment $venv."
fi
# TensorFlow for TPUs ends at 2.20 and needs its own TensorBoard version.
if [ "$extra" = tpu ]; then
    grep -v -e '^tensorboard' -e '^tensorflow=' -e '^tensorflow-cpu=' "$constraints" >"$venv/constraints.txt"
    constraints=$venv/constraints.txt
fi
echo "Installing into $venv (about 0.6 GB to download the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" --editable ".[$extra,test]" ||
    fail "pip could not install the packages; see the message above. Run the same command again to continue."
# The tests use it to stand in for TF Serving. --no-deps, as it requires tensorflow, not
# tensorflow-cpu.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --constraint "$constraints" tensorflow-serving-api ||
    fail "pip could not install tensorflow-serving-api; see the message above."
