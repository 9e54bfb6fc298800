#!/bin/sh
# Installs the Debian packages named as arguments, those that are missing. `apt-get update` runs only when there are any.
# Without root, or on another system, it says what to install and goes on: the tests that need it are skipped and say so.
set -eu

missing=""
for package in "$@"; do
    if ! dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "NOT INSTALLED, this is no Debian: please install the like of$missing" >&2
elif [ "$(id -u)" -ne 0 ]; then
    echo "NOT INSTALLED, this is not root: please run  sudo apt-get install$missing" >&2
else
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet
    # shellcheck disable=SC2086  # a list of words
    apt-get install --quiet --yes --no-install-recommends $missing
fi
