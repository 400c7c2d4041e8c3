//! The mappings of a task, from `mm-<pid>.img`.

use crate::{
    Error, Mapping, PageRange, Result,
    bits::*,
    lazy,
    messages::{MmEntry, VmaEntry},
    names::FileNames,
};

/// The mappings of `mm`, sorted; guard pseudo-mappings and what lies outside of user space (vsyscall) left out.
pub(crate) fn mappings(file: &str, mm: &MmEntry, names: &FileNames) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for (number, vma) in mm.vmas.iter().enumerate() {
        if vma.status & (STATUS_GUARD | STATUS_VSYSCALL) != 0 {
            continue;
        }
        let place = || format!("vma {number}");
        let Some(range) = PageRange::from_bytes(vma.start, vma.end) else {
            let problem = format!("{:#x}-{:#x} is no range of pages in user space", vma.start, vma.end);
            return Err(Error::corrupt(file, place(), problem));
        };
        if let Some(before) = mappings.last().filter(|before| before.range.end() > vma.start) {
            let problem = format!("{range} overlaps or precedes {}, which stands before it", before.range);
            return Err(Error::corrupt(file, place(), problem));
        }
        if vma.pgoff.checked_add(range.bytes()).is_none() {
            return Err(Error::corrupt(file, place(), format_args!("file offset {:#x} is too large", vma.pgoff)));
        }
        let mut mapping = mapping(range, vma, names);
        // CRIU no longer sets a status bit for the stack.
        if mapping.name.is_none() && (vma.start..=vma.end).contains(&mm.mm_start_stack) {
            mapping.name = Some("[stack]".into());
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn mapping(range: PageRange, vma: &VmaEntry, names: &FileNames) -> Mapping {
    let is = |status| vma.status & status != 0;
    let of_file = is(STATUS_FILE_PRIVATE | STATUS_FILE_SHARED);
    let memfd = if of_file { names.memfd(vma.shmid) } else { None };
    let segment = match memfd {
        Some(memfd) => Some(memfd.shmid),
        None => is(STATUS_ANON_SHARED | STATUS_SYSVIPC).then_some(vma.shmid),
    };
    let special = [
        (STATUS_VDSO, "[vdso]"),
        (STATUS_VVAR, "[vvar]"),
        (STATUS_UPROBES, "[uprobes]"),
        (STATUS_AIORING, "/[aio]"),
        (STATUS_SOCKET, "socket"),
        (STATUS_HEAP, "[heap]"),
        (STATUS_STACK, "[stack]"),
    ];
    let name = match memfd {
        Some(memfd) => Some(memfd.name.clone()),
        None if of_file => names.regular(vma.shmid),
        None if is(STATUS_SYSVIPC) => Some(format!("/SYSV (segment {})", vma.shmid)),
        None if is(STATUS_ANON_SHARED) => Some("/dev/zero (deleted)".into()),
        None => special.iter().find(|(status, _)| is(*status)).map(|(_, name)| (*name).into()),
    };
    Mapping {
        range,
        prot: vma.prot,
        flags: vma.flags,
        status: vma.status,
        file_offset: vma.pgoff,
        shmid: vma.shmid,
        segment,
        name,
        can_be_lazy: lazy::can_be_lazy(vma.flags, vma.status),
        wiped_on_fork: vma.madv.unwrap_or(0) & ADVICE_WIPE_ON_FORK != 0,
    }
}

impl Mapping {
    /// Whether other tasks, or the file, see what is written to it.
    pub fn is_shared(&self) -> bool {
        self.flags & MAP_SHARED != 0
    }
    /// Whether it is private memory with no file behind it: pages that were never written read as zero.
    pub fn is_private_anonymous(&self) -> bool {
        self.flags & MAP_ANONYMOUS != 0 && self.flags & MAP_PRIVATE != 0
    }
    /// Whether the kernel, not the task, decides what is in it, so that no dump has it (vDSO's variables, rings of sockets).
    pub fn is_special(&self) -> bool {
        self.status & (STATUS_VDSO | STATUS_VVAR | STATUS_VSYSCALL | STATUS_UPROBES | STATUS_AIORING | STATUS_SOCKET)
            != 0
    }
}
