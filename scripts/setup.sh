#!/bin/sh
# Makes the virtual environment $VENV with tok4d and everything its tests need. Run by the Makefile.
set -eu

# Downloads fail now and then: three more tries, with longer and longer pauses.
again() {
    for pause in 10 30 60; do
        "$@" && return
        echo "note: failed, trying again in $pause s: $*" >&2
        sleep "$pause"
    done
    "$@"
}

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: $PYTHON is missing or older than Python 3.10; name another: make PYTHON=python3.11 ..." >&2
    exit 1
fi

# Debian's Python comes without venv; nearly everything else is in the wheels.
missing="" wanted=""
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ "$(uname)" = Linux ]; then  # what the ray caster of the 3D plugin (open3d) links to, its wheel does not bring
    for pair in libusb-1.0.so.0:libusb-1.0-0 libEGL.so.1:libegl1 libGL.so.1:libgl1 libgomp.so.1:libgomp1 \
        libX11.so.6:libx11-6; do
        "$PYTHON" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${pair%%:*}" 2>/dev/null ||
            wanted="$wanted ${pair##*:}"
    done
fi
if [ -n "$missing$wanted" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        again apt-get update -qq
        DEBIAN_FRONTEND=noninteractive again apt-get install -y -qq --no-install-recommends $missing $wanted
    elif [ -n "$missing" ]; then
        echo "error: system packages are missing; run: sudo apt-get install -y$missing$wanted" >&2
        exit 1
    else
        echo "note: 3D rendering needs system libraries; on Debian: sudo apt-get install -y$wanted" >&2
    fi
fi

"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV"  # also mends an interrupted set-up
# torch and torchvision come from one release; asking for both at once lets pip match them.
echo "setting up $VENV (PyTorch is large: a few minutes the first time)"
again "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
