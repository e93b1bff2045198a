# Sourced by Tools/torture: one migration under fire. Uses what Tools/Library/demo.bash has.

# A VM of this size under this many faults needs no tenth of it.
torture_limit=150
start_limit=60
stop_limit=5
vm=torture

# Sets what the migration of `seed` is.
draw_torture() {
  picked=0
  pick memory 16M 24M 32M 48M 64M
  pick pattern random-write random zipf sequential rate-limited-write rate-limited-write
  pick vcpus 1 2 2 4
  pick page_size 4K 4K 4K 2M
  pick backing memfd memfd private
  pick mode post-copy post-copy post-copy hybrid pre-copy quick
  pick prefetch bubbling bubbling linear
  pick bulk_connections 1 1 2 4
  # Most of a second to some seconds of push: time for something to happen.
  pick bytes_per_second 2000000 4000000 8000000 16000000
  pick faults 1 2 4 6 8 12
  pick fault_milliseconds 1000 3000 6000 10000
  pick heartbeat 200 500 1000
  pick victim none server-worker server server-all receiver-worker receiver receiver-all everything
  pick kill_milliseconds 200 700 1500 3000 5000
  [ -n "$kill" ] || victim=none
  if [ "$page_size" = 2M ]; then
    memory=32M
    # Both sides, and a stage between them.
    if [ "$(available_huge_pages)" -lt 48 ]; then page_size=4K; fi
  fi
}

# --- the processes

start_torture_vms() {
  local options=(--memory "$memory" --vcpus "$vcpus" --pattern "$pattern" --page-size "$page_size"
    --backing "$backing" --seed "$seed")
  if [ "$pattern" = rate-limited-write ]; then options+=(--rate 500); fi
  start source-vm "$vmm_binaries/microvm" run --control "$directory/source.sock" "${options[@]}"
  source_pid=$started_pid
  wait_for "$start_limit" "the source VM to be ready" is_ready source-vm
  wait_for "$start_limit" "the guest to work" has_done source.sock 500
  incoming_options=("${options[@]}")
}

start_destination_vm() {
  start destination-vm "$vmm_binaries/microvm" run --incoming --attach "$directory/attach.sock" \
    --control "$directory/destination.sock" "${incoming_options[@]}"
  destination_pid=$started_pid
}

# start_side server|receiver VERB: its log goes on where the one before it ended.
start_side() {
  local side=$1 verb=$2 log=$directory/$1.log rounds
  local common=(--vm "$vm" --token-file "$directory/token" --insecure --json -v
    --heartbeat-budget "$heartbeat" --state-dir "$directory/$side-state")
  if [ "$verb" = recover ]; then
    # All else the session knows.
    common=(--vm "$vm" --state-dir "$directory/$side-state")
  fi
  mapfile -t rounds < <(round_options "$mode" 5)
  # A link that is slow, and lost in every round, never brings a round to its end.
  if [ "$mode" = hybrid ]; then rounds=(--max-time 20); fi
  if [ "$side$verb" = serverrecover ]; then
    "$binaries/page-server" recover "${common[@]}" </dev/null >>"$log" 2>&1 &
    server_pid=$!
  elif [ "$side$verb" = receiverrecover ]; then
    "$binaries/postcopyd" recover "${common[@]}" </dev/null >>"$log" 2>&1 &
    receiver_pid=$!
  elif [ "$side" = server ]; then
    "$binaries/page-server" "$verb" "${common[@]}" --memory "$memory_source" \
      --vmm "microvm:$directory/source.sock" --listen "unix:$directory/serve.sock" \
      --mode "$mode" "${rounds[@]}" --prefetch "$prefetch" --bulk-connections "$bulk_connections" \
      --compression none --bandwidth "$bytes_per_second" </dev/null >>"$log" 2>&1 &
    server_pid=$!
  else
    "$binaries/postcopyd" "$verb" "${common[@]}" --from "unix:$directory/dial.sock" \
      --attach "$directory/attach.sock" --vmm "microvm:$directory/destination.sock" \
      --connect-timeout 30 </dev/null >>"$log" 2>&1 &
    receiver_pid=$!
  fi
  started+=("$!")
}

# --- watching

state_of() { field "$1" state 2>/dev/null || true; }

# The source runs before and after the destination was seen running: between two answers that say
# so it cannot have stopped, for a VM that has run elsewhere never runs at its source again.
look_for_two_runners() {
  [ "$(state_of source.sock)" = running ] || return 0
  [ "$(state_of destination.sock)" = running ] || return 0
  [ "$(state_of source.sock)" = running ] || return 0
  two_runners=1
}

# ended PID STATUS-NAME: whether it has; its exit status is kept then.
ended() {
  local pid=$1 name=$2
  if kill -0 "$pid" 2>/dev/null; then return 1; fi
  if [ -z "${!name}" ]; then
    local status=0
    wait "$pid" || status=$?
    printf -v "$name" '%s' "$status"
    forget "$pid"
  fi
}

events() { grep -c "\"event\":\"$2\"" "$directory/$1.log" 2>/dev/null || true; }

# --- killing

workers_of() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }

kill_all_of() {
  local all="$1 $(workers_of "$1")"
  kill -KILL $all 2>/dev/null || true
}

# What was picked, once the VM has been moved for so long; parents are started again by recover.
kill_victim() {
  local worker
  case $victim in
    server-worker) worker=$(workers_of "$server_pid") ;;
    receiver-worker) worker=$(workers_of "$receiver_pid") ;;
    server) kill -KILL "$server_pid" 2>/dev/null || true ;;
    receiver) kill -KILL "$receiver_pid" 2>/dev/null || true ;;
    server-all) kill_all_of "$server_pid" ;;
    receiver-all) kill_all_of "$receiver_pid" ;;
    everything)
      kill_all_of "$server_pid"
      kill_all_of "$receiver_pid"
      ;;
  esac
  if [ -n "${worker:-}" ]; then kill -KILL $worker 2>/dev/null || true; fi
  kills=$((kills + 1))
}

# A side that was killed, and not by its own verdict, goes on from its journal.
recover_killed() {
  if [ "$server_status" = 137 ]; then
    server_status= recovered+=" server"
    start_side server recover
  fi
  if [ "$receiver_status" = 137 ]; then
    receiver_status= recovered+=" receiver"
    start_side receiver recover
  fi
}

# ended_side SIDE: as `ended`. A session that came to its end while its parent was being killed has
# nothing to recover (10): what its worker has told last counts.
ended_side() {
  local pid=$1_pid name=$1_status told
  ended "${!pid}" "$name" || return 1
  if [ "${!name}" = 10 ] && [[ $recovered == *" $1"* ]]; then
    told=$(grep '"event":"finished"' "$directory/$1.log" | tail -n 1 |
      sed -n 's/.*"exitCode":\([0-9]*\).*/\1/p')
    printf -v "$name" '%s' "${told:-10}"
  fi
}

# --- one migration

torture_one() {
  local begun=$SECONDS verdict
  draw_torture
  directory=$(mktemp -d "${TMPDIR:-/tmp}/postcopy-torture.XXXXXX")
  started=() server_status= receiver_status= recovered= two_runners= kills=0
  migrations=$((migrations + 1))
  # Its own process would lose the counts; so a step that fails is seen by what it leaves.
  verdict=$(run_torture 2>"$directory/trouble") || verdict="lost the migration did not end: $(
    tail -n 3 "$directory/trouble" | tr '\n' ' ')"
  count_verdict "$verdict" $((SECONDS - begun))
}

# Prints the verdict: "moved", "stayed", or what went wrong; then the counts.
run_torture() {
  trap 'clean_up_torture' EXIT
  "$binaries/postcopyctl" token "$directory/token" >/dev/null
  start_torture_vms
  if [ "$backing" = private ]; then
    memory_source=pid:$source_pid:$(ranges source.sock)
  else
    memory_source=file:$(field source.sock memory_path)
  fi
  start relay "$binaries/linkfault" run --listen "unix:$directory/dial.sock" \
    --connect "unix:$directory/serve.sock" --control "$directory/relay.sock" --seed "$seed" \
    --chaos "$faults" --chaos-milliseconds "$fault_milliseconds" --limit $((torture_limit * 2))
  relay_pid=$started_pid
  wait_for "$start_limit" "the relay" is_socket "$directory/dial.sock"
  start_side receiver receive
  wait_for "$start_limit" "postcopyd to listen for the VM" is_socket "$directory/attach.sock"
  start_destination_vm
  wait_for "$start_limit" "the destination VM to be ready" is_ready destination-vm
  start_side server send
  watch_torture
  judge_torture
}

watch_torture() {
  local begun=$SECONDS kill_at=$((${EPOCHREALTIME/./} / 1000 + kill_milliseconds))
  while true; do
    look_for_two_runners
    if ended_side receiver && [ "$receiver_status" = 10 ] && [ -z "$server_status" ] &&
      [[ $recovered != *" server"* ]]; then
      # The destination has given up before anything began; the source would wait for another one.
      # One that was taken up again before the hand-over ends by itself.
      kill -TERM "$server_pid" 2>/dev/null || true
    fi
    ended_side server || true
    if [ "$victim" != none ] && [ "$kills" -eq 0 ] &&
      [ $((${EPOCHREALTIME/./} / 1000)) -ge "$kill_at" ]; then
      kill_victim
    fi
    recover_killed
    [ -z "$server_status" ] || [ -z "$receiver_status" ] || break
    if [ $((SECONDS - begun)) -gt "$torture_limit" ]; then
      say "lost no end within $torture_limit s"
      exit 0
    fi
    sleep 0.05
  done
}

judge_torture() {
  local counts="$(events relay fault) $(events receiver link-lost) $(events receiver link-restored)"
  counts+=" $kills"
  if [ -n "$two_runners" ]; then
    say "doubled both VMs ran"
  elif [ "$server_status" = 0 ] && [ "$receiver_status" = 0 ]; then
    judge_moved
  elif [ "$server_status" = 11 ] || [ "$server_status" = 10 ]; then
    judge_stayed
  else
    say "lost page-server ended with $server_status, postcopyd with $receiver_status"
  fi
  say "$counts"
}

# works SOCKET: the guest goes on.
works() {
  local goal end=$((SECONDS + start_limit))
  goal=$(field "$1" operations)
  goal=$((goal + 200))
  until has_done "$1" "$goal"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}

judge_moved() {
  if [ "$(state_of source.sock)" != disabled ]; then
    say "doubled the source is not disabled"
    return
  fi
  works destination.sock || { say "lost the guest does not work at the destination" && return; }
  ctl destination.sock pause >/dev/null
  if ! ctl destination.sock verify >"$directory/verify" 2>&1; then
    say "mismatched the guest found wrong pages"
  elif ! "$vmm_binaries/microvm" compare --source "$directory/source.sock" \
    --destination "$directory/destination.sock" >"$directory/compare" 2>&1; then
    say "mismatched the memory differs"
  else
    say "moved"
  fi
}

judge_stayed() {
  if [ "$(state_of destination.sock)" = running ]; then say "doubled" && return; fi
  if [ "$(state_of source.sock)" != running ]; then
    say "lost given up, and the source VM does not run"
    return
  fi
  works source.sock || { say "lost the guest does not work at the source" && return; }
  ctl source.sock pause >/dev/null
  if ctl source.sock verify >"$directory/verify" 2>&1; then
    say "stayed"
  else
    say "mismatched the guest at the source found wrong pages"
  fi
}

clean_up_torture() {
  local pid
  for pid in "${started[@]}"; do
    kill -KILL $pid $(workers_of "$pid") 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}

# count_verdict "VERDICT…
# COUNTS" SECONDS
count_verdict() {
  local word=${1%%[ $'\n']*} text=${1%%$'\n'*} counts=0
  local injected=0 outages=0 restored=0 killed=0 no_kill=
  if [[ $1 == *$'\n'* ]]; then counts=${1##*$'\n'}; fi
  read -r injected outages restored killed <<<"$counts" || true
  faults_total=$((faults_total + ${injected:-0}))
  outages_total=$((outages_total + ${outages:-0}))
  restored_total=$((restored_total + ${restored:-0}))
  kills_total=$((kills_total + ${killed:-0}))
  printf 'seed %-6s %3ss %-8s %2s faults %2s outages %2s restored %s kills  %s\n' "$seed" "$2" \
    "$word" "${injected:-0}" "${outages:-0}" "${restored:-0}" "${killed:-0}" \
    "$memory $vcpus vCPU $pattern $page_size $backing $mode $prefetch/$bulk_connections $victim"
  case $word in
    moved) moved=$((moved + 1)) ;;
    stayed) stayed=$((stayed + 1)) ;;
    mismatched) mismatched=$((mismatched + 1)) ;;
    doubled) doubled=$((doubled + 1)) ;;
    *) lost=$((lost + 1)) ;;
  esac
  if [ "$word" != moved ] && [ "$word" != stayed ]; then
    [ -n "$kill" ] || no_kill=" --no-kill"
    say "  $text"
    say "  Again with: Tools/torture --no-build --count 1 --keep --seed $seed$no_kill"
    if [ -n "$keep" ]; then
      say "  Its logs: $directory"
      directory=
      return
    fi
    show_logs
  fi
  forget_torture
}

# What a migration leaves by design when it does not complete, and its directory.
forget_torture() {
  local session
  for session in $(grep -ho '"session":"[0-9a-f-]*"' "$directory"/*.log 2>/dev/null |
    cut -d'"' -f4 | sort -u); do
    rm -rf "/run/postcopy/$session" "/dev/shm/postcopy/$session"
  done
  rm -rf "$directory"
  directory=
}
