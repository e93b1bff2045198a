// swift-tools-version: 6.2
import PackageDescription

/// Every Swift target: language mode 6, memory-unsafe uses must be marked, a warning is an error.
/// `_GNU_SOURCE` makes Glibc and liburing agree about `fd_set` when one file imports both.
let strictSettings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableExperimentalFeature("Lifetimes"),
]
let cSettings: [CSetting] = [.define("_GNU_SOURCE")]

func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(
    name: name, dependencies: dependencies, cSettings: cSettings, swiftSettings: strictSettings)
}

func tests(of name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(
    name: "\(name)Tests", dependencies: [.init(stringLiteral: name)] + dependencies,
    cSettings: cSettings, swiftSettings: strictSettings)
}

let argumentParser = Target.Dependency.product(
  name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
  name: "postcopy",
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2")
  ],
  targets: [
    // C: what Swift cannot import.
    .target(name: "CLinux", cSettings: cSettings),
    .systemLibrary(
      name: "CLiburing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
    .systemLibrary(name: "CNuma", pkgConfig: "numa", providers: [.apt(["libnuma-dev"])]),
    .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),

    // Pure: no system call, clock, thread or randomness.
    module("Pages", []),
    module("Codec", ["CISAL", "Pages"]),
    module("Wire", ["Codec", "Pages"]),
    module("Prefetch", ["Pages"]),
    module("Migration", ["Pages", "Wire"]),
    module("Simulation", ["Migration", "Pages", "Wire"]),

    // Doors to the kernel.
    module("System", ["CLinux", "CNuma", "Pages"]),
    module("UFFD", ["CLinux", "Pages", "System"]),
    module("Uring", ["CLiburing", "CLinux", "Pages", "System"]),
    module("VMM", ["Pages", "System"]),

    // Engines.
    module(
      "PageServer",
      [
        "Codec", "Migration", "Pages", "Prefetch", "Session", "System", "UFFD", "Uring", "VMM",
        "Wire",
      ]),
    module(
      "FaultHandler",
      ["Codec", "Migration", "Pages", "Session", "System", "UFFD", "Uring", "VMM", "Wire"]),
    module("Session", ["Migration", "Pages", "System", "Wire"]),
    module("Reporting", ["Pages"]),

    // Executables: options and wiring.
    module("CommandOptions", [argumentParser]),

    tests(of: "Pages", []),
    tests(of: "Wire", ["Codec", "Pages"]),
    tests(of: "Prefetch", ["Pages"]),
    tests(of: "Migration", ["Pages", "Simulation", "Wire"]),
    tests(of: "System", ["Pages"]),
    tests(of: "UFFD", ["CLinux", "Pages", "System"]),
    tests(of: "PageServer", ["Codec", "Pages", "Prefetch", "System", "Uring", "Wire"]),
    tests(of: "FaultHandler", ["Codec", "CLinux", "Migration", "Pages", "System", "UFFD", "Uring", "Wire"]),
    tests(of: "Session", ["Migration", "Pages", "System"]),
  ]
)
