#!/usr/bin/env bash
# Sets up .venv with everything that `make demo` (argument: demo) or `make test` (argument: test) needs.
# It is quick if nothing is missing. PYTHON names the interpreter; the default is the first installed one of 3.11, 3.12
# and 3.10.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-test}
venv=${VENV:-.venv}

# A terminal gets a bold arrow, all else the time.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
  say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
else
  say() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }
fi
die() { printf 'Error: %s\n' "$*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "root is needed and sudo is not installed; run this as root: $*"; fi; }

case "$what" in
  demo) extras=build,bench,server,ui ;;
  test) extras=build,bench,server,train,dev,tensorrt-rtx,openvino,http,video,supervision,ui,docs ;;
  *) die "builder/install.sh takes the argument 'demo' or 'test', not '$what'" ;;
esac
[ "$(uname -sm)" = "Linux x86_64" ] || die "the embedded Triton server runs only on Linux x86_64; this is $(uname -sm)"

usable() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
if [ ! -x "$venv/bin/python" ]; then
  python=${PYTHON:-}
  if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3.10 python3; do
      if usable "$candidate"; then python=$candidate; break; fi
    done
    [ -n "$python" ] || die "no Python 3.10, 3.11 or 3.12 found (python3 is $(python3 -V 2>&1 || echo missing)). The embedded server needs numpy 1.26, which has no wheels for 3.13. Install one of these versions and run make again with PYTHON=python3.11"
  fi
  usable "$python" || die "PYTHON=$python is $("$python" -V 2>&1 || echo missing); the embedded server needs Python 3.10, 3.11 or 3.12"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "Installing python$version-venv (the system's Python has no ensurepip)"
    as_root apt-get update -qq
    as_root apt-get install -y -qq "python$version-venv" >/dev/null
  fi
  say "Creating $venv with $("$python" -V)"
  "$python" -m venv "$venv"
fi

# pip with these arguments. At most every 10 s, a line says what it is doing.
pip_install() {
  local began=$SECONDS said=$SECONDS doing=
  "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" \
    2> >(grep -v 'is ignored: it is neither a file' >&2) |
    while IFS= read -r line; do
      case "$line" in
        *Downloading\ *) doing="downloading ${line##*Downloading }" ;;
        Collecting\ *) doing="looking for ${line#Collecting }" && doing=${doing%% (from*} ;;
        "Installing build dependencies"* | "Building wheel"*) doing="building" ;;
        "Installing collected packages"*) doing="unpacking $(tr -cd , <<<"$line," | wc -c) packages" && said=-10 ;;
        *) continue ;;
      esac
      if [ $((SECONDS - said)) -ge 10 ]; then
        said=$SECONDS
        say "  pip is $doing"
      fi
    done
  say "  done in $((SECONDS - began)) s"
}

# The stamp is a hash of what was installed: packages are installed again if the requirements or constraints change.
stamp="$venv/.dyndet-$what"
wanted=$(cat pyproject.toml constraints.txt builder/install.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  say "Installing dyndet[$extras] (one to five minutes)"
  pip_install -c constraints.txt -e ".[$extras]"
  # perf_analyzer: versions from 2.58 on need glibc 2.38; older systems use the one inside tritonclient 2.51.
  glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
  if [ "$(printf '%s\n2.38\n' "$glibc" | sort -V | head -n1)" = 2.38 ]; then
    say "Installing perf_analyzer for glibc $glibc"
    pip_install --no-deps "perf-analyzer==2.60.0"
  fi
  printf '%s' "$wanted" >"$stamp"
fi
# The server's Python stub links libpython, which is a separate package of Debian and Ubuntu.
if ! "$venv/bin/dyndet" doctor --check libpython >/dev/null 2>&1; then
  version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  say "Installing libpython$version (the server's Python backend links it)"
  as_root apt-get update -qq
  as_root apt-get install -y -qq "libpython$version" >/dev/null
fi
# Programs for a few tests. Those tests are skipped without them, so a failure here is not an error.
if [ "$what" = test ] && command -v apt-get >/dev/null; then
  if_root() { [ "$(id -u)" = 0 ] && "$@" >/dev/null 2>&1; }
  if ! command -v promtool >/dev/null && [ ! -x "$venv/bin/promtool" ]; then
    say "Downloading Prometheus for the tests of deployments"
    unpacked=$(mktemp -d)
    if_root apt-get update -qq || true
    # It is unpacked, not installed: this needs no root, and the package would start a server.
    if (cd "$unpacked" && apt-get download prometheus && dpkg-deb -x prometheus_*.deb .) >/dev/null 2>&1; then
      cp "$unpacked"/usr/bin/prometheus "$unpacked"/usr/bin/promtool "$venv/bin/"
    else
      say "apt has no Prometheus; tests that need it are skipped"
    fi
    rm -rf "$unpacked"
  fi
  if ! command -v chromium >/dev/null; then
    say "Installing Chromium for the tests of pages"
    if_root apt-get update -qq || true
    if_root apt-get install -y -qq --no-install-recommends chromium || say "apt has no Chromium; tests that need it are skipped"
  fi
  if ! command -v docker-compose >/dev/null && ! docker compose version >/dev/null 2>&1; then
    if_root apt-get install -y -qq --no-install-recommends docker-compose || say "docker compose is missing; tests that need it are skipped"
  fi
fi
"$venv/bin/dyndet" doctor --quiet
[ "$what" != demo ] || say "Running the demo: export, serving and calibration (about four minutes)"
