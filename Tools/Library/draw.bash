# Sourced by Tools/soak and Tools/torture: choices at random from `seed`, of which `picked` were
# made.

# pick NAME CHOICE…: sets NAME by a hash of the seed and of how many were picked before: the same on
# every machine, and neighbouring seeds have nothing in common (the finalizer of MurmurHash3).
pick() {
  local -n chosen=$1
  shift
  local choices=("$@") hash=$(((seed * 64 + picked) & 0xffffffff))
  picked=$((picked + 1))
  hash=$((((hash ^ (hash >> 16)) * 0x85ebca6b) & 0xffffffff))
  hash=$((((hash ^ (hash >> 13)) * 0xc2b2ae35) & 0xffffffff))
  hash=$((hash ^ (hash >> 16)))
  chosen=${choices[$((hash % $#))]}
}
