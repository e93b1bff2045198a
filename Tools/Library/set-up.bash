# Sourced by the scripts of Tools/: what a fresh Debian 12 machine with only the Swift toolchain
# needs before anything can be built, and what this machine can do.
# Defines `root` (the repository) and changes into it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
# Build products and logs; below .build, which git ignores, unless said otherwise.
scratch=${POSTCOPY_SCRATCH:-$root/.build}
# A crash must not wait for a symbolizer that nobody reads (seen: minutes under sanitizers).
export SWIFT_BACKTRACE=${SWIFT_BACKTRACE:-enable=no}

say() { printf '%s\n' "$*"; }
# Exit 2: the machine lacks something, and the last line says what to run.
lacks() {
  printf '%s\n' "$@" >&2
  exit 2
}

# The packages that hold the headers and tools of the build, as "package probe" pairs.
build_packages=(
  "liburing-dev /usr/include/liburing.h"
  "libnuma-dev /usr/include/numa.h"
  "libisal-dev /usr/include/isa-l.h"
  "liblz4-dev /usr/include/lz4.h"
  "libzstd-dev /usr/include/zstd.h"
  "libssl-dev /usr/include/openssl/ssl.h"
  # SwiftPM asks pkg-config where Debian keeps the .pc files.
  "pkg-config /usr/bin/pkg-config"
  "git /usr/bin/git"
  "ca-certificates /etc/ssl/certs/ca-certificates.crt"
)
# For the network namespaces of tests and demo.
network_packages=(
  "iproute2 /usr/sbin/ip:/sbin/ip:/usr/bin/ip"
  # Loses packets without a word, as broken networks do.
  "nftables /usr/sbin/nft:/sbin/nft:/usr/bin/nft"
)

# Which packages of "package path[:path…]" pairs are missing, by their probes.
missing_packages() {
  local pair package probes probe found
  for pair in "$@"; do
    package=${pair%% *}
    probes=${pair#* }
    found=
    for probe in ${probes//:/ }; do
      if [ -e "$probe" ]; then found=1; fi
    done
    if [ -z "$found" ]; then printf '%s ' "$package"; fi
  done
}

# Installs what is missing when it may; else prints the line to run and ends with 2.
install_packages() {
  local missing line
  missing=$(missing_packages "${build_packages[@]}")
  if [ "$(id -u)" -eq 0 ]; then missing+=$(missing_packages "${network_packages[@]}"); fi
  missing=${missing% }
  [ -n "$missing" ] || return 0
  line="apt-get update && apt-get install -y --no-install-recommends $missing"
  if [ "$(id -u)" -ne 0 ]; then
    lacks "Missing Debian packages: $missing" "Run this once, then try again:" \
      "  sudo sh -c '$line'"
  fi
  command -v apt-get >/dev/null || lacks "Missing: $missing (their names on Debian 12)"
  say "Installing $missing …"
  if ! DEBIAN_FRONTEND=noninteractive sh -c "$line" >"${TMPDIR:-/tmp}/postcopy-apt.$$" 2>&1; then
    tail -n 20 "${TMPDIR:-/tmp}/postcopy-apt.$$" >&2
    rm -f "${TMPDIR:-/tmp}/postcopy-apt.$$"
    # The network tools are worth a skip, the headers are not.
    if [ -n "$(missing_packages "${build_packages[@]}")" ]; then
      lacks "apt-get failed. Run this once it can, then try again:" "  $line"
    fi
    say "apt-get failed; what needs $missing is skipped"
  fi
  rm -f "${TMPDIR:-/tmp}/postcopy-apt.$$"
}

need_toolchain() {
  command -v swift >/dev/null ||
    lacks "No swift on PATH. Swift 6.3 for Debian 12: https://www.swift.org/install/linux/"
  local version
  version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9.]*\).*/\1/p' | head -n 1)
  case $version in
    [0-5].* | 6.[0-2] | 6.[0-2].*)
      lacks "Swift $version is too old; 6.3 or later: https://www.swift.org/install/linux/" ;;
  esac
  swift_version=$version
}

set_up() {
  need_toolchain
  install_packages
  mkdir -p "$scratch"
}

# --- what this machine can do

# One capability a line: `can NAME yes|no TEXT [what is skipped without it]`.
declare -A capability=()
skipped_capabilities=()
can() {
  capability[$1]=$2
  printf '  %-18s %s\n' "$1" "$3"
  if [ "$2" = no ]; then skipped_capabilities+=("$4"); fi
}

describe_kernel() {
  local release=${1%%-*} major minor
  major=${release%%.*}
  minor=${release#*.}
  minor=${minor%%.*}
  say "This machine: Linux $1, $(nproc) processors," \
    "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)," \
    "Swift ${swift_version:-unknown}, $(id -un)"
  if [ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 7 ]; }; then
    can dirty-tracking yes "PAGEMAP_SCAN and asynchronous write protection (Linux 6.7 or later)"
  else
    can dirty-tracking no "no: PAGEMAP_SCAN needs Linux 6.7" "the tests of dirty tracking"
  fi
}

describe_userfaultfd() {
  local allowed
  allowed=$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null || echo 0)
  if [ -r /dev/userfaultfd ] && [ -w /dev/userfaultfd ]; then
    can userfaultfd yes "/dev/userfaultfd"
  elif [ "$(id -u)" -eq 0 ] || [ "$allowed" = 1 ]; then
    can userfaultfd yes "the system call"
  else
    can userfaultfd no "no: not root, no access to /dev/userfaultfd" \
      "everything that makes a userfaultfd (UFFD tests, end-to-end runs, the demo)"
  fi
}

describe_devices() {
  local disabled
  if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
    can kvm yes "/dev/kvm"
  else
    can kvm no "no access to /dev/kvm" "KVM guests (the process guest takes their place)"
  fi
  disabled=$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)
  if [ "$disabled" = 0 ] || { [ "$disabled" = 1 ] && [ "$(id -u)" -eq 0 ]; }; then
    can io_uring yes "allowed"
  else
    can io_uring no "switched off by kernel.io_uring_disabled" "everything on io_uring"
  fi
}

describe_privileges() {
  if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null && ip netns list >/dev/null 2>&1; then
    can namespaces yes "network namespaces"
  else
    can namespaces no "no: needs root and iproute2" "migrations between network namespaces"
  fi
  if [ "$(id -u)" -eq 0 ]; then
    can privileges yes "root"
  else
    can privileges no "ordinary user" "tests that read another process's memory or need root"
  fi
}

describe_huge_pages() {
  local available
  available=$(available_huge_pages)
  if [ "$available" -ge "$huge_page_count" ]; then
    can huge-pages yes "$available × 2 MiB"
  else
    can huge-pages no "only $available of $huge_page_count × 2 MiB" "the tests on 2 MiB pages"
  fi
}

describe_machine() {
  describe_kernel "$(uname -r)"
  describe_userfaultfd
  describe_devices
  describe_privileges
  describe_huge_pages
  can shared-memory yes "$(df -h --output=avail /dev/shm 2>/dev/null | tail -n 1 | tr -d ' ') free"
  if [ ${#skipped_capabilities[@]} -gt 0 ]; then
    say "Skipped on this machine:"
    printf '  %s\n' "${skipped_capabilities[@]}"
  else
    say "Nothing has to be skipped on this machine."
  fi
}

# --- huge pages

# 512 MiB: guests with 2 MiB pages on both sides of several tests at once, and single mappings.
huge_page_count=256
huge_page_setting=/proc/sys/vm/nr_hugepages
huge_pages_before=

# How many nobody has, neither mapped nor set aside for a mapping.
available_huge_pages() {
  local directory=/sys/kernel/mm/hugepages/hugepages-2048kB
  if [ ! -r "$directory/free_hugepages" ]; then echo 0; return 0; fi
  echo $(($(<"$directory/free_hugepages") - $(<"$directory/resv_hugepages")))
}

reserve_huge_pages() {
  [ -w "$huge_page_setting" ] || return 0
  local available
  available=$(available_huge_pages)
  [ "$available" -lt "$huge_page_count" ] || return 0
  huge_pages_before=$(cat "$huge_page_setting")
  echo $((huge_pages_before + huge_page_count - available)) >"$huge_page_setting" 2>/dev/null ||
    true
  huge_pages_reserved=$(cat "$huge_page_setting")
}

# Only what we raised, and only if nobody has changed it since. POSTCOPY_KEEP_HUGE_PAGES=1 leaves
# them, for machines that several runs share.
restore_huge_pages() {
  if [ -n "$huge_pages_before" ] && [ -z "${POSTCOPY_KEEP_HUGE_PAGES:-}" ] &&
    [ "$(cat "$huge_page_setting")" = "$huge_pages_reserved" ]; then
    echo "$huge_pages_before" >"$huge_page_setting" 2>/dev/null || true
  fi
  huge_pages_before=
}

# --- building

# The release programs. Quiet unless it fails; the log stands beside the products.
build_release() {
  local log=$scratch/release-build.log
  say "Building (release) …"
  if ! swift build -c release --scratch-path "$scratch" "$@" >"$log" 2>&1; then
    grep -E '(error|warning):' "$log" | sort -u | head -n 40 >&2 || tail -n 40 "$log" >&2
    say "The build failed; all of it: $log" >&2
    exit 1
  fi
}

# Runs the release build of one of our own programs: the wrappers of Tools/Sources.
run_release_program() {
  local program=$1
  shift
  set_up
  build_release --product "$program" >&2
  exec "$scratch/release/$program" "$@"
}
