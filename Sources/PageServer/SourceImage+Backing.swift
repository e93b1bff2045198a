public import Migration
internal import Pages

extension SourceImage {
  /// What a memory tells about its image. A file tells its length alone; a process's ranges are
  /// regions that somebody named.
  public static func of(_ backing: any MemoryBacking) -> SourceImage {
    let layout = backing.naturalLayout
    guard layout.regions.count == 1, let whole = layout.regions.first else {
      return .declared(layout)
    }
    return .whole(byteCount: whole.byteCount, pageSize: whole.pageSize)
  }
}
