#!/usr/bin/env bash
# Makes the images of the cluster's tests, below target/images: those of the project, of the programs that tests share, and two
# of the tests' own. Does nothing for those whose programs have not changed since.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export IMAGE_TAG=e2e MAXIMUM_MIB=
stamps=target/images/stamps
mkdir -p "$stamps"

unless_made() { # name, archive, what it is made of..., --, command
    local name="$1" archive="$2" parts=() made
    shift 2
    while [ "$1" != -- ]; do parts+=("$1") && shift; done
    shift
    made="$(find "${parts[@]}" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)"
    if [ -f "$archive" ] && [ "$(cat "$stamps/$name" 2>/dev/null)" = "$made" ]; then
        echo "$name: as before, $archive"
        return
    fi
    rm -f "$stamps/$name"
    "$@"
    echo "$made" >"$stamps/$name"
}

with_models() { # name, program or nothing
    local context="target/images/$1"
    if [ -n "${2:-}" ]; then
        images/stage.sh "$context" "$2"
    else
        rm -rf "$context"
    fi
    mkdir -p "$context/models"
    cp -r tests/models/tiny-embedder tests/models/tiny-reranker "$context/models/"
    chmod -R a+rX "$context/models"
    images/pack.sh "tests/cluster/images/$1.Containerfile" "$context" "localhost/rerank-$1:e2e" "target/images/rerank-$1.oci.tar"
}

models=(tests/models/tiny-embedder tests/models/tiny-reranker)
for name in operator server; do
    unless_made "$name" "target/images/rerank-$name.oci.tar" "target/debug/rerank-$name" images -- images/build.sh --profile dev "$name"
done
unless_made fixture target/images/rerank-fixture.oci.tar target/debug/rerank-fixture images tests/cluster/images "${models[@]}" -- \
    with_models fixture target/debug/rerank-fixture
unless_made tiny-pair target/images/rerank-tiny-pair.oci.tar images tests/cluster/images "${models[@]}" -- with_models tiny-pair
