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

func executable(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .executableTarget(
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
    .systemLibrary(
      name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
    .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
    .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),

    // Pure: no system call, clock, thread or randomness.
    module("Pages", []),
    module("Codec", ["CISAL", "CLZ4", "COpenSSL", "CZstd", "Pages"]),
    module("Wire", ["Codec", "Pages"]),
    module("Prefetch", ["Pages"]),
    module("Migration", ["Pages", "Wire"]),
    module("Simulation", ["Migration", "Pages", "Wire"]),

    // Doors to the kernel.
    module("System", ["CLinux", "CNuma", "Pages"]),
    module("UFFD", ["CLinux", "Pages", "System"]),
    module("Uring", ["CLiburing", "CLinux", "COpenSSL", "Pages", "System"]),
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
    module("Session", ["Codec", "Migration", "Pages", "System", "UFFD", "Uring", "Wire"]),
    module("Reporting", ["Migration", "Pages", "System", "Wire"]),

    // The test VMM: its guest program, its reusable parts, its executable.
    .target(
      name: "CGuestProgram", path: "Tools/Sources/CGuestProgram", cSettings: cSettings),
    .target(
      name: "GuestKit",
      dependencies: ["CGuestProgram", "CLinux", "Codec", "Pages", "System", "UFFD", "VMM"],
      path: "Tools/Sources/GuestKit", cSettings: cSettings, swiftSettings: strictSettings),
    .executableTarget(
      name: "microvm", dependencies: ["GuestKit", "Pages", "System", "VMM", argumentParser],
      path: "Tools/Sources/microvm", cSettings: cSettings, swiftSettings: strictSettings),
    .testTarget(
      name: "MicrovmTests",
      dependencies: [
        "CGuestProgram", "CLinux", "GuestKit", "Pages", "System", "UFFD", "VMM", "microvm",
      ],
      cSettings: cSettings, swiftSettings: strictSettings),

    // Executables: options and wiring.
    module(
      "CommandOptions",
      ["Migration", "Reporting", "Session", "System", "Uring", "VMM", "Wire", argumentParser]),
    executable(
      "page-server",
      [
        "CommandOptions", "Migration", "PageServer", "Prefetch", "Reporting", "Session", "System",
        "Uring", "VMM", "Wire", argumentParser,
      ]),
    executable(
      "postcopyd",
      [
        "CommandOptions", "FaultHandler", "Migration", "Reporting", "Session", "System", "Uring",
        "VMM", "Wire", argumentParser,
      ]),
    executable("postcopyctl", ["CommandOptions", "Session", "System", argumentParser]),

    // The benchmark and the C program that it compares with.
    .executableTarget(
      name: "fault-latency-reference", dependencies: ["COpenSSL"],
      path: "Tools/Sources/fault-latency-reference",
      cSettings: cSettings),
    .executableTarget(
      name: "fault-latency",
      dependencies: ["CLinux", "Pages", "System", "UFFD", argumentParser],
      path: "Tools/Sources/fault-latency", cSettings: cSettings, swiftSettings: strictSettings),

    .executableTarget(
      name: "compare-modes",
      dependencies: ["LinkFaultKit", "Pages", "Reporting", "System", argumentParser],
      path: "Tools/Sources/compare-modes", cSettings: cSettings, swiftSettings: strictSettings),

    .executableTarget(
      name: "simulate", dependencies: ["Simulation", "System", argumentParser],
      path: "Tools/Sources/simulate", cSettings: cSettings, swiftSettings: strictSettings),

    // What reads foreign bytes, one function each: for libFuzzer and for the unit tests.
    .target(
      name: "FuzzTargets",
      dependencies: [
        "Codec", "FaultHandler", "Migration", "PageServer", "Pages", "Session", "System", "UFFD",
        "Wire",
      ], path: "Tools/Sources/FuzzTargets", cSettings: cSettings, swiftSettings: strictSettings),
    .testTarget(
      name: "FuzzTests",
      dependencies: [
        "FaultHandler", "FuzzTargets", "Migration", "Pages", "Session", "System", "Wire",
      ],
      cSettings: cSettings, swiftSettings: strictSettings),

    // The relay that makes links fail: its parts, its executable.
    .target(
      name: "LinkFaultKit",
      dependencies: ["CLinux", "Pages", "Simulation", "System", "Uring", "Wire"],
      path: "Tools/Sources/LinkFaultKit", cSettings: cSettings, swiftSettings: strictSettings),
    .executableTarget(
      name: "linkfault",
      dependencies: ["LinkFaultKit", "Pages", "System", "Uring", "VMM", argumentParser],
      path: "Tools/Sources/linkfault", cSettings: cSettings, swiftSettings: strictSettings),
    .executableTarget(
      name: "link-recovery",
      dependencies: [
        "GuestKit", "LinkFaultKit", "Pages", "Simulation", "System", "VMM", argumentParser,
      ],
      path: "Tools/Sources/link-recovery", cSettings: cSettings, swiftSettings: strictSettings),

    tests(of: "Pages", []),
    tests(of: "Codec", []),
    tests(of: "Wire", ["Codec", "Pages"]),
    tests(of: "Prefetch", ["Pages"]),
    tests(of: "Migration", ["Pages", "Simulation", "Wire"]),
    tests(of: "Simulation", ["Migration", "Wire"]),
    // Started by the tests of hardening, which look at it from outside.
    .executableTarget(
      name: "hardening-probe", dependencies: ["System"], path: "Tests/hardening-probe",
      cSettings: cSettings, swiftSettings: strictSettings),
    tests(of: "System", ["CLinux", "Pages", "hardening-probe"]),
    .target(
      name: "CUFFDTestSupport", path: "Tests/CUFFDTestSupport", cSettings: cSettings),
    tests(of: "UFFD", ["CLinux", "CUFFDTestSupport", "Pages", "System"]),
    tests(of: "Uring", ["CLinux", "COpenSSL", "Pages", "System"]),
    tests(
      of: "PageServer",
      [
        "CLinux", "Codec", "CUFFDTestSupport", "Migration", "Pages", "Prefetch", "Session",
        "System", "Uring", "VMM", "Wire",
      ]),
    tests(
      of: "FaultHandler",
      [
        "Codec", "CLiburing", "CLinux", "CUFFDTestSupport", "Migration", "Pages", "Session",
        "System", "UFFD", "Uring", "VMM", "Wire",
      ]),
    // Real parents, workers and VMMs for the tests of the supervisor.
    .executableTarget(
      name: "SessionTestWorker", dependencies: ["Migration", "Session", "System", "UFFD"],
      path: "Tests/SessionTestWorker", cSettings: cSettings, swiftSettings: strictSettings),
    tests(
      of: "Session",
      [
        "CLinux", "Codec", "UFFD", "Migration", "Pages", "SessionTestWorker", "System",
        "Uring", "Wire",
      ]),
    tests(of: "Reporting", ["CLinux", "Migration", "Pages", "System", "Wire"]),
    tests(of: "VMM", ["CLinux", "Pages", "System", "microvm"]),

    // How both suites of whole programs start, watch and end them.
    .target(
      name: "ProgramHarness",
      dependencies: [
        "CLinux", "GuestKit", "LinkFaultKit", "Pages", "Reporting", "Session", "System", "Uring",
        "VMM",
      ],
      path: "Tests/EndToEndTests/Harness", cSettings: cSettings, swiftSettings: strictSettings),
    // The executables are dependencies so that `swift test` builds them.
    .testTarget(
      name: "EndToEndTests",
      dependencies: [
        "CLinux", "GuestKit", "Migration", "Pages", "ProgramHarness", "Reporting", "Session",
        "System", "UFFD", "Uring", "VMM", "Wire", "microvm", "page-server", "postcopyctl",
        "postcopyd",
      ], exclude: ["Harness"], cSettings: cSettings, swiftSettings: strictSettings),
    .testTarget(
      name: "FaultInjectionTests",
      dependencies: [
        "GuestKit", "LinkFaultKit", "Pages", "ProgramHarness", "Reporting", "Session", "System",
        "UFFD", "Uring", "VMM", "Wire", "linkfault", "microvm", "page-server", "postcopyctl",
        "postcopyd",
      ], cSettings: cSettings, swiftSettings: strictSettings),
  ]
)

// The fuzzer's main function is libFuzzer's own, so the program links with its run time only:
// Tools/fuzz sets the variable and builds with --sanitize=fuzzer.
if Context.environment["POSTCOPY_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "fuzz", dependencies: ["FuzzTargets"], path: "Tools/Sources/fuzz",
      cSettings: cSettings, swiftSettings: strictSettings))
}

// A sanitizer is shown what has threads or pointers, and one migration per mode; it takes minutes
// for the rest and finds nothing there. Tools/test sets the variable.
if Context.environment["POSTCOPY_SANITIZED"] != nil {
  let rest: Set = [
    "PagesTests", "WireTests", "PrefetchTests", "MigrationTests", "SimulationTests", "Simulation",
    "simulate", "EndToEndTests", "FaultInjectionTests", "ProgramHarness", "LinkFaultKit",
    "linkfault", "link-recovery", "compare-modes", "fault-latency", "fault-latency-reference",
  ]
  package.targets.removeAll { rest.contains($0.name) }
}
