use crate::wire::{Field, Message, Shape::*};

/// `core_entry`, as far as it is read: registers and the like stay where they are.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CoreEntry {
    /// 1 is x86-64, 3 is aarch64.
    #[prost(uint32, required, tag = "1")]
    pub(crate) mtype: u32,
    /// Only in the core of a task's first thread.
    #[prost(message, optional, tag = "3")]
    pub(crate) tc: Option<TaskCoreEntry>,
}

/// `task_core_entry`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TaskCoreEntry {
    #[prost(uint32, required, tag = "1")]
    pub(crate) task_state: u32,
    #[prost(uint32, required, tag = "2")]
    pub(crate) exit_code: u32,
    #[prost(uint32, required, tag = "3")]
    pub(crate) personality: u32,
    #[prost(uint32, required, tag = "4")]
    pub(crate) flags: u32,
    #[prost(uint64, required, tag = "5")]
    pub(crate) blk_sigset: u64,
    #[prost(bytes = "vec", required, tag = "6")]
    pub(crate) comm: Vec<u8>,
}

pub(crate) static CORE_ENTRY: Message = Message {
    name: "core_entry",
    unknown: None,
    fields: &[
        Field::required(1, "mtype", U32),
        Field::optional(2, "thread_info", Bytes),
        Field::optional(3, "tc", Bytes),
        Field::optional(4, "ids", Bytes),
        Field::optional(5, "thread_core", Bytes),
        Field::optional(6, "ti_arm", Bytes),
        Field::optional(8, "ti_aarch64", Bytes),
        Field::optional(9, "ti_ppc64", Bytes),
        Field::optional(10, "ti_s390", Bytes),
        Field::optional(11, "ti_mips", Bytes),
        Field::optional(12, "ti_loongarch64", Bytes),
        Field::optional(13, "ti_riscv64", Bytes),
    ],
};
