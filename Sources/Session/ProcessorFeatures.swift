internal import System

/// What a host's processors can do, as far as a guest may have seen it and goes on to use it.
///
/// A program looks once which instructions there are. On a host that lacks one of them it dies at
/// the first use, long after its VM was moved: so the VM is not moved there.
public struct ProcessorFeatures: Hashable, Sendable {
  /// The kernel's names, as in /proc/cpuinfo.
  public let names: Set<String>

  /// Those in a text with spaces between them.
  public init(text: String) { names = Set(text.split(separator: " ").map(String.init)) }

  /// All names, with spaces between them, always in the same order.
  public var text: String { names.sorted().joined(separator: " ") }

  /// Those of this host; none where it cannot be told.
  public static func ofThisHost() -> ProcessorFeatures { of(HostFiles()) }

  /// A file of thousands of processors has some megabytes; the first one stands for all, as it does
  /// for KVM.
  private static let maximumFileByteCount = 16 << 20

  static func of(_ files: HostFiles) -> ProcessorFeatures {
    let bytes = try? FileSystem.contents(
      ofSmallFile: files.root + "/proc/cpuinfo", maximumByteCount: maximumFileByteCount)
    for line in String(decoding: bytes ?? [], as: UTF8.self).split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 1)
      guard parts.count == 2 else { continue }
      switch parts[0].filter({ $0 != "\t" && $0 != " " }) {
      case "flags":
        let all = ProcessorFeatures(text: String(parts[1])).names
        return ProcessorFeatures(text: all.intersection(seenByGuests).joined(separator: " "))
      // Of arm64: all of them are instructions.
      case "Features": return ProcessorFeatures(text: String(parts[1]))
      default: continue
      }
    }
    return ProcessorFeatures(text: "")
  }

  /// What `other` has and this host has not, in order.
  public func missing(from other: ProcessorFeatures) -> [String] {
    other.names.subtracting(names).sorted()
  }

  /// Of x86's flags, those that say which instructions and registers there are. The others are the
  /// host kernel's own notes, of mitigations, power and what only a hypervisor sees, and differ
  /// between kernels on the same processor (Linux, arch/x86/include/asm/cpufeatures.h). Nor those
  /// that KVM gives a guest whatever the host has (x2apic, tsc_deadline_timer, umip).
  private static let seenByGuests: Set<String> = Set(
    """
    fpu cx8 cmov mmx fxsr sse sse2 syscall nx pdpe1gb rdtscp lm pni pclmulqdq ssse3 fma cx16 pcid \
    sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm sse4a misalignsse \
    3dnowprefetch xop fma4 tbm fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq \
    rdseed adx smap avx512ifma clflushopt clwb avx512pf avx512er avx512cd sha_ni avx512bw avx512vl \
    xsaveopt xsavec xgetbv1 xsaves avx_vnni avx512_bf16 clzero avx512vbmi pku waitpkg \
    avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq la57 rdpid \
    cldemote movdiri movdir64b fsrm avx512_4vnniw avx512_4fmaps avx512_vp2intersect serialize \
    tsxldtrk amx_bf16 avx512_fp16 amx_tile amx_int8 mpx clflush enqcmd wbnoinvd mwaitx rdpru \
    user_shstk
    """.split(separator: " ").map(String.init))
}
