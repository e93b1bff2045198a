# Lengths in C, awk and shell files: the same limits as for Swift.

BEGIN {
  maximumFileLines = 400
  maximumFunctionLines = 60
  maximumColumns = 100
}

function finishFile() {
  if (name != "" && lineCount > maximumFileLines)
    print name ":" lineCount ": file-length: over " maximumFileLines " lines; split it by topic"
}

FNR == 1 {
  finishFile()
  name = FILENAME
  functionStart = 0
}

{
  lineCount = FNR
  columns = $0
  gsub(/[\200-\277]/, "", columns)
  if (length(columns) > maximumColumns && FILENAME !~ /\.awk$/)
    print FILENAME ":" FNR ": line-length: " length(columns) " columns, over " maximumColumns \
      "; break the line"
  # In C and shell a function opens and closes at the left margin.
  if ($0 ~ /^[A-Za-z_].*\(.*\{$/ || ($0 == "{" && !functionStart)) functionStart = FNR
  if ($0 ~ /^\}/ && functionStart) {
    if (FNR - functionStart + 1 > maximumFunctionLines)
      print FILENAME ":" functionStart ": function-length: " FNR - functionStart + 1 \
        " lines, over " maximumFunctionLines "; take a step out and name it"
    functionStart = 0
  }
}

END { finishFile() }
