//! Bits in the fields of a [`Mapping`](crate::Mapping).
//!
//! `MAP_*` are Linux's of x86-64 and aarch64 (`asm-generic/mman*.h`); `STATUS_*` are CRIU's `VMA_AREA_*` and `VMA_*`
//! (`include/image.h`); `ADVICE_*` are in `vma_entry.madv`, bit n for Linux's `MADV_*` number n.

/// Shared with other tasks, or with the file.
pub const MAP_SHARED: u32 = 0x01;
/// Copy on write.
pub const MAP_PRIVATE: u32 = 0x02;
/// No file behind it.
pub const MAP_ANONYMOUS: u32 = 0x20;
/// Held in memory (`mlock`, `mlockall`).
pub const MAP_LOCKED: u32 = 0x2000;
/// Of huge pages.
pub const MAP_HUGETLB: u32 = 0x4_0000;

/// `MADV_WIPEONFORK`: a child finds zeros in it.
pub const ADVICE_WIPE_ON_FORK: u64 = 1 << 18;

/// The first thread's stack.
pub const STATUS_STACK: u32 = 1 << 1;
/// The kernel's vsyscall page; it lies outside of user space.
pub const STATUS_VSYSCALL: u32 = 1 << 2;
/// Code that the kernel gives every task.
pub const STATUS_VDSO: u32 = 1 << 3;
/// Between `start_brk` and `brk`.
pub const STATUS_HEAP: u32 = 1 << 5;
/// Private mapping of a file.
pub const STATUS_FILE_PRIVATE: u32 = 1 << 6;
/// Shared mapping of a file.
pub const STATUS_FILE_SHARED: u32 = 1 << 7;
/// Shared anonymous memory.
pub const STATUS_ANON_SHARED: u32 = 1 << 8;
/// Private anonymous memory.
pub const STATUS_ANON_PRIVATE: u32 = 1 << 9;
/// System V shared memory.
pub const STATUS_SYSVIPC: u32 = 1 << 10;
/// Ring of a packet socket.
pub const STATUS_SOCKET: u32 = 1 << 11;
/// Variables of the vDSO.
pub const STATUS_VVAR: u32 = 1 << 12;
/// Ring of the kernel's asynchronous input and output.
pub const STATUS_AIORING: u32 = 1 << 13;
/// Mapping of a memfd.
pub const STATUS_MEMFD: u32 = 1 << 14;
/// Shadow stack.
pub const STATUS_SHADOW_STACK: u32 = 1 << 15;
/// Not a mapping: a range with `MADV_GUARD_INSTALL`. CRIU lists them behind all mappings.
pub const STATUS_GUARD: u32 = 1 << 16;
/// Mapped by the kernel for user-space probes.
pub const STATUS_UPROBES: u32 = 1 << 17;
