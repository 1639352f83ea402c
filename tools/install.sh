#!/usr/bin/env bash
# Creates .venv with the pinned requirements and builds FFCV. Changes nothing outside the checkout.
#
#   tools/install.sh [requirements file ...]       # in addition to requirements.txt
#
# PYTHON            Python interpreter to use (3.11 or 3.12)
# TURBOJPEG_PREFIX  installation prefix of libturbojpeg (include/, lib/), e.g. a conda environment
# CXX               C++ compiler (default: g++)
#
# If g++, libturbojpeg or the Python headers are missing, they are downloaded into .venv without root: the compiler
# from PyPI, the others from the distribution's package archive (Debian, Ubuntu).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[install] %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or 3.12 is needed. On Debian or Ubuntu: apt-get install python3 python3-venv. Or set PYTHON=/path/to/python3.12"
}

make_venv() {
    [ -x .venv/bin/pip ] && return
    python=$(find_python)
    say "creating .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || fail "$python cannot create virtual environments. On Debian or Ubuntu: apt-get install python3-venv. Without root: python3 -m pip install --user virtualenv && python3 -m virtualenv .venv, then run this again"
}

# Downloads packages with private apt directories: needs no root and leaves the system unchanged.
# "a|b" is a package that is named a on Debian and b on Ubuntu.
fetch_packages() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
        fail "missing packages: $*. Install the development files of libturbojpeg and Python with your package manager, or from conda (conda install -c conda-forge libjpeg-turbo; TURBOJPEG_PREFIX=\$CONDA_PREFIX)"
    fi
    say "missing packages: $*; downloading them into .venv/native (alternative, as root: apt-get install ${*%%|*})"
    local apt=$PWD/.venv/apt name package
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$PWD/.venv/native"
    local options=(-qq -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=)
    apt-get "${options[@]}" update
    for package in "$@"; do
        for name in ${package//|/ }; do
            if apt-cache "${options[@]}" show "$name" >/dev/null 2>&1; then
                (cd "$apt" && apt-get "${options[@]}" download "$name")
                break
            fi
        done
    done
    for package in "$apt"/*.deb; do dpkg -x "$package" .venv/native; done
    rm -rf "$apt"
}

compiles() { # FLAGS: whether the C++ source on standard input compiles and links as a shared library
    # shellcheck disable=SC2086
    $CXX -shared -fPIC -x c++ - "$@" -o /dev/null 2>/dev/null
}

find_compiler() {
    CXX=${CXX:-g++}
    if ! command -v "${CXX%% *}" >/dev/null; then
        say "no C++ compiler found; installing zig from PyPI (alternative, as root: apt-get install g++)"
        .venv/bin/pip install -q ziglang==0.17.1
        CXX="$PWD/.venv/bin/python -m ziglang c++"
    fi
    # Overrides Python's own link commands, which assume the distribution's gcc.
    export CXX CC=$CXX LDSHARED="$CXX -shared" LDCXXSHARED="$CXX -shared"
}

build_ffcv() {
    .venv/bin/python -c 'import ffcv._libffcv' 2>/dev/null && return
    find_compiler
    local native=$PWD/.venv/native multiarch python_include missing=()
    multiarch=$(.venv/bin/python -c 'import platform; print(platform.machine() + "-linux-gnu")')
    python_include=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    TURBOJPEG_FLAGS=${TURBOJPEG_PREFIX:+-I$TURBOJPEG_PREFIX/include -L$TURBOJPEG_PREFIX/lib}
    # shellcheck disable=SC2086
    if ! echo '#include <turbojpeg.h>' | compiles $TURBOJPEG_FLAGS -lturbojpeg; then
        missing+=(libturbojpeg0-dev "libturbojpeg0|libturbojpeg")
        TURBOJPEG_FLAGS="-I$native/usr/include -L$native/usr/lib/$multiarch"
        export LDFLAGS="-Wl,-rpath,$native/usr/lib/$multiarch"
    elif [ -n "${TURBOJPEG_PREFIX:-}" ]; then
        export LDFLAGS="-Wl,-rpath,$TURBOJPEG_PREFIX/lib"
    fi
    if [ ! -f "$python_include/Python.h" ]; then
        local version
        version=python$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        missing+=("lib$version-dev")
        export CPATH="$native/usr/include/$version:$native/usr/include"
    fi
    [ ${#missing[@]} -eq 0 ] || fetch_packages "${missing[@]}"
    export TURBOJPEG_FLAGS FFCV_BUILD=$PWD/tools/ffcv
    say "building FFCV with $CXX"
    # --force-reinstall: pip may consider FFCV installed although it cannot be imported, because a library is gone.
    # --no-deps: FFCV declares dependencies that this project does not use, one of which requires an unpinned torch.
    PATH="$FFCV_BUILD:$PATH" .venv/bin/pip install -q --force-reinstall --no-deps --no-build-isolation --use-pep517 --no-cache-dir -r requirements-ffcv.txt
    .venv/bin/python -c 'import ffcv._libffcv'
}

make_venv
for file in requirements.txt "$@"; do
    say "installing $file"
    .venv/bin/pip install -q --disable-pip-version-check -r "$file"
done
build_ffcv
say "finished: .venv is ready"
