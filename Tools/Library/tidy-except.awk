# First file: exceptions, "RULE PATH-PREFIX # reason" a line. Second: findings.
# Prints the findings that no exception covers, and each exception that covers nothing any more.

FILENAME == ARGV[1] {
  if ($0 ~ /^[ \t]*(#|$)/) next
  count++
  rule[count] = $1
  prefix[count] = $2
  line[count] = FNR
  if ($3 != "#" || NF < 4)
    print FILENAME_OF() ":" FNR ": exception: give its reason after a #"
  next
}

function FILENAME_OF() { return "Tools/Library/tidy-exceptions" }

{
  split($0, part, ": ")
  path = part[1]
  sub(/:[0-9]+$/, "", path)
  for (i = 1; i <= count; i++)
    if (rule[i] == part[2] && index(path, prefix[i]) == 1) {
      used[i] = 1
      next
    }
  print
}

END {
  for (i = 1; i <= count; i++)
    if (!used[i])
      print FILENAME_OF() ":" line[i] ": stale-exception: it covers nothing any more; delete it"
}
