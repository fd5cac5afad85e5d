#!/usr/bin/env bash
# Builds what a Kubernetes cluster takes, from Go modules pinned by digest, into a cache outside the source tree.
#
# Usage: tests/cluster/build.sh [oldest|node|kwok]
# Without a word it builds an API server and what speaks with it. With `oldest` it builds API server and controller manager of
# the oldest Kubernetes that is served, and takes the rest from the newest. With `node` it builds what runs pods, for Linux; with
# `kwok` what pretends to, and a scheduler.
# Does nothing where it was built from the same pins and with the same flags before. Variables:
#   KUBEBUILDER_ASSETS  a folder with kube-apiserver, etcd and kubectl: these are taken, nothing is built but a node
#   RERANK_CACHE        the cache's folder; by default rerank-operator in $XDG_CACHE_HOME or ~/.cache
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
    echo "$*" >&2
    exit 1
}

part="${1:-newest}"
if [ "$part" != node ] && [ "$part" != kwok ] && [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for program in kube-apiserver etcd kubectl; do
        file="$KUBEBUILDER_ASSETS/$program"
        { [ -f "$file" ] && [ -x "$file" ]; } ||
            fail "KUBEBUILDER_ASSETS is set, but $file is no executable file; unset it to build one (make api-server)"
    done
    echo "API server: that of KUBEBUILDER_ASSETS, $KUBEBUILDER_ASSETS"
    exit
fi

case "$part" in
newest) modules="$here" name="API server" folder=kubernetes built=({,etcd/,helm/,definitions/}go.{mod,sum}) ;;
oldest) modules="$here/oldest" name="API server" folder=kubernetes built=({,etcd/,helm/,definitions/,oldest/}go.{mod,sum}) ;;
node) modules="$here" name="node" folder=node built=({,containerd/,runc/,cni/,coredns/}go.{mod,sum} coredns/main.go) ;;
kwok) modules="$here" name="kwok" folder=kwok built=({,kwok/}go.{mod,sum}) ;;
*) fail "usage: tests/cluster/build.sh [oldest|node|kwok]" ;;
esac
version="$(sed -nE 's/^(require)?\s*k8s\.io\/kubernetes v([0-9.]+)( .*)?$/\2/p' "$modules/go.mod")"
[ -n "$version" ] || fail "$modules/go.mod names no version of Kubernetes"
IFS=. read -r major minor _ <<<"$version"
caches="${RERANK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rerank-operator}"
cache="$caches/$folder-$version"

# Without its version the API server calls itself v0.0.0 and clients misjudge it. Two packages hold it: the programs'
# own, and that of the library which names the client.
link="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    link+=" -X $package.gitVersion=v$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done
flags=(-mod=readonly -trimpath -buildvcs=false)

pins="$({
    (cd "$here" && sha256sum "${built[@]}")
    echo "${flags[*]} $link"
    [ "$part" != kwok ] || echo stages
} | sha256sum | cut -d ' ' -f 1)"

is_built() {
    [ "$(cat "$cache/bin/built-from.sha256" 2>/dev/null)" = "$pins" ]
}

if is_built; then
    echo "$name: $cache/bin"
    exit
fi
if [ "$part" = oldest ]; then
    newest="$("$here/build.sh" | tee /dev/stderr | sed -n 's/^API server: //p')"
fi
command -v go >/dev/null ||
    fail "tests need an API server, and those of a cluster a node: install Go 1.26 (https://go.dev/dl) to have it built," \
        "or set KUBEBUILDER_ASSETS to a folder with kube-apiserver, etcd and kubectl"

# One build at a time. The lock goes with the last process that holds it open, so none is left behind.
mkdir -p "$cache"
exec 9>"$cache/lock"
if ! flock --nonblock 9; then
    echo "Waiting for another build of the $name"
    flock 9
    if is_built; then
        echo "$name: $cache/bin"
        exit
    fi
fi

# Built beside its place and renamed, so that an interrupted build leaves nothing half made.
rm -rf "$cache"/building.* "$cache"/old.*
building="$(mktemp -d "$cache/building.XXXXXX")"
trap 'rm -rf "$building"' EXIT
chmod 755 "$building"

build() { # folder of a go.mod, package, program, more flags
    echo "Building $3 ($2)"
    CGO_ENABLED="${cgo:-0}" GOWORK=off go build -C "$1" "${flags[@]}" "${@:4}" -ldflags "$link" -o "$building/$3" "$2" ||
        fail "failed to build $3 with $(go version), as said above;" \
            "KUBEBUILDER_ASSETS can name a folder with kube-apiserver, etcd and kubectl instead"
}
publish() {
    echo "$pins" >"$building/built-from.sha256"
    if [ -e "$cache/bin" ]; then
        mv "$cache/bin" "$cache/old.$$"
    fi
    mv "$building" "$cache/bin"
    rm -rf "$cache"/old.*
    echo "$name: $cache/bin"
}

if [ "$part" = node ]; then
    # runc is C in part. It must know seccomp, which the restricted profile of Kubernetes asks for.
    pkg-config --exists libseccomp || fail "runc is built with the headers of libseccomp (Debian: libseccomp-dev, pkg-config, gcc)"
    echo "Building a node of Kubernetes $version, once: some five minutes on two cores"
    for program in kube-scheduler kubelet kube-proxy; do
        build "$here" "k8s.io/kubernetes/cmd/$program" "$program"
    done
    for program in containerd containerd-shim-runc-v2 ctr; do
        build "$here/containerd" "github.com/containerd/containerd/v2/cmd/$program" "$program"
    done
    cgo=1 build "$here/runc" github.com/opencontainers/runc runc -tags seccomp
    for plugin in main/ptp main/loopback ipam/host-local; do
        build "$here/cni" "github.com/containernetworking/plugins/plugins/$plugin" "cni/$(basename "$plugin")"
    done
    build "$here/coredns" . coredns
    publish
    exit
fi

if [ "$part" = kwok ]; then
    build "$here" k8s.io/kubernetes/cmd/kube-scheduler kube-scheduler
    build "$here/kwok" sigs.k8s.io/kwok/cmd/kwok kwok
    # What becomes of nodes and pods, by kwok's own description.
    stages="$(GOFLAGS=-mod=readonly GOWORK=off go -C "$here/kwok" list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage"
    for stage in "$stages"/node/{fast/node-initialize,heartbeat-with-lease/node-heartbeat-with-lease}.yaml "$stages"/pod/fast/*.yaml; do
        [ "$(basename "$stage")" = kustomization.yaml ] || { cat "$stage" && echo ---; } >>"$building/stages.yaml"
    done
    publish
    exit
fi

echo "Building Kubernetes $version, once: some ten minutes on two cores"
build "$modules" k8s.io/kubernetes/cmd/kube-apiserver kube-apiserver
build "$modules" k8s.io/kubernetes/cmd/kube-controller-manager kube-controller-manager
if [ "$part" = oldest ]; then
    cp -r "$newest"/{kubectl,etcd,helm,definitions} "$building/"
    publish
    exit
fi
build "$here" k8s.io/kubernetes/cmd/kubectl kubectl
build "$here/etcd" go.etcd.io/etcd/server/v3 etcd
build "$here/helm" helm.sh/helm/v4/cmd/helm helm

definition() { # module, file in it
    local folder
    folder="$(GOFLAGS=-mod=readonly GOWORK=off go -C "$here/definitions" mod download -json "$1" |
        sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
    [ -f "$folder/$2" ] || fail "failed to get $2 of the module $1"
    install -m 644 "$folder/$2" "$building/definitions/"
}
# Of kinds that are not Kubernetes' own and that objects of ours meet in a cluster.
mkdir "$building/definitions"
definition github.com/kedacore/keda/v2 config/crd/bases/keda.sh_scaledobjects.yaml
definition github.com/prometheus-operator/prometheus-operator \
    example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml
publish
