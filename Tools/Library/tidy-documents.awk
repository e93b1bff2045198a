# First file: the list of the tree's files. The others: Markdown. Names of files in backquotes,
# links, and commands at the start of a line in a code block must exist in the tree.

FILENAME == ARGV[1] {
  exists[$0] = 1
  path = $0
  while (sub(/\/[^\/]*$/, "", path)) exists[path] = 1
  next
}

FNR == 1 {
  inFence = 0
  folder = FILENAME
  if (!sub(/[^\/]*$/, "", folder)) folder = ""
}

function check(path, folder_) {
  folder_ = folder
  sub(/[ \t].*$/, "", path)
  sub(/#.*$/, "", path)
  sub(/[.,:;)]+$/, "", path)
  sub(/\/$/, "", path)
  if (path == "" || path ~ /[<>*$…{}|]/ || path ~ /^[a-z]+:/) return
  while (sub(/^\.\.\//, "", path)) sub(/[^\/]*\/$/, "", folder_)
  if (!(path in exists) && !((path ".md") in exists) && !((folder_ path) in exists))
    print FILENAME ":" FNR ": missing-file: " path " is not in the tree; mend the name or add it"
}

/^[ \t]*```/ {
  inFence = !inFence
  next
}

inFence {
  command = $0
  sub(/^[ \t$]*(sudo )?/, "", command)
  if (command ~ /^(Tools|\.ci)\//) check(command)
  next
}

{
  text = $0
  while (match(text, /`[^`]+`/)) {
    token = substr(text, RSTART + 1, RLENGTH - 2)
    text = substr(text, 1, RSTART - 1) substr(text, RSTART + RLENGTH)
    if (token ~ /^(Sources|Tests|Tools|Documentation|\.ci)\//) check(token)
  }
  while (match(text, /\]\([^)]+\)/)) {
    check(substr(text, RSTART + 2, RLENGTH - 3))
    text = substr(text, RSTART + RLENGTH)
  }
}
