use crate::wire::{Field, Message, Shape::*};

/// `mm_entry`: the address space of a task. All numbers but the last ones are byte addresses.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MmEntry {
    #[prost(uint64, required, tag = "1")]
    pub(crate) mm_start_code: u64,
    #[prost(uint64, required, tag = "2")]
    pub(crate) mm_end_code: u64,
    #[prost(uint64, required, tag = "3")]
    pub(crate) mm_start_data: u64,
    #[prost(uint64, required, tag = "4")]
    pub(crate) mm_end_data: u64,
    #[prost(uint64, required, tag = "5")]
    pub(crate) mm_start_stack: u64,
    #[prost(uint64, required, tag = "6")]
    pub(crate) mm_start_brk: u64,
    #[prost(uint64, required, tag = "7")]
    pub(crate) mm_brk: u64,
    #[prost(uint64, required, tag = "8")]
    pub(crate) mm_arg_start: u64,
    #[prost(uint64, required, tag = "9")]
    pub(crate) mm_arg_end: u64,
    #[prost(uint64, required, tag = "10")]
    pub(crate) mm_env_start: u64,
    #[prost(uint64, required, tag = "11")]
    pub(crate) mm_env_end: u64,
    #[prost(uint32, required, tag = "12")]
    pub(crate) exe_file_id: u32,
    #[prost(uint64, repeated, packed = "false", tag = "13")]
    pub(crate) mm_saved_auxv: Vec<u64>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) vmas: Vec<VmaEntry>,
    #[prost(int32, optional, tag = "15")]
    pub(crate) dumpable: Option<i32>,
    #[prost(message, repeated, tag = "16")]
    pub(crate) aios: Vec<AioRingEntry>,
    #[prost(bool, optional, tag = "17")]
    pub(crate) thp_disabled: Option<bool>,
}

/// `vma_entry`: one mapping.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct VmaEntry {
    #[prost(uint64, required, tag = "1")]
    pub(crate) start: u64,
    #[prost(uint64, required, tag = "2")]
    pub(crate) end: u64,
    #[prost(uint64, required, tag = "3")]
    pub(crate) pgoff: u64,
    #[prost(uint64, required, tag = "4")]
    pub(crate) shmid: u64,
    #[prost(uint32, required, tag = "5")]
    pub(crate) prot: u32,
    #[prost(uint32, required, tag = "6")]
    pub(crate) flags: u32,
    #[prost(uint32, required, tag = "7")]
    pub(crate) status: u32,
    #[prost(sint64, required, tag = "8")]
    pub(crate) fd: i64,
    #[prost(uint64, optional, tag = "9")]
    pub(crate) madv: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    pub(crate) fdflags: Option<u32>,
}

/// `aio_ring_entry`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AioRingEntry {
    #[prost(uint64, required, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint32, required, tag = "2")]
    pub(crate) nr_req: u32,
    #[prost(uint32, required, tag = "3")]
    pub(crate) ring_len: u32,
}

pub(crate) static MM_ENTRY: Message = Message {
    name: "mm_entry",
    unknown: None,
    fields: &[
        Field::required(1, "mm_start_code", U64),
        Field::required(2, "mm_end_code", U64),
        Field::required(3, "mm_start_data", U64),
        Field::required(4, "mm_end_data", U64),
        Field::required(5, "mm_start_stack", U64),
        Field::required(6, "mm_start_brk", U64),
        Field::required(7, "mm_brk", U64),
        Field::required(8, "mm_arg_start", U64),
        Field::required(9, "mm_arg_end", U64),
        Field::required(10, "mm_env_start", U64),
        Field::required(11, "mm_env_end", U64),
        Field::required(12, "exe_file_id", U32),
        Field::repeated(13, "mm_saved_auxv", U64),
        Field::repeated(14, "vmas", Nested(&VMA_ENTRY)),
        Field::optional(15, "dumpable", I32),
        Field::repeated(16, "aios", Nested(&AIO_RING_ENTRY)),
        Field::optional(17, "thp_disabled", Bool),
    ],
};

static VMA_ENTRY: Message = Message {
    name: "vma_entry",
    unknown: None,
    fields: &[
        Field::required(1, "start", U64),
        Field::required(2, "end", U64),
        Field::required(3, "pgoff", U64),
        Field::required(4, "shmid", U64),
        Field::required(5, "prot", U32),
        Field::required(6, "flags", U32),
        Field::required(7, "status", U32),
        Field::required(8, "fd", U64),
        Field::optional(9, "madv", U64),
        Field::optional(10, "fdflags", U32),
    ],
};

static AIO_RING_ENTRY: Message = Message {
    name: "aio_ring_entry",
    unknown: None,
    fields: &[Field::required(1, "id", U64), Field::required(2, "nr_req", U32), Field::required(3, "ring_len", U32)],
};
