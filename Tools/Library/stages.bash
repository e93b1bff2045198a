# Sourced by Tools/test: runs stages with a time limit and a log each, and adds up their tests.

stage_logs=$scratch/test-logs
passed_total=0
failed_total=0
skipped_total=0
stage_table=()
failed_stages=" "

# Every command of a stage goes through here: a hang ends the stage, not the whole run. The group
# is ended as a whole, so that nothing that a test started stays behind.
limited() {
  local limit=$1
  shift
  timeout --kill-after=20 "$limit" "$@"
}

# end_descendants PID: also those in groups of their own, where no key press and no signal for our
# group reaches them: `timeout` makes such groups.
end_descendants() {
  local pid
  # The kernel's own list: pgrep need not be installed.
  for pid in $(cat /proc/"$1"/task/*/children 2>/dev/null || true); do
    end_descendants "$pid"
    kill "$pid" 2>/dev/null || true
  done
}

# run_stage NAME "NEEDED STAGES" FUNCTION: its output goes to a log, the end of which is shown when
# it fails. A stage whose needed one failed is not run, and counts as failed.
run_stage() {
  local name=$1 needs=$2 function=$3 log=$stage_logs/$1.log start seconds status=0 need
  [ -z "$only_stage" ] || [[ " $only_stage " == *" $name "* ]] || return 0
  for need in $needs; do
    if [[ $failed_stages == *" $need "* ]]; then
      failed_total=$((failed_total + 1))
      failed_stages+="$name "
      stage_table+=("$(printf '%-18s %8s  not run: %s failed' "$name" - "$need")")
      return 0
    fi
  done
  mkdir -p "$stage_logs"
  printf '── %s …\n' "$name"
  start=$SECONDS
  # Not "( … ) || status=$?": bash ignores -e inside that, and a failing command would not end
  # the stage. In the background, because only `wait` lets a trap run at once.
  (
    set -euo pipefail
    "$function"
  ) >"$log" 2>&1 </dev/null &
  wait $! || status=$?
  seconds=$((SECONDS - start))
  count_tests "$log" "$status"
  if [ "$status" -eq 0 ]; then
    stage_table+=("$(printf '%-18s %7ss  %s' "$name" "$seconds" "$stage_counts")")
    printf '   %ss, %s\n' "$seconds" "$stage_counts"
  else
    failed_stages+="$name "
    stage_table+=("$(printf '%-18s %7ss  FAILED (status %s), %s' \
      "$name" "$seconds" "$status" "$stage_counts")")
    show_failure "$name" "$log" "$status"
  fi
}

show_failure() {
  local name=$1 log=$2 status=$3
  printf '   FAILED with status %s (124: time limit). All of it: %s\n' "$status" "$log"
  # The linker's warnings about a sanitizer's own symbols would fill the whole list.
  { grep -nE '✘|(error|warning): |^FAIL|WARNING: ThreadSanitizer|ERROR: AddressSanitizer' "$log" |
    grep -v 'ld\.gold: warning: ' || true; } | head -n 40
  printf '   … its last lines:\n'
  tail -n 40 "$log" | sed 's/^/   | /'
}

# Adds up what a log tells: Swift Testing's and XCTest's own lines, or the stage as one check.
count_tests() {
  local log=$1 status=$2 passed failed skipped
  read -r passed failed skipped < <(awk '
    # "Test run with" is the sum, and "Test case" one argument of a test that is counted itself.
    / Test run with / || / Test case / || / started\.$/ { next }
    /^[^A-Za-z0-9]+ Test .* passed after [0-9.]+ seconds/ { passed++; next }
    /^[^A-Za-z0-9]+ Test .* failed after [0-9.]+ seconds/ { failed++; next }
    /^[^A-Za-z0-9]+ Test .* skipped(: "|\.?$)/ { skipped++; next }
    /^Test Case .* passed \(/ { passed++; next }
    /^Test Case .* failed \(/ { failed++; next }
    /^Test Case .* skipped \(/ { skipped++; next }
    /^check passed: / { passed++ }
    /^check skipped: / { skipped++ }
    END { print passed + 0, failed + 0, skipped + 0 }' "$log")
  if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
  if [ "$status" -eq 0 ] && [ $((passed + failed + skipped)) -eq 0 ]; then passed=1; fi
  passed_total=$((passed_total + passed))
  failed_total=$((failed_total + failed))
  skipped_total=$((skipped_total + skipped))
  stage_counts="$passed passed, $failed failed, $skipped skipped"
}

# Swift Testing says nothing against a filter that matches nothing: that is a failure here.
must_have_run() {
  local count
  count=$(awk '/ Test run with [0-9]+ test/ { for (i = 1; i < NF; i++)
    if ($i == "with" && $(i + 1) + 0 > most) most = $(i + 1) + 0 } END { print most + 0 }' "$1")
  if [ "$count" -eq 0 ]; then
    echo "FAIL: no test has run; does the filter still match?"
    return 1
  fi
}

print_stages() {
  local reasons
  printf '\n%-18s %8s\n' stage time
  printf '%s\n' "${stage_table[@]}"
  # A test's own line, or the demo's.
  reasons=$(grep -hE '^[^A-Za-z0-9]+ Test .* skipped(: |\.?$)|^check skipped: ' \
    "$stage_logs"/*.log 2>/dev/null | sort | uniq -c | head -n 40 || true)
  if [ -n "$reasons" ]; then
    printf '\nSkipped, with the reasons:\n%s\n' "$reasons"
  fi
}
