//! The ioctls for which the crate does not tell enough: one thin function each.

use nix::{errno::Errno, libc};
use std::os::fd::{AsFd, AsRawFd};

/// `struct uffdio_range`, in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// `struct uffdio_zeropage`, and `struct uffdio_poison`, which has the same shape.
#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    done: i64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `_IOWR(UFFDIO, number, T)` as on x86-64 and aarch64 (include/uapi/asm-generic/ioctl.h).
pub(super) const fn iowr<T>(number: u64) -> u64 {
    3 << 30 | (size_of::<T>() as u64) << 16 | 0xaa << 8 | number
}

/// `_IOR`, likewise.
const fn ior<T>(number: u64) -> u64 {
    2 << 30 | (size_of::<T>() as u64) << 16 | 0xaa << 8 | number
}

const UFFDIO_WAKE: u64 = ior::<Range>(2);
const UFFDIO_COPY: u64 = iowr::<Copy>(3);
const UFFDIO_ZEROPAGE: u64 = iowr::<Fill>(4);
const UFFDIO_POISON: u64 = iowr::<Fill>(8);

// As a C compiler gives them from linux/userfaultfd.h.
const _: () = assert!(size_of::<Copy>() == 40 && size_of::<Fill>() == 32 && size_of::<Range>() == 16);
const _: () = assert!(UFFDIO_COPY == 0xc028_aa03 && UFFDIO_ZEROPAGE == 0xc020_aa04);
const _: () = assert!(UFFDIO_WAKE == 0x8010_aa02 && UFFDIO_POISON == 0xc020_aa08);

/// UFFDIO_ZEROPAGE: how many bytes were mapped, at least one page; or the errno why not a single one was.
pub(super) fn zero(uffd: &impl AsFd, range: Range) -> Result<u64, i32> {
    fill(uffd, UFFDIO_ZEROPAGE, range)
}

/// UFFDIO_POISON, likewise.
pub(super) fn poison(uffd: &impl AsFd, range: Range) -> Result<u64, i32> {
    fill(uffd, UFFDIO_POISON, range)
}

fn fill(uffd: &impl AsFd, number: u64, range: Range) -> Result<u64, i32> {
    let mut arg = Fill { range, mode: 0, done: 0 };
    // SAFETY: the argument is the struct that these ioctls read and write. What they map, zero pages or markers, goes only where no page is,
    // in memory registered with this userfaultfd: no Rust object is in there.
    let code = unsafe { libc::ioctl(uffd.as_fd().as_raw_fd(), number, &raw mut arg) };
    outcome(code, arg.done)
}

/// UFFDIO_WAKE.
pub(super) fn wake(uffd: &impl AsFd, range: Range) -> Result<(), Errno> {
    // SAFETY: the argument is the struct that this ioctl reads; it touches no memory.
    Errno::result(unsafe { libc::ioctl(uffd.as_fd().as_raw_fd(), UFFDIO_WAKE, &raw const range) }).map(drop)
}

/// UFFDIO_COPY of one page from an address that cannot be read, without waking: always the errno why nothing was copied.
pub(super) fn copy_from_nowhere(uffd: &impl AsFd, dst: u64, src: Unreadable) -> i32 {
    let mut arg = Copy { dst, src: src.0, len: criu_images::PAGE_SIZE, mode: DONTWAKE, copy: 0 };
    // SAFETY: the argument is the struct that this ioctl reads and writes. `src` cannot be read, so nothing is copied anywhere.
    let code = unsafe { libc::ioctl(uffd.as_fd().as_raw_fd(), UFFDIO_COPY, &raw mut arg) };
    outcome(code, arg.copy).err().unwrap_or(0)
}

const DONTWAKE: u64 = 1;

/// An ioctl that stopped half-way fails with EAGAIN, and its struct holds how far it came. If it did nothing at all, that field
/// is 0 or a negative errno, depending on kernel and reason.
fn outcome(code: i32, bytes: i64) -> Result<u64, i32> {
    match u64::try_from(bytes) {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ if code == 0 => Err(libc::EAGAIN),
        _ => Err(Errno::last_raw()),
    }
}

/// A page of this process that nobody can read.
#[derive(Clone, Copy)]
pub(super) struct Unreadable(u64);

impl Unreadable {
    /// Made once; one page of address space, no memory.
    pub(super) fn get() -> Result<Self, Errno> {
        static PAGE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
        if let Some(page) = PAGE.get() {
            return Ok(Self(*page));
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self(*PAGE.get_or_init(|| page as u64)))
    }
}
