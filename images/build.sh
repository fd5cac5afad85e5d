#!/usr/bin/env bash
# Makes the images of this project from programs that are built already, as target/images/NAME.oci.tar.
#
# Usage: images/build.sh [--profile release|dev] [--binaries FOLDER] [--base IMAGE] [operator|server|server-cuda]...
# Without names: operator and server. --binaries is where the programs lie; by default target/release, of --profile dev
# target/debug, and for server-cuda what `make cuda` built. --base is an image to build on instead of on nothing; it must
# bring the C library, libgcc_s and roots of trust. Variables, beside those of images/pack.sh:
#   IMAGE_PREFIX  before the names, by default localhost/
#   IMAGE_TAG     by default the version; the servers have -cpu and -cuda behind it
#   IMAGE_SOURCE  address of the source, a label
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "$*" >&2
    exit 1
}

binaries=target/release
cuda_binaries=target/cuda/target/release
base=
while [ $# -gt 0 ]; do
    case "$1" in
    --profile)
        case "${2:-}" in
        release) binaries=target/release ;;
        dev) binaries=target/debug ;;
        *) fail "--profile may be release or dev" ;;
        esac
        shift 2
        ;;
    --binaries) binaries="${2:?a folder follows --binaries}" cuda_binaries="$2" && shift 2 ;;
    --base) base="${2:?an image follows --base}" && shift 2 ;;
    -*) fail "unknown option $1; see the head of images/build.sh" ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || set -- operator server

version="$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)"
licence="$(sed -n '/^\[workspace\.package\]/,/^\[/s/^license = "\(.*\)"$/\1/p' Cargo.toml)"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
git diff --quiet HEAD 2>/dev/null || [ "$revision" = unknown ] || revision+=-modified
# Of the commit, so that the same programs give the same image whenever it is made.
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH

image() { # name, suffix of the tag, folder of the program, bound in MiB or nothing, title, description, options of images/stage.sh
    local name="$1" suffix="$2" folder="$3" maximum="$4" title="$5" description="$6" program context
    shift 6
    program="rerank-${name%-cuda}"
    context="target/images/$name"
    images/stage.sh "$@" ${base:+--programs-only} "$context" "$folder/$program"
    # The bounds are those of images on nothing.
    [ -z "$base" ] || maximum=
    MAXIMUM_MIB="$maximum" images/pack.sh "images/$name.Containerfile" "$context" \
        "${IMAGE_PREFIX-localhost/}$program:${IMAGE_TAG:-$version}$suffix" "target/images/rerank-$name.oci.tar" \
        ${base:+--build-arg "BASE=$base"} \
        --label "org.opencontainers.image.title=$title" \
        --label "org.opencontainers.image.description=$description" \
        --label "org.opencontainers.image.version=$version" \
        --label "org.opencontainers.image.revision=$revision" \
        --label "org.opencontainers.image.licenses=$licence" \
        --label "org.opencontainers.image.created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" \
        ${IMAGE_SOURCE:+--label "org.opencontainers.image.source=$IMAGE_SOURCE"}
}

for name in "$@"; do
    case "$name" in
    operator)
        image operator '' "$binaries" 30 'Rerank operator' 'RerankDeployment to Deployment, Service, ConfigMap and the rest'
        ;;
    server)
        image server -cpu "$binaries" 120 'Rerank server' 'Two-stage search over HTTP, on a CPU'
        ;;
    server-cuda)
        # The driver's library comes with the node's driver; the others are CUDA's and come along.
        LD_LIBRARY_PATH="$(realpath -m target/cuda/toolkit)/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
            image server-cuda -cuda "$cuda_binaries" '' 'Rerank server for CUDA' 'Two-stage search over HTTP, on an NVIDIA GPU' \
            --provided libcuda.so.1
        ;;
    *) fail "there is no image $name; there are operator, server and server-cuda" ;;
    esac
done
