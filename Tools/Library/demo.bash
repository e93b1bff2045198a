# Sourced by Tools/demo: processes, the link between the two sides, and leaving nothing behind.

directory=
started=()
link_is_ours=
# Distinct for demos that run beside each other, and short: an interface name has 15 bytes.
tag=$$
source_namespace=pcsrc$tag
destination_namespace=pcdst$tag
source_prefix=()
destination_prefix=()

die() {
  say "$*" >&2
  exit 1
}

unable() {
  say "$*" >&2
  exit 77
}

# round_options MODE SECONDS: a guest that writes without pause may never come to fit in pre-copy,
# which waits for that as long as it is let.
round_options() {
  [ "$1" != pre-copy ] || printf '%s\n' --max-time "$2" --at-limit switch
}

# mebibytes_of SIZE: of 512M, 6G.
mebibytes_of() {
  if [[ ! $1 =~ ^([0-9]+)([MG])$ ]]; then
    say "--memory takes a size such as 512M or 6G, not '$1'." >&2
    return 64
  fi
  [ "${BASH_REMATCH[2]}" = G ] && say $((BASH_REMATCH[1] * 1024)) || say "${BASH_REMATCH[1]}"
}

# start NAME COMMAND…: in the background, its output in NAME.log; with foreground=1 on ours too.
start() {
  local name=$1
  shift
  if [ -n "${foreground:-}" ]; then
    # Directly on our own terminal, where the progress line belongs.
    "$@" </dev/null &
  else
    "$@" </dev/null >"$directory/$name.log" 2>&1 &
  fi
  started_pid=$!
  started+=("$started_pid")
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds. A process that we started and that
# has ended meanwhile will never make it so.
wait_for() {
  local limit=$1 what=$2 end=$((SECONDS + $1)) pid
  shift 2
  until "$@"; do
    for pid in "${started[@]}"; do
      kill -0 "$pid" 2>/dev/null || { show_logs; die "A process ended while waiting for $what."; }
    done
    [ "$SECONDS" -lt "$end" ] || { show_logs; die "Waited $limit s in vain for $what."; }
    sleep 0.05
  done
}

# finish PID NAME SECONDS: waits for its end and gives its exit status.
finish() {
  local pid=$1 name=$2 limit=$3 status=0
  # One process that looks, rather than many: the pause is short, and processors may be few.
  timeout "$limit" tail --pid="$pid" --sleep-interval=0.05 --follow /dev/null ||
    { show_logs; die "$name did not end within $limit s."; }
  wait "$pid" || status=$?
  forget "$pid"
  return "$status"
}

forget() {
  local pid kept=()
  for pid in "${started[@]}"; do
    if [ "$pid" != "$1" ]; then kept+=("$pid"); fi
  done
  started=("${kept[@]}")
}

failed() {
  show_logs
  die "$1 ended with status $2."
}

show_logs() {
  local log
  for log in "$directory"/*.log; do
    [ -s "$log" ] || continue
    say "── the end of $(basename "$log" .log)'s output:" >&2
    tail -n 20 "$log" >&2
  done
}

# --- the test VMs

ctl() {
  local socket=$1
  shift
  "$vmm_binaries/microvm" ctl "$directory/$socket" "$@"
}

# field SOCKET NAME: one field of a VM's status, without its quotes.
field() {
  ctl "$1" status | sed -n "s/.*\"$2\" *: *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# ranges SOCKET: where a VM has its memory, as --memory pid: takes it.
ranges() {
  local base size list=
  while read -r base size; do
    list+=$(printf '%s%x-%x' "${list:+,}" "$base" $((base + size)))
  done < <(ctl "$1" status | awk -F'[:,]' '
    /"base_host_virt_addr"/ { base = $2 + 0 == 0 ? "" : $2; gsub(/ /, "", base) }
    /"size"/ { size = $2; gsub(/ /, "", size); print base, size }')
  printf '%s' "$list"
}

descriptor_count() { find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l; }

# holds_only SOCKET COUNT: the VM has no more descriptors open than that; one client that has just
# gone may still count.
holds_only() { [ "$(descriptor_count "$(field "$1" pid)")" -le $(($2 + 1)) ]; }

is_ready() { grep -q '^microvm: ready' "$directory/$1.log" 2>/dev/null; }
is_socket() { [ -S "$1" ]; }

has_done() {
  local count
  count=$(field "$1" operations)
  [ "${count:-null}" != null ] && [ "$count" -ge "$2" ]
}

# --- the link

# Sets `address` and, for namespaces, what to put before each side's command.
prepare_link() {
  local network=10.213.77
  if [ -z "$namespaces" ]; then
    address=127.0.0.1:$(free_port)
    return
  fi
  address=$network.1:47310
  link_is_ours=1
  ip netns add "$source_namespace"
  ip netns add "$destination_namespace"
  ip link add "pcs$tag" netns "$source_namespace" type veth \
    peer name "pcd$tag" netns "$destination_namespace"
  ip -n "$source_namespace" address add "$network.1/30" dev "pcs$tag"
  ip -n "$destination_namespace" address add "$network.2/30" dev "pcd$tag"
  ip -n "$source_namespace" link set "pcs$tag" up
  ip -n "$destination_namespace" link set "pcd$tag" up
  # The network namespace alone: sockets in the file system and /proc stay what they are.
  source_prefix=(nsenter "--net=/run/netns/$source_namespace")
  destination_prefix=(nsenter "--net=/run/netns/$destination_namespace")
  local namespace device
  if [ -n "${link_rate:-}" ]; then
    while read -r namespace device; do
      tc -n "$namespace" qdisc add dev "$device" root tbf rate "$link_rate" burst 256kb latency 50ms
    done <<<"$source_namespace pcs$tag"$'\n'"$destination_namespace pcd$tag"
  fi
  say "Two network namespaces, $source_namespace and $destination_namespace, joined by veth."
}

# A port that nobody uses now, below those that the kernel gives to outgoing connections: one of
# these could take it before page-server does.
free_port() {
  local port
  for port in $(shuf -i 15000-30000 -n 50); do
    if ! grep -qE "^ *[0-9]+: [0-9A-F]+:$(printf '%04X' "$port") " /proc/net/tcp; then
      say "$port"
      return
    fi
  done
  die "No free port between 15000 and 30000."
}

# --- leaving nothing behind

# On every way out. First asked, then told: a parked destination refuses SIGTERM once by design.
clean_up() {
  local status=$? pid end
  trap - EXIT
  for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  end=$((SECONDS + stop_limit))
  for pid in "${started[@]}"; do
    while kill -0 "$pid" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do sleep 0.05; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  started=()
  if [ -n "$link_is_ours" ]; then
    # The veth pair goes with them.
    ip netns delete "$source_namespace" 2>/dev/null || true
    ip netns delete "$destination_namespace" 2>/dev/null || true
    link_is_ours=
  fi
  if [ -n "$directory" ]; then
    session=$(sed -n 's/.*session[" :]*\([0-9a-f-]\{36\}\).*/\1/p' "$directory/page-server.log" \
      2>/dev/null | tail -n 1 || true)
    left_processes=$(grep -lsF -f <(printf %s "$directory") /proc/[0-9]*/cmdline | cut -d/ -f3 |
      grep -vx "$$" || true)
    rm -rf "$directory"
  fi
  [ "$status" -eq 0 ] || exit "$status"
}

# What is ours, and only that: other migrations may go on beside this one. A session's run directory
# carries its id, and is in memory: under /run, or under /dev/shm where /run is on a disk.
check_nothing_left() {
  local left=""
  [ -n "${session:-}" ] || die "The source's report names no session."
  left+=$(find /run /dev/shm "${XDG_RUNTIME_DIR:-/dev/shm}" -maxdepth 3 -name "*$session*" \
    2>/dev/null || true)
  if [ -n "$namespaces" ]; then left+=$(ip netns list | grep -E "pc(src|dst)$tag" || true); fi
  [ -z "${left_processes:-}" ] || left+=" processes $left_processes"
  [ -z "$left" ] || die "Left behind: $left"
  say "Nothing is left behind: no process, no shared memory, no namespace, no session."
}
