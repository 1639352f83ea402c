#!/usr/bin/env bash
# Makes .venv: the pinned requirements and FFCV, built here. Touches nothing outside the checkout.
#
#   tools/install.sh [requirements file ...]       # always requirements.txt, and those named
#
# PYTHON            the interpreter to build on (3.11 or 3.12)
# TURBOJPEG_PREFIX  where libturbojpeg is (include/, lib/), e.g. a conda environment
#
# What the system lacks of g++, libturbojpeg and Python's headers is fetched without root into
# .venv/native: the compiler from PyPI, the rest from the distribution's archive (Debian, Ubuntu).
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
    fail "Python 3.11 or 3.12 is needed. Debian, Ubuntu: apt-get install python3 python3-venv. Or name one: PYTHON=/path/to/python3.12"
}

make_venv() {
    [ -x .venv/bin/pip ] && return
    python=$(find_python)
    say "creating .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || fail "this Python cannot make environments. Debian, Ubuntu: apt-get install python3-venv. Without root: python3 -m pip install --user virtualenv && python3 -m virtualenv .venv, then again"
}

# The distribution's own archive, read with a private apt: no root, no change to the system.
# "a|b" is the package that Debian calls a and Ubuntu b.
fetch_packages() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
        fail "missing here: $*. Install libturbojpeg's and Python's development files with your package manager, or from conda (conda install -c conda-forge libjpeg-turbo; TURBOJPEG_PREFIX=\$CONDA_PREFIX)"
    fi
    say "not on this machine: $*; fetching into .venv/native (as root you could instead: apt-get install ${*%%|*})"
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

compiles() { # flags, from a C++ source on standard input to a shared library that is thrown away
    # shellcheck disable=SC2086
    $CXX -shared -fPIC -x c++ - "$@" -o /dev/null 2>/dev/null
}

find_compiler() {
    CXX=${CXX:-g++}
    if ! command -v "${CXX%% *}" >/dev/null; then
        say "no C++ compiler here: taking zig's from PyPI (as root you could instead: apt-get install g++)"
        .venv/bin/pip install -q ziglang==0.17.1
        CXX="$PWD/.venv/bin/python -m ziglang c++"
    fi
    # Not the distribution's own link flags: they are for its gcc.
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
    # FFCV declares packages that it needs for nothing we call, an unpinned torch behind one of them.
    PATH="$FFCV_BUILD:$PATH" .venv/bin/pip install -q --no-deps --no-build-isolation --use-pep517 --no-cache-dir -r requirements-ffcv.txt
    .venv/bin/python -c 'import ffcv._libffcv'
}

make_venv
for file in requirements.txt "$@"; do
    say "installing $file"
    .venv/bin/pip install -q --disable-pip-version-check -r "$file"
done
build_ffcv
say "done: .venv"
