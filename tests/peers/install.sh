#!/bin/sh
# Installs what tests/peers needs and this machine has not: servers, a browser and a NAT by apt-get, JavaScript by npm.
set -eu
cd "$(dirname "$0")"

missing=""
need() { # command, package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH="$PATH:/usr/sbin:/sbin"
need nginx nginx-light
need haproxy haproxy
need prometheus prometheus
need promtool prometheus
need chromium chromium
need node nodejs
need npm npm
need openssl openssl
need gnutls-cli gnutls-bin
need curl curl
need javac default-jdk-headless
need rabbitmq-server rabbitmq-server
need ip iproute2
need nft nftables
need conntrack conntrack
need sysctl procps
need wrk wrk
need systemd-analyze systemd
ldconfig -p | grep -q libseccomp.so.2 || missing="$missing libseccomp2"

if [ -n "$missing" ]; then
    packages=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
    echo "installing: $packages"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    # Debian starts a server that it installs; the tests start their own, on ports and in directories of their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod 755 "$policy"
        trap '$sudo rm -f "$policy"' EXIT
    fi
    $sudo apt-get update
    # shellcheck disable=SC2086  # a list of packages
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
fi

# Once for this package.json: what is there and right is left alone.
if [ ! -e node_modules/.installed ] || [ package.json -nt node_modules/.installed ]; then
    npm install --no-audit --no-fund --no-package-lock --ignore-scripts --loglevel=error
    touch node_modules/.installed
fi
