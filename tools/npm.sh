#!/bin/sh
# Runs npm in js/. Without npm it says so and goes on: widgets then show their static pictures, and the tests of their
# front end are skipped and say so.
set -eu
cd "$(dirname "$0")/../js"

if ! command -v npm >/dev/null; then
    echo "SKIPPED: npm $*: there is no npm on this machine; please install Node.js 20 or newer, with npm" >&2
    exit 0
fi
exec npm --no-update-notifier "$@"
