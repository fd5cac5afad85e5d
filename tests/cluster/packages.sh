#!/usr/bin/env bash
# Makes sure that what a node and its images take from the system is there: on Debian and as root it installs what is missing,
# elsewhere it says what.
set -euo pipefail

fail() {
    echo "$*" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "a node of Kubernetes runs on Linux; set KUBECONFIG to use a cluster that is there"
[ "$(id -u)" = 0 ] || fail "a node of Kubernetes is run by root; set KUBECONFIG to use a cluster that is there"

missing=()
needs() { # package, what shows that it is there...
    local package="$1"
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
needs buildah command -v buildah
needs gcc command -v gcc
needs pkg-config command -v pkg-config
needs libseccomp-dev pkg-config --exists libseccomp
needs iproute2 command -v ip
needs nftables command -v nft
needs conntrack command -v conntrack
needs util-linux command -v unshare
needs ca-certificates test -s /etc/ssl/certs/ca-certificates.crt

[ "${#missing[@]}" -gt 0 ] || exit 0
command -v apt-get >/dev/null || fail "these are missing, as Debian names them: ${missing[*]}"
echo "Installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
