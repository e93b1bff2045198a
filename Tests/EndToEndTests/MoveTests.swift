import Testing

extension EndToEnd {
  @Suite("A VM moves")
  struct MoveTests {
    @Test(
      "in each mode, with 1, 2 and 4 vCPUs",
      arguments: ["post-copy", "quick"], [1, 2, 4])
    func modes(mode: String, vcpus: Int) throws {
      let migration = try Migration(GuestShape(vcpus: vcpus), Plan(mode: mode))
      try migration.start()
      try migration.expectCompletion()
    }
  }
}
