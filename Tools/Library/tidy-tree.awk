# First file: the list of the tree's files. Second: Package.swift, when there is one.
# Swift files that no target includes, modules that nobody imports, and marks in any text file.

FILENAME == ARGV[1] {
  listed[++listedCount] = $0
  next
}

{
  text = $0
  sub(/^[ \t]*\/\/.*$/, "", text)
  while (match(text, /"[^"]*"/)) {
    literal[substr(text, RSTART + 1, RLENGTH - 2)]++
    text = substr(text, RSTART + RLENGTH)
  }
}

function checkOwner(path, parts, owner) {
  split(path, parts, "/")
  if (parts[1] == "Sources") owner = parts[2] in literal
  else if (parts[1] == "Tests") {
    sub(/Tests$/, "", parts[2])
    owner = parts[2] in literal || (parts[2] "Tests") in literal
  } else if (parts[1] == "Tools" && parts[2] == "Sources")
    owner = parts[3] in literal || ("Tools/Sources/" parts[3]) in literal
  else owner = path == "Package.swift" || path == ".swift-format"
  if (!owner)
    print path ":1: orphan: no target includes this file; add the target or delete the file"
}

function checkMarks(path, line, number) {
  number = 0
  while ((getline line < path) > 0) {
    number++
    if (line ~ /(^|[^A-Za-z0-9_])TODO/ && line !~ /TODO\(?[ :]?#[0-9]+/)
      print path ":" number ": mark: TODO without an issue number; write TODO(#N) or do it now"
    if (line ~ /(^|[^A-Za-z0-9_])(FIXME|XXX|HACK)([^A-Za-z0-9_]|$)/)
      print path ":" number ": mark: what must be mended is mended before it lands"
    if (line ~ /(^|[^A-Za-z0-9_.\/}>*-])\/(home|root|Users|work|farm|mnt|scratch)\/[A-Za-z0-9_]/)
      print path ":" number ": machine-path: a path of one machine; derive it or take an option"
    if (line ~ /^(<<<<<<<|>>>>>>>) /)
      print path ":" number ": conflict-marker: finish the merge"
  }
  close(path)
}

# A library module counts as imported when any Swift file outside it does so.
function noteImports(path, line, parts, imported) {
  split(path, parts, "/")
  while ((getline line < path) > 0) {
    if (line !~ /^[ \t]*(@[A-Za-z_()]+ )*([a-z]+ )?import /) continue
    imported = line
    sub(/^.*import +/, "", imported)
    sub(/[^A-Za-z0-9_].*$/, "", imported)
    if (imported != parts[2]) importedSomewhere[imported] = 1
  }
  close(path)
}

END {
  for (i = 1; i <= listedCount; i++) {
    path = listed[i]
    if (path ~ /\.swift$/) {
      checkOwner(path)
      noteImports(path)
      split(path, parts, "/")
      if (path ~ /^Sources\/.*\// && !(parts[2] in firstFile)) firstFile[parts[2]] = path
      if (path ~ /^Sources\/[^\/]*\/(main\.swift$|.*Command\.swift$)/) isExecutable[parts[2]] = 1
    }
    if (path !~ /\.(png|svg|xz|gz|json|bin)$/ && path != "LICENSE") checkMarks(path)
  }
  for (module in firstFile)
    if (!(module in importedSomewhere) && module ~ /^[A-Z]/ && !(module in isExecutable))
      print firstFile[module] ":1: unused-module: nobody imports " module "; use it or drop it"
}
