#!/usr/bin/env bash
# Makes an image of a context and writes it as one file, which registries' tools and container engines read.
#
# Usage: images/pack.sh CONTAINERFILE CONTEXT NAME:TAG ARCHIVE [OPTION]...
# The options go to the builder as they are. Variables:
#   BUILDER            docker or buildah; by default the first of buildah and docker that works
#   MAXIMUM_MIB        fail where the image is larger, compressed
#   SOURCE_DATE_EPOCH  the time that all files get; with buildah the same files then give the same digest
set -euo pipefail
containerfile="$1" context="$2" name="$3" archive="$4"
shift 4

fail() {
    echo "$*" >&2
    exit 1
}

builder="${BUILDER:-}"
if [ -z "$builder" ]; then
    if command -v buildah >/dev/null; then
        builder=buildah
    # The client alone is often there, without an engine to speak to.
    elif docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
        builder=docker
    else
        fail "an image needs a builder: install buildah (on Debian: apt-get install --no-install-recommends buildah)," \
            "or start a docker engine"
    fi
fi
epoch="${SOURCE_DATE_EPOCH:-0}"
archive="$(realpath -m "$archive")"
mkdir -p "$(dirname "$archive")"
work="$(mktemp -d "$(dirname "$archive")/packing.XXXXXX")"
# A builder's storage may hold folders that its owner alone may not even list, so a failure to clean up is not one to pack.
trap 'rm -rf "$work" || true' EXIT

case "$builder" in
buildah)
    # Storage of its own: no engine's is touched, and no daemon, no configuration and no overlay file system is needed.
    buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)
    "${buildah[@]}" bud --quiet --isolation chroot --format oci --timestamp "$epoch" --iidfile "$work/id" \
        --file "$containerfile" --tag "$name" "$@" "$context" >/dev/null ||
        fail "buildah failed to build $name, as said above"
    "${buildah[@]}" push --quiet "$(cat "$work/id")" "oci-archive:$work/archive:$name"
    ;;
docker)
    docker build --quiet --build-arg SOURCE_DATE_EPOCH="$epoch" --file "$containerfile" --tag "$name" "$@" "$context" >/dev/null ||
        fail "docker failed to build $name, as said above"
    docker save --output "$work/archive" "$name"
    ;;
*) fail "BUILDER is $builder; it may be docker or buildah" ;;
esac
mv "$work/archive" "$archive"

mkdir "$work/layout"
tar -xf "$archive" -C "$work/layout"
# Layers as a registry would hold them: those that an engine saved uncompressed are compressed to be measured.
bytes="$(find "$work/layout" -type f -size +0 -print0 | while IFS= read -r -d '' file; do
    if gzip --test "$file" 2>/dev/null; then cat "$file"; else gzip --fast <"$file"; fi
done | wc -c)"
digest="$(sed -nE 's/.*"manifests":\[\{[^]]*"digest":"(sha256:[0-9a-f]{64})".*/\1/p' "$work/layout/index.json" 2>/dev/null || true)"
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }
echo "$name: $(mib "$bytes") compressed${MAXIMUM_MIB:+ of at most $MAXIMUM_MIB MiB}, ${digest:-no digest}, $archive"
[ -z "${MAXIMUM_MIB:-}" ] || [ "$bytes" -le $((MAXIMUM_MIB * 1048576)) ] ||
    fail "$name is larger than its bound: $bytes bytes, compressed, of at most $((MAXIMUM_MIB * 1048576))"
