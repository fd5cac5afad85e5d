#!/usr/bin/env bash
# Lays out a build context: programs, and what they need to run where there is nothing else.
#
# Usage: images/stage.sh [--provided LIBRARY]... [--programs-only] CONTEXT PROGRAM...
# Makes CONTEXT anew:
#   program/   the programs, stripped, in /usr/bin, and the licence of this project
#   system/    the loader and the libraries that ldd names, roots of trust, a user that is not root, /tmp, and what Debian
#              tells of the packages that these come from, where scanners look for it
#   packages   these packages, one a line: name, version, architecture, source
# --provided names a library that the container's runtime brings, such as the driver's. --programs-only leaves system/
# empty, for a base image that has all of it.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
    echo "$*" >&2
    exit 1
}

provided=()
programs_only=
while [ $# -gt 0 ]; do
    case "$1" in
    --provided) provided+=("${2:?a library follows --provided}") && shift 2 ;;
    --programs-only) programs_only=1 && shift ;;
    -*) fail "unknown option $1; see the head of images/stage.sh" ;;
    *) break ;;
    esac
done
[ $# -ge 2 ] || fail "usage: images/stage.sh [--provided LIBRARY]... [--programs-only] CONTEXT PROGRAM..."
context="$1"
shift

for tool in ldd strip; do
    command -v "$tool" >/dev/null || fail "$tool is needed to lay out an image (on Debian: apt-get install libc-bin binutils)"
done
rm -rf "$context"
mkdir -p "$context"/program/usr/{bin,share/doc/rerank-operator} "$context/system"
: >"$context/packages"
install -m 644 "$here/../LICENSE" "$context/program/usr/share/doc/rerank-operator/LICENSE"
for program in "$@"; do
    [ -x "$program" ] || fail "$program is not there or no program; build it first"
    strip -o "$context/program/usr/bin/$(basename "$program")" "$program"
done

# The libraries of all programs as `name path`; the loader's name is its path, and a program without any has none.
libraries="$(
    for program in "$@"; do
        said="$(ldd "$program" 2>&1)" || [[ "$said" == *"not a dynamic executable"* ]] || fail "failed to ask ldd: $said"
        sed -nE -e 's/^\s*(\S+) => not found$/\1 missing/p' \
            -e 's/^\s*(\S+) => (\/\S+) \(.*$/\1 \2/p' -e 's/^\s*(\/\S+) \(.*$/\1 \1/p' <<<"$said"
    done | sort -u
)"
for library in "${provided[@]}"; do
    libraries="$(grep -v "^$library " <<<"$libraries" || true)"
done
missing="$(sed -n 's/ missing$//p' <<<"$libraries")"
[ -z "$missing" ] || fail "libraries of $* are not on this machine: $missing"
[ -z "$programs_only" ] || exit 0

system="$context/system"
# The folder of the C library is one where its loader looks without being told, so all go there.
folder="$(dirname "$(sed -n 's/^libc\.so\.6 //p' <<<"$libraries")")"
sources=()
while read -r name path; do
    [ -n "$name" ] || continue
    case "$name" in
    /*) target="$name" ;;
    *) target="$folder/$name" ;;
    esac
    install -D -m 755 "$path" "$system$target"
    sources+=("$path")
done <<<"$libraries"

roots=/etc/ssl/certs/ca-certificates.crt
[ -s "$roots" ] || fail "$roots is not there: whom to trust is not for this script to invent (on Debian: apt-get install ca-certificates)"
install -D -m 644 "$roots" "$system$roots"
sources+=("$roots")

mkdir -p "$system/etc"
echo 'nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin' >"$system/etc/passwd"
echo 'nonroot:x:65532:' >"$system/etc/group"
echo 'hosts: files dns' >"$system/etc/nsswitch.conf"
install -d -m 1777 "$system/tmp"
[ ! -f /etc/os-release ] || install -m 644 /etc/os-release "$system/etc/os-release"

# Elsewhere than on Debian and its children nothing is told of the packages.
command -v dpkg-query >/dev/null || exit 0
packages="$(
    for source in "${sources[@]}"; do
        # Where /lib is a link to /usr/lib, a package may own the file by either name. Roots are made by a package's trigger.
        real="$(realpath "$source")"
        if [ "$source" = "$roots" ]; then
            echo ca-certificates
        else
            { dpkg-query -S "$real" || dpkg-query -S "${real#/usr}" || true; } 2>/dev/null | sed -E 's/: \/.*$//; s/:[a-z0-9]+$//'
        fi
    done | sort -u
)"
for package in $packages; do
    # shellcheck disable=SC2016 # dpkg-query's own variables
    dpkg-query -W -f '${Package} ${Version} ${Architecture} ${source:Package}\n' "$package" >>"$context/packages"
    install -d "$system/var/lib/dpkg/status.d"
    dpkg-query -s "$package" >"$system/var/lib/dpkg/status.d/$package"
    copyright="/usr/share/doc/$package/copyright"
    [ ! -f "$copyright" ] || install -D -m 644 "$copyright" "$system$copyright"
done
