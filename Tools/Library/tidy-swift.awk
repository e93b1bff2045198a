# Rules for one Swift file after the other: imports, pointers, banned words, lengths.
# Strings and comments are taken out before the rules about code look at a line.

BEGIN {
  # A module imports only what stands on a lower layer: the arrows of Documentation/design.md.
  split("Pages 1 Codec 2 Wire 3 Prefetch 3 System 3 Migration 4 UFFD 4 Uring 4 VMM 4 " \
    "Session 5 Reporting 5 Simulation 5 PageServer 6 FaultHandler 6 " \
    "CommandOptions 7 page-server 8 postcopyd 8 postcopyctl 8", table, " ")
  for (i = 1; i in table; i += 2) layer[table[i]] = table[i + 1]
  # Modules without system calls, clocks, threads or randomness.
  split("Pages Codec Wire Prefetch Migration Simulation", table, " ")
  for (i in table) pure[table[i]] = 1
  # Who may hold pointers and C types.
  split("System Codec UFFD Uring", table, " ")
  for (i in table) holdsPointers[table[i]] = 1
  # The only doors to a C module.
  door["CLinux"] = "System UFFD Uring"
  door["CNuma"] = "System"
  door["CLiburing"] = "Uring"
  door["COpenSSL"] = "Codec Uring"
  door["CISAL"] = "Codec"
  door["CLZ4"] = "Codec"
  door["CZstd"] = "Codec"
  maximumFileLines = 400
  maximumFunctionLines = 60
  maximumColumns = 100
}

function report(rule, advice) { print FILENAME ":" FNR ": " rule ": " advice }

function finishFile() {
  if (name != "" && lineCount > maximumFileLines)
    print name ":" lineCount ": file-length: over " maximumFileLines \
      " lines; split it by topic, as Type+Topic.swift"
}

function startFile(parts) {
  finishFile()
  name = FILENAME
  depth = 0
  functionCount = 0
  pendingLine = 0
  inString = 0
  inComment = 0
  split(FILENAME, parts, "/")
  area = parts[1]
  module = parts[2]
  if (area == "Tools") module = parts[3]
  isKnown = module in layer
  if (area == "Sources" && !isKnown && parts[3] != "")
    print FILENAME ":1: unknown-module: give " module " a layer in Tools/Library/tidy-swift.awk"
  isLibrary = area == "Sources" && (!isKnown || layer[module] < 7)
  if (FILENAME ~ /(^|\/)Placeholder\.swift$/)
    print FILENAME ":1: placeholder: write the module, or drop its target"
}

# The line without its strings and comments; empty inside a multi-line one.
function codeOf(line, quotes) {
  if (inComment) {
    if (!sub(/^.*\*\//, "", line)) return ""
    inComment = 0
  }
  quotes = gsub(/"""/, "\"\"\"", line)
  if (quotes % 2 == 1) {
    inString = !inString
    sub(/""".*$/, "", line)
    if (!inString) return ""
  } else if (inString) return ""
  gsub(/\\\\/, "", line)
  gsub(/\\"/, "", line)
  gsub(/"[^"]*"/, "\"\"", line)
  sub(/\/\/.*$/, "", line)
  gsub(/\/\*[^*]*\*\//, "", line)
  if (sub(/\/\*.*$/, "", line)) inComment = 1
  return line
}

function checkImport(code, imported, doors) {
  if (code !~ /^[ \t]*(@[A-Za-z_()]+[ \t]+)*((public|package|internal|private|fileprivate)[ \t]+)?import[ \t]/)
    return
  imported = code
  sub(/^.*import[ \t]+/, "", imported)
  sub(/^(struct|class|enum|func|var|let|protocol|typealias)[ \t]+/, "", imported)
  sub(/[^A-Za-z0-9_].*$/, "", imported)
  if (imported == "XCTest")
    report("banned-word", "XCTest; write tests with Swift Testing (import Testing)")
  if (area != "Sources") return
  if (imported in layer) {
    if (isKnown && layer[imported] >= layer[module])
      report("arrow", module " may not import " imported "; it stands on the same layer or above")
    return
  }
  if (imported in door) {
    doors = " " door[imported] " "
    if (index(doors, " " module " ") == 0)
      report("arrow", imported " has its doors in " door[imported] "; go through them")
    return
  }
  if (module in pure)
    report("pure-import", module " is pure and may not import " imported \
      "; let the caller pass in what it needs")
  else if (imported == "ArgumentParser" && isLibrary)
    report("arrow", "options are parsed in the executables; pass values to " module)
}

function checkPointers(code) {
  if (module in holdsPointers && area == "Sources") return
  if (code ~ /Unsafe[A-Za-z]*Pointer|OpaquePointer|Unmanaged</ ||
      code ~ /(^|[^A-Za-z0-9_.])unsafe([^A-Za-z0-9_]|$)/)
    report("pointer", "pointers live in System, Codec, UFFD and Uring; use a span or a type of theirs")
}

function checkWords(code, line) {
  if (code ~ /(^|[^A-Za-z0-9_])try!/) report("banned-word", "try!; throw the error on, or handle it")
  if (line ~ /fatalError\("([Uu]n|[Nn]ot )[Ii]mplemented/)
    report("banned-word", "an unimplemented path; write it, or make the case impossible")
  if ((area == "Sources" || area == "Tests") &&
      (code ~ /(^|[^A-Za-z0-9_])(u|nano|clock_nano)?sleep\(/ || code ~ /(Task|Thread)\.sleep/))
    report("banned-word", "sleep; wait for the event itself, with a limit")
  if (area == "Sources" && code ~ /(^|[^A-Za-z0-9_.])(assert|assertionFailure|precondition|preconditionFailure)\(/)
    report("banned-word", "assert and precondition say nothing in release; use invariant(_:_:)")
  if (isLibrary && code ~ /(^|[^A-Za-z0-9_.])(debugPrint|print|dump)\(/)
    report("banned-word", "print in a library; hand the text to Reporting or return it")
  if (code ~ /(^|[^A-Za-z0-9_])(struct|class|enum|actor|protocol|typealias)[ \t]+[A-Za-z0-9_]*(Manager|Helper|Helpers|Util|Utils|Utility|Utilities)([^A-Za-z0-9_]|$)/)
    report("banned-name", "Manager, Helper, Util; say what the type is in a word of the domain")
  if (code ~ /(^|[^A-Za-z0-9_])Mutex[<(]/)
    report("banned-word", "Mutex; ThreadSanitizer misjudges it, use System's Lock")
  if (code ~ /-Ounchecked/) report("banned-word", "-Ounchecked; it deletes invariants")
}

function closeFunctions(length_) {
  while (functionCount > 0 && functionDepth[functionCount] >= depth) {
    length_ = FNR - functionStart[functionCount] + 1
    if (length_ > maximumFunctionLines)
      print FILENAME ":" functionStart[functionCount] ": function-length: " length_ \
        " lines, over " maximumFunctionLines "; take a step out and name it"
    functionCount--
  }
}

function followFunctions(code, opened, closed, text) {
  if (code ~ /(^|[ \t])(func[ \t]|init[?!]?[(<]|deinit([ \t{]|$)|subscript[ \t(<])/) pendingLine = FNR
  text = code
  opened = gsub(/\{/, "{", text)
  closed = gsub(/\}/, "}", text)
  if (pendingLine && opened > 0) {
    functionCount++
    functionStart[functionCount] = pendingLine
    functionDepth[functionCount] = depth
    pendingLine = 0
  } else if (closed > 0) pendingLine = 0
  depth += opened - closed
  if (closed > 0) closeFunctions()
}

FNR == 1 { startFile() }

{
  lineCount = FNR
  columns = $0
  if (length(columns) > maximumColumns) {
    gsub(/[\200-\277]/, "", columns)
    if (length(columns) > maximumColumns)
      report("line-length", length(columns) " columns, over " maximumColumns "; break the line")
  }
  code = codeOf($0)
  if (code ~ /[^ \t]/) {
    if (code ~ /import/) checkImport(code)
    checkPointers(code)
    checkWords(code, $0)
    followFunctions(code)
  }
}

END { finishFile() }
